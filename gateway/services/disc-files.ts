/** The files of a medium: a folder, or the image of a disc. Nothing outside of it is read, and nothing is executed. */
import { constants } from 'node:fs'
import { lstat, open, opendir, realpath, stat } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { type ByteSource, fileSource } from '../dicom/byte-source.ts'
import { isIso9660, isoFileSource, isoFiles } from '../dicom/iso9660.ts'
import { GatewayError } from '../errors.ts'

/** A file of a medium. */
export interface MediumFile {
  /** Within the medium. */
  readonly name: string
  /** Opens it for `work`. */
  read<T>(work: (source: ByteSource) => Promise<T>): Promise<T>
}

const mostFiles = 1_000_000
const mostDepth = 32

/**
 * All files of a medium; symbolic links inside of it are not followed.
 *
 * @param path  absolute
 * @throws GatewayError NOT_FOUND, BAD_REQUEST when it is neither a folder nor a disc image, DICOM_LIMIT
 */
export async function* mediumFiles(path: string): AsyncGenerator<MediumFile> {
  const medium = await realpath(path).catch(() => undefined)
  const found = medium === undefined ? undefined : await stat(medium).catch(() => undefined)
  if (medium === undefined || found === undefined) throw new GatewayError('NOT_FOUND', 'no such folder or disc image')
  if (found.isDirectory()) {
    let seen = 0
    for await (const path of filesBelow(medium, 0)) {
      if (++seen > mostFiles) throw new GatewayError('DICOM_LIMIT', 'the medium has more files than allowed')
      yield { name: relative(medium, path), read: work => withFile(path, work) }
    }
    return
  }
  if (!found.isFile()) throw new GatewayError('BAD_REQUEST', 'expected a folder, or the image of a disc (ISO 9660)')
  await using handle = await open(medium, 'r')
  const image = fileSource(handle, (await handle.stat()).size)
  if (!(await isIso9660(image))) {
    throw new GatewayError('BAD_REQUEST', 'expected a folder, or the image of a disc (ISO 9660)')
  }
  for await (const file of isoFiles(image)) {
    yield {
      name: file.path,
      read: async work => await withFile(medium, source => work(isoFileSource(source, file))),
    }
  }
}

async function* filesBelow(folder: string, depth: number): AsyncGenerator<string> {
  if (depth > mostDepth) throw new GatewayError('DICOM_LIMIT', 'the folders of the medium are too deep')
  const names: string[] = []
  for await (const entry of await opendir(folder)) names.push(entry.name)
  for (const name of names.sort()) {
    const path = join(folder, name)
    const found = await lstat(path)
    if (found.isDirectory()) yield* filesBelow(path, depth + 1)
    else if (found.isFile()) yield path
  }
}

async function withFile<T>(path: string, work: (source: ByteSource) => Promise<T>): Promise<T> {
  // Should a link have taken its place since.
  await using handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW)
  return await work(fileSource(handle, (await handle.stat()).size))
}
