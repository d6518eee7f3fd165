/** What an Orthanc holds: the files of a running one, or of its storage folder. */
import { createHash } from 'node:crypto'
import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { createInflate } from 'node:zlib'
import { GatewayError } from '../errors.ts'
import { callRest, type RestTarget, readJson } from './rest-client.ts'

/** One DICOM file. */
export interface SourceFile {
  /** Orthanc's id of the instance, or of the file in the storage folder. */
  readonly id: string
  /** Its bytes; throws at the end when they are not what Orthanc says they are. */
  open(signal: AbortSignal): Promise<AsyncIterable<Uint8Array>>
}

/** Where files come from. */
export interface OrthancSource {
  /** Ids, some hundred at a time; what is added meanwhile may be missed. */
  pages(signal: AbortSignal): AsyncIterable<readonly string[]>
  file(id: string): SourceFile
  close(): void
}

/** Ids that are asked for at a time. */
export const pageSize = 500

/** A running Orthanc, by its REST API. */
export function restSource(target: RestTarget): OrthancSource {
  return {
    pages: signal => idPages(target, 'instances', signal),
    file: id => ({
      id,
      async open(signal) {
        const path = `/instances/${id}/attachments/dicom`
        const said = await callRest(target, { method: 'GET', path: `${path}/md5` }, signal)
        const md5 = await md5In(said)
        return verified(await bytesOf(target, `/instances/${id}/file`, signal), md5)
      },
    }),
    close: () => undefined,
  }
}

/** The ids of all resources of a level, page by page. @throws GatewayError PEER_PROTOCOL, PEER_UNREACHABLE */
export async function* idPages(
  target: RestTarget,
  level: string,
  signal: AbortSignal,
): AsyncGenerator<readonly string[]> {
  for (let since = 0; ; since += pageSize) {
    const path = `/${level}?since=${since}&limit=${pageSize}`
    const page = await readJson(await callRest(target, { method: 'GET', path }, signal), 'Orthanc')
    if (!Array.isArray(page)) throw new GatewayError('PEER_PROTOCOL', `Orthanc answered no list of ${level}`)
    const ids = page.filter((id: unknown): id is string => typeof id === 'string' && orthancId.test(id))
    if (ids.length > 0) yield ids
    if (page.length < pageSize) return
  }
}

/** The bytes of an answer. @throws GatewayError NOT_FOUND, STORAGE_CORRUPT, REMOTE_STATUS */
export async function bytesOf(
  target: RestTarget,
  path: string,
  signal: AbortSignal,
): Promise<AsyncIterable<Uint8Array>> {
  const answer = await callRest(target, { method: 'GET', path }, signal)
  if (answer.statusCode === 200) return answer
  answer.destroy()
  if (answer.statusCode === 404) throw new GatewayError('NOT_FOUND', 'Orthanc does not have the file')
  // What it says of a file that its storage has lost.
  if (answer.statusCode === 500) throw new GatewayError('STORAGE_CORRUPT', 'Orthanc cannot read the file')
  throw new GatewayError('REMOTE_STATUS', `Orthanc answered HTTP status ${answer.statusCode}`)
}

/** What Orthanc calls resources. */
export const orthancId = /^[0-9a-f]{8}(-[0-9a-f]{8}){4}$/
/** As Orthanc writes it. */
export const md5Pattern = /^[0-9a-f]{32}$/

/** The MD5 that Orthanc answers; of a compressed attachment that of the content. Undefined where it keeps none. */
export async function md5In(answer: AsyncIterable<Uint8Array> & { readonly statusCode?: number | undefined }) {
  let text = ''
  for await (const chunk of answer) {
    if (text.length < 64) text += Buffer.from(chunk).toString('latin1')
  }
  return answer.statusCode === 200 && md5Pattern.test(text) ? text : undefined
}

