/** Where de-identified files are put: whole or not at all, under names that come from the output. */
import { mkdir, open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Certificate } from '../../../policy/deid/certificate.ts'
import { memorySpool, type Spool } from '../../../policy/deid/engine.ts'
import { type ByteSource, fileSource } from '../../dicom/byte-source.ts'

/** Smaller outputs are verified in memory and written once. */
const maxMemoryBytes = 67_108_864
const copyBytes = 1_048_576

/** An output in the making. */
export interface Draft extends AsyncDisposable {
  readonly spool: Spool
  /** Puts the verified output in its place, and says where that is, relative to the folder. */
  keep(output: ByteSource, certificate: Certificate): Promise<string>
}

/** A draft; what is not kept is gone when it is disposed. */
export function openDraft(folder: string, number: number, sourceBytes: number): Draft {
  const path = join(folder, `.hanse-${process.pid}-${number}.part`)
  const isSmall = sourceBytes <= maxMemoryBytes
  let file: Awaited<ReturnType<typeof open>> | undefined
  const write = async (chunks: AsyncIterable<Uint8Array>): Promise<ByteSource> => {
    file ??= await open(path, 'w+', 0o600)
    let size = 0
    for await (const chunk of chunks) {
      for (let at = 0; at < chunk.length; )
        at += (await file.write(chunk, at, chunk.length - at, size + at)).bytesWritten
      size += chunk.length
    }
    // A second writing, of encoded pixels, is shorter than the first.
    await file.truncate(size)
    return fileSource(file, size)
  }
  return {
    spool: isSmall ? memorySpool : write,
    async keep(output, certificate) {
      if (isSmall) await write(chunksOf(output))
      await file?.close()
      file = undefined
      const study = certificate.studyInstanceUid || 'no-study'
      const name = join(study, `${certificate.sopInstanceUid}.dcm`)
      await mkdir(join(folder, study), { recursive: true })
      await rename(path, join(folder, name))
      return name
    },
    async [Symbol.asyncDispose]() {
      await file?.close()
      await rm(path, { force: true })
    },
  }
}

async function* chunksOf(source: ByteSource): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < source.sizeBytes; at += copyBytes) yield await source.read(at, copyBytes)
}
