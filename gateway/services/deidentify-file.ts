/** De-identifies one file into another: read, run through the engine, written whole or not at all. */
import { closeSync, fdatasyncSync, fstatSync, openSync, readSync, rmSync, writeSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import type { Certificate } from '../../policy/deid/certificate.ts'
import type { Deidentifier, PixelCodec, Spool } from '../../policy/deid/engine.ts'
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

/** Larger memory is not kept from one file to the next. */
const keptBytes = 8 * 1_048_576

/** Memory for one file after the other: new pages for each would take as long as its digests. */
export class Scratch {
  #input = Buffer.alloc(0)
  #output = Buffer.alloc(0)

  input(bytes: number): Buffer {
    if (bytes > keptBytes) return Buffer.allocUnsafeSlow(bytes)
    if (this.#input.length < bytes) this.#input = Buffer.allocUnsafeSlow(roomFor(bytes))
    return this.#input.subarray(0, bytes)
  }

  /** Chunks in one piece. @param expected  about how many bytes they are */
  async gather(chunks: AsyncIterable<Uint8Array>, expected: number): Promise<Uint8Array> {
    let length = 0
    let output = this.#output
    for await (const chunk of chunks) {
      if (length + chunk.length > output.length) {
        const larger = Buffer.allocUnsafeSlow(roomFor(Math.max(expected, length + chunk.length)))
        larger.set(output.subarray(0, length))
        output = larger
      }
      output.set(chunk, length)
      length += chunk.length
    }
    if (output.length <= 2 * keptBytes) this.#output = output
    return output.subarray(0, length)
  }
}

/** Some more, so that files which grow a little need no other memory. */
const roomFor = (bytes: number): number => Math.ceil(bytes * 1.1) + 65_536

/**
 * De-identifies one file; never throws.
 *
 * @param known    the identifiers of all instances of its study
 * @param scratch  for who does one file after the other
 */
export async function deidentifyFile(
  engine: Deidentifier,
  task: DeidentifyTask,
  known: Identifiers | undefined,
  codec: PixelCodec | undefined = undefined,
  scratch: Scratch = new Scratch(),
): Promise<FileOutcome> {
  using file = openInput(task.sourcePath)
  if (file === undefined) return unreadable('the stored bytes cannot be opened')
  await using target = new Target(task, file.source.sizeBytes, scratch)
  try {
    const { sizeBytes } = file.source
    const source =
      sizeBytes <= maxMemoryBytes
        ? bufferSource(await file.source.read(0, sizeBytes, scratch.input(sizeBytes)))
        : file.source
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

interface InputSource extends ByteSource {
  /** As a byte source; a view of `into` where it is given. */
  read(offset: number, length: number, into?: Buffer): Promise<Uint8Array>
}

/**
 * An open file, or undefined when it cannot be opened; reads do not go through the thread pool, which costs more than
 * reading a header.
 */
export function openInput(path: string): (Disposable & { readonly source: InputSource }) | undefined {
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
      async read(offset, length, into) {
        const wanted = Math.max(0, Math.min(length, sizeBytes - offset))
        const bytes = into?.subarray(0, wanted) ?? Buffer.allocUnsafeSlow(wanted)
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

  constructor({ targetPath, isDurable }: DeidentifyTask, sourceBytes: number, scratch: Scratch) {
    this.#path = targetPath
    this.#isDurable = isDurable
    let isFirst = true
    this.spool =
      sourceBytes > maxMemoryBytes
        ? chunks => this.#write(chunks)
        : async chunks => {
            // What is encoded anew is read from the first output while the second one is made.
            const memory = isFirst ? scratch : new Scratch()
            isFirst = false
            return bufferSource(await memory.gather(chunks, sourceBytes))
          }
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
