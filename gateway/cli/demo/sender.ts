/** The demo's modality: sends a folder of DICOM files, or the synthetic study, to a hospital over C-STORE. */
import { createHash } from 'node:crypto'
import { open, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { bufferSource, fileSource } from '../../dicom/byte-source.ts'
import { readInstanceHeader } from '../../dicom/instance-header.ts'
import { type OutgoingInstance, storeScu } from '../../dimse/scu.ts'
import { isGatewayError } from '../../errors.ts'
import type { Io } from '../command.ts'
import { sampleStudy } from '../sample-study.ts'
import { formatBytes } from '../table.ts'
import type { SentInstance } from './compare.ts'
import type { Hospital } from './hospital.ts'
import { endProgress, progress } from './progress.ts'

/** An instance to send, with its size. */
export interface DemoInstance extends OutgoingInstance {
  readonly sizeBytes: number
}

/** All DICOM instances below a folder, or the synthetic study. Files that are none are counted. */
export async function demoInstances(
  folder: string | undefined,
  slices: number,
): Promise<{ instances: DemoInstance[]; skipped: number }> {
  if (folder === undefined) {
    const instances = [...sampleStudy(slices)].map(({ bytes, datasetOffset, ...ids }) => ({
      ...ids,
      sizeBytes: bytes.length,
      open: () => ({ source: bufferSource(bytes), datasetOffset }),
    }))
    return { instances, skipped: 0 }
  }
  const instances: DemoInstance[] = []
  let skipped = 0
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const instance = await fromFile(join(entry.parentPath, entry.name))
    if (instance) instances.push(instance)
    else skipped += 1
  }
  return { instances, skipped }
}

async function fromFile(path: string): Promise<DemoInstance | undefined> {
  const { size } = await stat(path)
  const file = await open(path, 'r')
  try {
    const header = await readInstanceHeader(fileSource(file, size), { missingUids: 'derive' })
    return {
      sopClassUid: header.sopClassUid,
      sopInstanceUid: header.sopInstanceUid,
      transferSyntaxUid: header.transferSyntaxUid,
      sizeBytes: size,
      open: async () => {
        const handle = await open(path, 'r')
        return { source: fileSource(handle, size), datasetOffset: header.datasetOffset, close: () => handle.close() }
      },
    }
  } catch (error) {
    if (isGatewayError(error)) return undefined
    throw error
  } finally {
    await file.close()
  }
}

/**
 * Sends everything; what a later comparison needs of each is returned.
 *
 * @throws Error when an instance is not taken
 */
export async function sendStudy(
  to: Hospital,
  instances: readonly DemoInstance[],
  io: Io,
  totalBytes: number,
): Promise<SentInstance[]> {
  const sent: SentInstance[] = []
  let done = 0
  const begin = Date.now()
  await storeScu(
    { host: '127.0.0.1', port: to.ports.dicom, callingAe: 'DEMO_CT', calledAe: to.aeTitle, signal: io.signal },
    instances,
    async (instance, result) => {
      if (result.kind !== 'responded' || result.status !== 0) {
        throw new Error(`${instance.sopInstanceUid} was not taken: ${JSON.stringify(result)}`)
      }
      sent.push({ sopInstanceUid: instance.sopInstanceUid, datasetSha256: await digestOf(instance), held: false })
      done += instance.sizeBytes
      if (io.interactive)
        progress(io, `${sent.length} of ${instances.length}, ${formatBytes(done)} of ${formatBytes(totalBytes)}`)
    },
  )
  endProgress(io)
  const seconds = (Date.now() - begin) / 1000
  io.print(`   ${sent.length} stored, durable, in ${seconds.toFixed(1)} s`)
  return markHeld(sent)
}

/** SHA-256 of the data set as it was sent. */
async function digestOf(instance: DemoInstance): Promise<string> {
  const { source, datasetOffset, close } = await instance.open()
  const hash = createHash('sha256')
  for (let offset = datasetOffset; offset < source.sizeBytes; ) {
    const block = await source.read(offset, 1024 * 1024)
    if (block.length === 0) break
    hash.update(block)
    offset += block.length
  }
  await close?.()
  return hash.digest('hex')
}

/** Files of one folder may share a SOP Instance UID: all but the first are held at A as conflicts. */
function markHeld(sent: readonly SentInstance[]): SentInstance[] {
  const first = new Map<string, string>()
  return sent.map(instance => {
    const known = first.get(instance.sopInstanceUid)
    if (known === undefined) first.set(instance.sopInstanceUid, instance.datasetSha256)
    return { ...instance, held: known !== undefined && known !== instance.datasetSha256 }
  })
}
