/** Compares what arrived with what was sent, by the digest of each data set. */
import { createHash } from 'node:crypto'
import { isObject } from '../../decode.ts'
import { datasetOffset } from '../../services/upload.ts'
import type { Hospital } from './hospital.ts'

/** An instance as the demo's modality sent it. */
export interface SentInstance {
  readonly sopInstanceUid: string
  /** SHA-256 of the data set, hex. */
  readonly datasetSha256: string
  /** Held at the first hospital because another instance has its UID. */
  readonly held: boolean
}

/** Fetches every instance of a hospital and counts those whose data set is the one that was sent. */
export async function compareInstances(
  hospital: Hospital,
  sent: readonly SentInstance[],
): Promise<{ identical: number; held: number }> {
  const wanted = new Map(sent.filter(instance => !instance.held).map(i => [i.sopInstanceUid, i.datasetSha256]))
  const arrived = new Set<string>()
  const pageSize = 500
  for (let since = 0; ; since += pageSize) {
    const answer: unknown = await (
      await fetch(`${hospital.url}/instances?expand&since=${since}&limit=${pageSize}`)
    ).json()
    const page = Array.isArray(answer) ? answer.filter(isObject) : []
    for (const instance of page) {
      const tags = isObject(instance['MainDicomTags']) ? instance['MainDicomTags'] : {}
      const uid = String(tags['SOPInstanceUID'])
      if (wanted.has(uid) && (await digestAt(hospital, String(instance['ID']))) === wanted.get(uid)) arrived.add(uid)
    }
    if (page.length < pageSize) break
  }
  return {
    identical: sent.filter(instance => !instance.held && arrived.has(instance.sopInstanceUid)).length,
    held: sent.filter(instance => instance.held).length,
  }
}

async function digestAt(hospital: Hospital, id: string): Promise<string> {
  const response = await fetch(`${hospital.url}/instances/${id}/file`)
  const bytes = new Uint8Array(await response.arrayBuffer())
  return createHash('sha256')
    .update(bytes.subarray(datasetOffset(bytes) ?? 0))
    .digest('hex')
}
