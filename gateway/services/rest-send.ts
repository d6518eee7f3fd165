/** Instances to a server by its REST API: now, or as a transfer's carrier. */
import { Readable } from 'node:stream'
import { createGzip } from 'node:zlib'
import { isObject } from '../decode.ts'
import type { ByteSource } from '../dicom/byte-source.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { ArchiveWire } from './archive.ts'
import { callRest, type RestTarget, readJson } from './rest-client.ts'

const readBytes = 1024 * 1024

/**
 * Sends one Part 10 file; resolves with its answer, and the length of the body, when it is stored there.
 *
 * @throws GatewayError PEER_UNREACHABLE, PEER_PROTOCOL, and REMOTE_STATUS when it was not stored
 */
export async function sendFileTo(
  target: RestTarget,
  file: ByteSource,
  options: { readonly compress: boolean },
  signal: AbortSignal,
): Promise<{ readonly answer: Readonly<Record<string, unknown>>; readonly sentBytes: number }> {
  const plain = Readable.from(blocksOf(file), { objectMode: false })
  const gzip = options.compress ? createGzip({ level: 1 }) : undefined
  let sentBytes = gzip ? 0 : file.sizeBytes
  gzip?.on('data', (chunk: Buffer) => {
    sentBytes += chunk.length
  })
  gzip?.pause()
  const body = gzip ? plain.pipe(gzip) : plain
  plain.once('error', error => body.destroy(error))
  const answer = await callRest(
    target,
    {
      method: 'POST',
      path: '/instances',
      body,
      ...(!options.compress && { contentLength: file.sizeBytes }),
      headers: { 'content-type': 'application/dicom', ...(options.compress && { 'content-encoding': 'gzip' }) },
    },
    signal,
  )
  const said = await readJson(answer, target.name)
  const status = isObject(said) ? said['Status'] : undefined
  if (!isObject(said) || (status !== 'Success' && status !== 'AlreadyStored')) {
    throw new GatewayError('REMOTE_STATUS', `${target.name} has not stored the instance`)
  }
  return { answer: said, sentBytes }
}

async function* blocksOf(file: ByteSource): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < file.sizeBytes; ) {
    const block = await file.read(at, Math.min(readBytes, file.sizeBytes - at))
    if (block.length === 0) throw new GatewayError('STORAGE_IO', 'a file ended too early')
    at += block.length
    yield block
  }
}

/** What stands before a REST peer's name where transfers name modalities. */
const prefix = 'peer:'

/** The name of a REST peer as a destination of transfers and of the policy, such as `peer:clinic`. */
export const destinationOfPeer = (name: string): string => `${prefix}${name}`

/** The REST peer that a destination names; undefined for a modality. */
export const peerOfDestination = (destination: string): string | undefined =>
  destination.startsWith(prefix) ? destination.slice(prefix.length) : undefined

/** Carries transfers to REST peers by their API, all others by `dicom`. */
export function withRestPeers(dicom: ArchiveWire, target: (name: string) => RestTarget): ArchiveWire {
  return {
    async send(destination, items, onResult, signals) {
      const name = peerOfDestination(destination)
      if (name === undefined) return await dicom.send(destination, items, onResult, signals)
      const to = target(name)
      for (const item of items) {
        if (signals.stop.aborted) return
        const dataset = await item.open()
        try {
          await sendFileTo(to, dataset.source, { compress: false }, signals.abort)
          await onResult(item, { kind: 'taken' })
        } catch (error) {
          if (!isGatewayError(error, 'REMOTE_STATUS')) throw error
          // 4xx and other answers speak of the instance, 5xx and too many requests may pass.
          const status = Number(error.context['status'] ?? 400)
          const isFinal = status < 500 && status !== 401 && status !== 403 && status !== 429
          await onResult(item, { kind: 'failed', problem: `HTTP_${status}`, isFinal })
        } finally {
          await dataset.close()
        }
      }
    },
    count: async (destination, studyInstanceUid, signal) =>
      peerOfDestination(destination) === undefined
        ? await dicom.count(destination, studyInstanceUid, signal)
        : undefined,
  }
}
