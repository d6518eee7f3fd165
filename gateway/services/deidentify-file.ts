/** De-identifies one file into another: read, run through the engine, written whole or not at all. */
import { closeSync, fdatasyncSync, fstatSync, openSync, readSync, rmSync, writeSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import type { Certificate } from '../../policy/deid/certificate.ts'
import { type Deidentifier, memorySpool, type PixelCodec, type Spool } from '../../policy/deid/engine.ts'
import type { Held } from '../../policy/deid/hold.ts'
import type { Identifiers } from '../../policy/deid/identifiers.ts'
import type { Subject } from '../../policy/deid/project.ts'
import { type ByteSource, bufferSource, fileSource } from '../dicom/byte-source.ts'
import { findLayout } from '../dicom/part10-layout.ts'
import type { GatewayError } from '../errors.ts'
import { storageError } from '../store/io-error.ts'

/** A file to be de-identified. */
export interface DeidentifyTask {
  readonly sourcePath: string
  /** SHA-256 that the source must have, hex; other bytes are held. */
  readonly expectedSha256?: string
  /** Written with mode 0600; nothing is left there unless it is done. */
  readonly targetPath: string
  /** The target's bytes are durable when it is done. */
  readonly isDurable: boolean
  /** The subject, where it is known better than the instance says. */
  readonly subject?: Subject
}

/** The target is written and verified. */
export interface FileDone {
  readonly kind: 'done'
  readonly certificate: Certificate
  /** Of the output. */
  readonly transferSyntaxUid: string
}

/** The disk failed, which says nothing of the instance. */
export interface FileFailed {
  readonly kind: 'failed'
  readonly error: GatewayError
}

export type FileOutcome = FileDone | FileFailed | Held

/** Smaller files are read, verified and written in one piece. */
export const maxMemoryBytes = 67_108_864

/** De-identifies one file; never throws. `known` are the identifiers of all instances of its study. */
export async function deidentifyFile(
  engine: Deidentifier,
  task: DeidentifyTask,
  known: Identifiers | undefined,
  codec: PixelCodec | undefined = undefined,
): Promise<FileOutcome> {
  using file = openInput(task.sourcePath)
  if (file === undefined) return unreadable('the stored bytes cannot be opened')
  await using target = new Target(task, file.source.sizeBytes)
  try {
    const { sizeBytes } = file.source
    const source = sizeBytes <= maxMemoryBytes ? bufferSource(await file.source.read(0, sizeBytes)) : file.source
    const outcome = await engine.run(source, target.spool, {
      ...(known !== undefined && { knownOfStudy: () => known }),
      ...(task.subject !== undefined && { subject: task.subject }),
      ...(codec !== undefined && { codec }),
    })
    if (target.failure !== undefined) return { kind: 'failed', error: target.failure }
    if (outcome.kind === 'held') return outcome
    const { certificate, output } = outcome
    if (task.expectedSha256 !== undefined && certificate.sourceSha256 !== task.expectedSha256)
      return unreadable('the stored bytes are not what was received')
    const { transferSyntaxUid } = await findLayout(output)
    await target.keep(output)
    return { kind: 'done', certificate, transferSyntaxUid }
  } catch (error) {
    return { kind: 'failed', error: storageError(error, 'writing a de-identified instance') }
  }
}

function unreadable(reason: string): Held {
  return { kind: 'held', code: 'unreadable', reason, evidence: [], isAlert: true }
}

/**
 * An open file, or undefined when it cannot be opened; reads do not go through the thread pool, which costs more than
 * reading a header.
 */
export function openInput(path: string): (Disposable & { readonly source: ByteSource }) | undefined {
  let file: number
  try {
    file = openSync(path, 'r')
  } catch {
    return undefined
  }
  const sizeBytes = fstatSync(file).size
  return {
    source: {
      sizeBytes,
      async read(offset, length) {
        const bytes = Buffer.allocUnsafeSlow(Math.max(0, Math.min(length, sizeBytes - offset)))
        let filled = 0
        while (filled < bytes.length) {
          const count = readSync(file, bytes, filled, bytes.length - filled, offset + filled)
          if (count === 0) break
          filled += count
        }
        return bytes.subarray(0, filled)
      },
    },
    [Symbol.dispose]: () => closeSync(file),
  }
}

/** The output while it is made. */
class Target implements AsyncDisposable {
  readonly spool: Spool
  /** What went wrong with the disk: the engine holds what it cannot write, but that is no fault of the instance. */
  failure: GatewayError | undefined
  readonly #path: string
  readonly #isDurable: boolean
  #file: FileHandle | undefined
  #isKept = false
  #isWritten = false

  constructor({ targetPath, isDurable }: DeidentifyTask, sourceBytes: number) {
    this.#path = targetPath
    this.#isDurable = isDurable
    this.spool = sourceBytes <= maxMemoryBytes ? memorySpool : chunks => this.#write(chunks)
  }

  /** Writes what is still in memory. @throws errors of the file system */
  async keep(output: ByteSource): Promise<void> {
    if (this.#file === undefined) this.#writeAtOnce(await output.read(0, output.sizeBytes))
    else if (this.#isDurable) await this.#file.datasync()
    this.#isKept = true
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file?.close()
    if (this.#isWritten && !this.#isKept) rmSync(this.#path, { force: true })
  }

  /** Small files by few calls: the thread pool would cost more than the writing. */
  #writeAtOnce(bytes: Uint8Array): void {
    const file = openSync(this.#path, 'w', 0o600)
    this.#isWritten = true
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at)
      if (this.#isDurable) fdatasyncSync(file)
    } finally {
      closeSync(file)
    }
  }

  async #write(chunks: AsyncIterable<Uint8Array>): Promise<ByteSource> {
    let size = 0
    const file = await this.#disk(async () => (this.#file ??= await open(this.#path, 'w+', 0o600)))
    this.#isWritten = true
    for await (const chunk of chunks) {
      await this.#disk(async () => {
        for (let at = 0; at < chunk.length; )
          at += (await file.write(chunk, at, chunk.length - at, size + at)).bytesWritten
      })
      size += chunk.length
    }
    // A second writing, of encoded pixels, is shorter than the first.
    await this.#disk(() => file.truncate(size))
    return fileSource(file, size)
  }

  async #disk<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      this.failure = storageError(error, 'writing a de-identified instance')
      throw this.failure
    }
  }
}
