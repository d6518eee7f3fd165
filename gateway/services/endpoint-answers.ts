/** What recipients say of deliveries: by receipt files at the endpoint, or to a person who hands their confirmation in. */
import { Readable } from 'node:stream'
import type { FileStore } from '../../endpoints/file-store.ts'
import { openFileStore } from '../../endpoints/open-place.ts'
import { folderOf } from '../../endpoints/paths.ts'
import { isObject } from '../decode.ts'
import type { Blobs } from '../store/blobs.ts'
import { type AcknowledgementPattern, isPlace } from './endpoint.ts'
import type { Acknowledgement } from './endpoint-transfer-rows.ts'
import type { OpenedEndpoint } from './endpoints.ts'

/** What keeping an answer needs. */
export interface AcknowledgementParts {
  readonly blobs: Pick<Blobs, 'stageFrom' | 'commit'>
}

/** Most bytes of a receipt file, and of its reason. */
const mostBytes = 65_536
const mostReason = 500

/**
 * Looks for the receipt file of a delivery; undefined while there is none, or none that says anything.
 *
 * @throws GatewayError ENDPOINT_*, STORAGE_FULL, STORAGE_IO
 */
export async function findAnswer(
  parts: AcknowledgementParts,
  { endpoint, secrets }: OpenedEndpoint,
  about: { readonly transfer: string; readonly subject: string | undefined },
  signal: AbortSignal,
): Promise<Acknowledgement | undefined> {
  const { acknowledgement, settings, name } = endpoint
  if (!acknowledgement || !isPlace(settings)) return undefined
  const store = await openFileStore(settings, secrets, signal)
  try {
    const path = await findReceipt(store, pathOf(acknowledgement.path, about), signal)
    if (path === undefined) return undefined
    const bytes = await readBounded(store, path, mostBytes, signal)
    const said = bytes && readAnswer(bytes, acknowledgement)
    if (!said) return undefined
    const kept = await keepFile(parts, bytes)
    return { ...said, ...kept, fileName: path.slice(path.lastIndexOf('/') + 1), takenBy: `endpoint:${name}` }
  } finally {
    await store.close()
  }
}

/** Keeps the bytes of an answer; durable when it returns. @throws GatewayError STORAGE_FULL, STORAGE_IO */
export async function keepFile(
  { blobs }: AcknowledgementParts,
  bytes: Uint8Array,
): Promise<Pick<Acknowledgement, 'fileSha256' | 'sizeBytes'>> {
  const staged = await blobs.stageFrom(Readable.from([bytes]), { expectedBytes: bytes.length })
  await blobs.commit(staged)
  return { fileSha256: staged.fileSha256, sizeBytes: staged.sizeBytes }
}

/** What a receipt says: JSON with `status` and `reason`, or a line that begins with one of the words. */
export function readAnswer(
  bytes: Uint8Array,
  { accepted, rejected }: Pick<AcknowledgementPattern, 'accepted' | 'rejected'>,
): Pick<Acknowledgement, 'outcome' | 'reason'> | undefined {
  const text = new TextDecoder('utf-8').decode(bytes)
  const json = parseJson(text)
  const lines = json
    ? [`${String(json['status'] ?? '')}: ${String(json['reason'] ?? '')}`]
    : text.split(/\r?\n/, 100).map(line => line.trim())
  for (const line of lines) {
    for (const [outcome, words] of [
      ['rejected', rejected],
      ['accepted', accepted],
    ] as const) {
      const word = words.find(each => beginsWith(line, each))
      if (word === undefined) continue
      const reason = outcome === 'accepted' ? '' : printable(line.slice(word.length).replace(/^[\s:;,-]+/, ''))
      return { outcome, reason }
    }
  }
  return undefined
}

const beginsWith = (line: string, word: string): boolean =>
  line.toLowerCase().startsWith(word.toLowerCase()) && !/^\p{L}/u.test(line.slice(word.length))

/** As it may stand in states and logs. */
const printable = (text: string): string => text.replaceAll(/\p{Cc}/gu, ' ').slice(0, mostReason)

function parseJson(text: string): Record<string, unknown> | undefined {
  try {
    const parsed: unknown = JSON.parse(text)
    return isObject(parsed) ? parsed : undefined
  } catch {
    return undefined
  }
}

function pathOf(pattern: string, { transfer, subject }: { transfer: string; subject: string | undefined }): string {
  const safe = (subject ?? '').replaceAll(/[^A-Za-z0-9._-]/g, '_')
  return pattern.replaceAll('{transfer}', transfer).replaceAll('{subject}', safe)
}

/** The file itself, or the first of those that the `*` stands for. */
async function findReceipt(store: FileStore, path: string, signal: AbortSignal): Promise<string | undefined> {
  if (!path.includes('*')) return (await store.stat(path, signal))?.kind === 'file' ? path : undefined
  const folder = folderOf(path)
  const [before = '', after = ''] = path.slice(folder === '' ? 0 : folder.length + 1).split('*')
  const entries = await store.list(folder, signal)
  const found = entries
    .filter(({ kind, name }) => kind === 'file' && name.length >= before.length + after.length)
    .filter(({ name }) => name.startsWith(before) && name.endsWith(after))
    .sort((a, b) => (a.name < b.name ? -1 : 1))[0]
  return found && (folder === '' ? found.name : `${folder}/${found.name}`)
}

/** A small file; undefined when it is larger. @throws GatewayError ENDPOINT_* */
export async function readBounded(
  store: FileStore,
  path: string,
  mostBytes: number,
  signal: AbortSignal,
): Promise<Buffer | undefined> {
  const chunks: Buffer[] = []
  let bytes = 0
  const source = await store.get(path, 0, signal)
  for await (const chunk of source) {
    bytes += chunk.length
    if (bytes > mostBytes) {
      source.destroy()
      return undefined
    }
    chunks.push(Buffer.from(chunk))
  }
  return Buffer.concat(chunks)
}
