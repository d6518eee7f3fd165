/** The demo's modality: sends a folder of DICOM files, or the synthetic study, to a hospital over C-STORE. */
import { createHash } from 'node:crypto'
import { open, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { bufferSource, fileSource } from '../../dicom/byte-source.ts'
import { readInstanceHeader } from '../../dicom/instance-header.ts'
import { type OutgoingInstance, type StoreResult, storeScu } from '../../dimse/scu.ts'
import { isGatewayError } from '../../errors.ts'
import { type Io, UsageError } from '../command.ts'
import { sampleStudy } from '../sample-study.ts'
import { formatBytes } from '../table.ts'
import type { SentInstance } from './compare.ts'
import type { Hospital } from './hospital.ts'
import { endProgress, progress } from './progress.ts'

/** An instance to send, with its size. */
export interface DemoInstance extends OutgoingInstance {
  readonly sizeBytes: number
}

/**
 * All DICOM instances below a folder, or the synthetic study. Files that are none are counted.
 *
 * @throws UsageError when the folder cannot be read, or has none
 */
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
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch((error: unknown) => {
    throw new UsageError(`cannot read the folder ${folder}: ${error instanceof Error ? error.message : String(error)}`)
  })
  for (const entry of entries) {
    if (!entry.isFile()) continue
    const instance = await fromFile(join(entry.parentPath, entry.name))
    if (instance) instances.push(instance)
    else skipped += 1
  }
  if (instances.length === 0) throw new UsageError(`there is no DICOM file in ${folder}`)
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

/** What was sent, apart by what the hospital holds of it. */
export interface SentStudy {
  /** The first of each SOP Instance UID: stored. */
  readonly stored: readonly SentInstance[]
  /** Later ones with other bytes: held at the hospital as conflicts. */
  readonly held: readonly SentInstance[]
  /** Not taken, with the reason. */
  readonly refused: readonly string[]
}

/** Sends everything; what a later comparison needs of each is returned. */
export async function sendStudy(
  to: Hospital,
  instances: readonly DemoInstance[],
  io: Io,
  totalBytes: number,
): Promise<SentStudy> {
  const sent: SentInstance[] = []
  const refused: string[] = []
  let doneBytes = 0
  let count = 0
  const begin = Date.now()
  await storeScu(
    { host: '127.0.0.1', port: to.ports.dicom, callingAe: 'DEMO_CT', calledAe: to.aeTitle, signal: io.signal },
    instances,
    async (instance, result) => {
      count += 1
      doneBytes += instance.sizeBytes
      const { sopInstanceUid } = instance
      const refusal = refusalOf(result)
      if (refusal === undefined) sent.push({ sopInstanceUid, datasetSha256: await digestOf(instance) })
      else refused.push(`${sopInstanceUid}: ${refusal}`)
      if (io.interactive)
        progress(io, `${count} of ${instances.length}, ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`)
    },
  )
  endProgress(io)
  const seconds = (Date.now() - begin) / 1000
  io.print(`     ${sent.length} received, each durable before it was acknowledged, in ${seconds.toFixed(1)} s`)
  return { ...divide(sent), refused }
}

function refusalOf(result: StoreResult): string | undefined {
  if (result.kind === 'responded') {
    const status = `0x${result.status.toString(16).toUpperCase().padStart(4, '0')}`
    return result.status === 0 ? undefined : `status ${status} ${result.comment ?? ''}`.trimEnd()
  }
  if (result.kind === 'not-accepted') return 'its SOP class and transfer syntax were not accepted'
  return `it cannot be read: ${result.error instanceof Error ? result.error.message : String(result.error)}`
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

/** Files of one folder may share a SOP Instance UID; equal ones are one. */
function divide(sent: readonly SentInstance[]): { stored: SentInstance[]; held: SentInstance[] } {
  const stored = new Map<string, SentInstance>()
  const held = new Map<string, SentInstance>()
  for (const instance of sent) {
    const first = stored.get(instance.sopInstanceUid)
    if (first === undefined) stored.set(instance.sopInstanceUid, instance)
    else if (first.datasetSha256 !== instance.datasetSha256) held.set(instance.datasetSha256, instance)
  }
  return { stored: [...stored.values()], held: [...held.values()] }
}
