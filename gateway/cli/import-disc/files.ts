/** The files of a medium: a folder, or the image of a disc. Nothing outside of it is read, and nothing is executed. */
import { open, stat } from 'node:fs/promises'
import { relative, resolve } from 'node:path'
import { type ByteSource, fileSource } from '../../dicom/byte-source.ts'
import { isIso9660, isoFileSource, isoFiles } from '../../dicom/iso9660.ts'
import { UsageError } from '../command.ts'
import { inputFiles } from '../deidentify/inputs.ts'

/** A file of a medium. */
export interface MediumFile {
  /** Within the medium. */
  readonly name: string
  /** Opens it for `work`. */
  read<T>(work: (source: ByteSource) => Promise<T>): Promise<T>
}

/** All files of a medium; symbolic links inside of it are not followed. @throws UsageError, GatewayError */
export async function* mediumFiles(path: string, cwd: string): AsyncGenerator<MediumFile> {
  const medium = resolve(cwd, path)
  const found = await stat(medium).catch(() => undefined)
  if (found === undefined) throw new UsageError(`${path}: no such folder or disc image`)
  if (found.isDirectory()) {
    for await (const file of inputFiles([medium], cwd)) {
      yield { name: relative(medium, file), read: work => withFile(file, work) }
    }
    return
  }
  await using handle = await open(medium, 'r')
  const image = fileSource(handle, (await handle.stat()).size)
  if (!(await isIso9660(image))) throw new UsageError(`${path}: expected a folder, or the image of a disc (ISO 9660)`)
  for await (const file of isoFiles(image)) {
    yield {
      name: file.path,
      read: async work => await withFile(medium, source => work(isoFileSource(source, file))),
    }
  }
}

async function withFile<T>(path: string, work: (source: ByteSource) => Promise<T>): Promise<T> {
  await using handle = await open(path, 'r')
  return await work(fileSource(handle, (await handle.stat()).size))
}
