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
}

/** What became of the instances that were sent. */
export interface Comparison {
  /** Stored at the hospital, byte for byte. */
  readonly identical: number
  /** Its SOP Instance UIDs are known there with other bytes, or not at all. */
  readonly different: readonly string[]
}

const pageSize = 500

/** Reads back every instance of a hospital. */
export async function compareInstances(hospital: Hospital, sent: readonly SentInstance[]): Promise<Comparison> {
  const stored = new Map<string, string>()
  for (let since = 0; ; since += pageSize) {
    const answer = await hospital.get(`/instances?expand&since=${since}&limit=${pageSize}`)
    const page: unknown = await answer.json()
    const instances = Array.isArray(page) ? page.filter(isObject) : []
    for (const instance of instances) {
      const tags = isObject(instance['MainDicomTags']) ? instance['MainDicomTags'] : {}
      const digest = await datasetDigest(hospital, `/instances/${String(instance['ID'])}/file`)
      stored.set(String(tags['SOPInstanceUID']), digest)
    }
    if (instances.length < pageSize) break
  }
  const different = sent.filter(({ sopInstanceUid, datasetSha256 }) => stored.get(sopInstanceUid) !== datasetSha256)
  return { identical: sent.length - different.length, different: different.map(instance => instance.sopInstanceUid) }
}

/** SHA-256 of the data set of a stored file, hex; files of any size are streamed. */
export async function datasetDigest(hospital: Hospital, path: string): Promise<string> {
  const { body } = await hospital.get(path)
  const hash = createHash('sha256')
  let head: Buffer | undefined = Buffer.alloc(0)
  for await (const chunk of body ?? []) {
    if (head === undefined) {
      hash.update(chunk)
      continue
    }
    head = Buffer.concat([head, chunk])
    const offset = datasetOffset(head)
    if (offset === undefined) continue
    hash.update(head.subarray(offset))
    head = undefined
  }
  return hash.digest('hex')
}
