/** Where de-identified files are put: whole or not at all, under names that come from the output. */
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Certificate } from '../../../policy/deid/certificate.ts'
import { memorySpool, type Spool } from '../../../policy/deid/engine.ts'
import { type ByteSource, fileSource } from '../../dicom/byte-source.ts'

/** Smaller files are read, verified and written in one piece. */
export const maxMemoryBytes = 67_108_864

/** An output in the making. */
export interface Draft extends AsyncDisposable {
  readonly spool: Spool
  /** Puts the verified output in its place, and says where that is, relative to the folder. */
  keep(output: ByteSource, certificate: Certificate): Promise<string>
}

/** What was written in this run: digest by name. */
export type Written = Map<string, string>

/** A draft; what is not kept is gone when it is disposed. */
export function openDraft(folder: string, written: Written, sourceBytes: number): Draft {
  const path = join(folder, `.hanse-${process.pid}.part`)
  const isSmall = sourceBytes <= maxMemoryBytes
  let file: Awaited<ReturnType<typeof open>> | undefined
  let isWritten = false
  const write = async (chunks: AsyncIterable<Uint8Array>): Promise<ByteSource> => {
    file ??= await open(path, 'w+', 0o600)
    isWritten = true
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
      isWritten = true
      // Small files by one call: the thread pool would cost more than the writing.
      if (isSmall) writeFileSync(path, await output.read(0, output.sizeBytes), { mode: 0o600 })
      await file?.close()
      file = undefined
      const name = nameOf(certificate, written)
      if (!written.has(name)) mkdirSync(dirname(join(folder, name)), { recursive: true })
      renameSync(path, join(folder, name))
      isWritten = false
      written.set(name, certificate.outputSha256)
      return name
    },
    async [Symbol.asyncDispose]() {
      await file?.close()
      if (isWritten) rmSync(path, { force: true })
    },
  }
}

/** By the new UIDs; a second instance of the same UIDs with other content does not take the first one's place. */
function nameOf({ studyInstanceUid, sopInstanceUid, outputSha256 }: Certificate, written: Written): string {
  const usual = join(studyInstanceUid || 'no-study', `${sopInstanceUid}.dcm`)
  const taken = written.get(usual)
  if (taken === undefined || taken === outputSha256) return usual
  return join(dirname(usual), `${sopInstanceUid}-${outputSha256.slice(0, 12)}.dcm`)
}