/** The same bytes. @throws GatewayError STORAGE_CORRUPT at the end when they are not what the MD5 says */
export async function* verified(bytes: AsyncIterable<Uint8Array>, md5: string | undefined): AsyncGenerator<Uint8Array> {
  const hash = createHash('md5')
  for await (const chunk of bytes) {
    hash.update(chunk)
    yield chunk
  }
  if (md5 !== undefined && hash.digest('hex') !== md5)
    throw new GatewayError('STORAGE_CORRUPT', 'the MD5 of a file is not what Orthanc says')
}

/** Name of a file in the storage folder. */
export const uuidName = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

/**
 * The storage folder of an Orthanc that is stopped: files `ab/cd/abcd…`, plain or compressed by zlib behind their size.
 * Its index (SQLite) lies beside them and says which files are instances: others begin like DICOM too.
 *
 * @throws GatewayError BAD_REQUEST when there is no index, or Orthanc is running
 */
export function storageSource(folder: string): OrthancSource {
  const index = openIndex(join(folder, 'index'))
  const page = index.prepare('select uuid from AttachedFiles where fileType = 1 and uuid > ? order by uuid limit ?')
  const one = index.prepare(
    'select compressionType, uncompressedSize, uncompressedMD5 from AttachedFiles where fileType = 1 and uuid = ?',
  )
  return {
    async *pages(signal) {
      let last = ''
      for (;;) {
        signal.throwIfAborted()
        const ids = page.all(last, pageSize).flatMap(({ uuid }) => (typeof uuid === 'string' ? [uuid] : []))
        if (ids.length === 0) return
        last = ids.at(-1) ?? ''
        yield ids.filter(id => uuidName.test(id))
      }
    },
    file: id => ({ id, open: async () => await openStored(folder, id, one.get(id) ?? {}) }),
    close: () => index.close(),
  }
}

/** The index of a storage folder, for reading. @throws GatewayError BAD_REQUEST */
export function openIndex(path: string): DatabaseSync {
  try {
    const index = new DatabaseSync(path, { readOnly: true })
    index.prepare('select count(*) from AttachedFiles').get()
    return index
  } catch (cause) {
    const message = 'the index of the storage folder cannot be read: is Orthanc stopped, and its index in this folder?'
    throw new GatewayError('BAD_REQUEST', message, { cause })
  }
}

const sizePrefixBytes = 8

/** A row of the index's table of files: what it says of one. */
export type StoredFile = Readonly<Record<string, unknown>>

/** A file of the storage folder, uncompressed. @throws GatewayError STORAGE_CORRUPT, also at the end of its bytes */
export async function openStored(folder: string, id: string, row: StoredFile): Promise<AsyncIterable<Uint8Array>> {
  const { compressionType, uncompressedSize, uncompressedMD5: md5 } = row
  const path = join(folder, id.slice(0, 2), id.slice(2, 4), id)
  const bytes = await readStored(path, compressionType === 2 ? Number(uncompressedSize) : undefined)
  return verified(bytes, typeof md5 === 'string' && md5Pattern.test(md5) ? md5 : undefined)
}

/** @param inflatedBytes  of a compressed file */
async function readStored(path: string, inflatedBytes: number | undefined): Promise<AsyncIterable<Uint8Array>> {
  let handle: FileHandle
  try {
    handle = await open(path, 'r')
  } catch (cause) {
    throw new GatewayError('STORAGE_CORRUPT', 'a file that the index names is missing', { cause })
  }
  if (inflatedBytes === undefined) return handle.createReadStream({ start: 0 })
  const source = handle.createReadStream({ start: sizePrefixBytes })
  const inflate = createInflate()
  source.once('error', error => inflate.destroy(error))
  return bounded(source.pipe(inflate), inflatedBytes)
}

/** What inflates beyond the size that the index says is not read on. */
async function* bounded(inflated: AsyncIterable<Uint8Array>, expected: number): AsyncGenerator<Uint8Array> {
  let seen = 0
  try {
    for await (const chunk of inflated) {
      seen += chunk.length
      if (seen > expected) break
      yield chunk
    }
  } catch (cause) {
    throw new GatewayError('STORAGE_CORRUPT', 'a compressed file cannot be read', { cause })
  }
  if (seen !== expected) throw new GatewayError('STORAGE_CORRUPT', 'a compressed file has not the size of the index')
}
