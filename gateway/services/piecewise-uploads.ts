/**
 * Files that come in pieces, one request after the other, as older upload widgets of browsers send them: a piece says
 * whose it is by the file's name and whole size. The bytes go to the store as they come; nothing of them is held here.
 */
import { PassThrough } from 'node:stream'
import { GatewayError } from '../errors.ts'
import type { IngestResult } from './ingest.ts'

/** Whose piece it is. */
export interface PieceOf {
  readonly principal: string
  readonly name: string
  /** Of the whole file. */
  readonly sizeBytes: number
}

/** Stores a file whose bytes come. */
export type StoreBytes = (bytes: AsyncIterable<Uint8Array>) => Promise<IngestResult[]>

interface Unfinished {
  readonly bytes: PassThrough
  readonly stored: Promise<IngestResult[]>
  readonly patience: NodeJS.Timeout
  receivedBytes: number
}

/** Unfinished files at a time; more are refused. */
const mostFiles = 16
/** A file whose next piece does not come is given up. */
const patienceMs = 5 * 60_000
const mostNameBytes = 1_024

/** The unfinished files of one gateway process. */
export class PiecewiseUploads {
  readonly #files = new Map<string, Unfinished>()

  /**
   * Takes a piece.
   *
   * @returns the outcomes after the last piece, before it undefined
   * @throws GatewayError BAD_REQUEST for pieces of more bytes than the file has, TOO_MANY_REQUESTS; what `store` throws
   */
  async take(of: PieceOf, piece: AsyncIterable<Uint8Array>, store: StoreBytes): Promise<IngestResult[] | undefined> {
    const key = JSON.stringify([of.principal, of.name, of.sizeBytes])
    const file = this.#files.get(key) ?? this.#begin(key, of, store)
    try {
      for await (const chunk of piece) {
        file.receivedBytes += chunk.length
        if (file.receivedBytes > of.sizeBytes)
          throw new GatewayError('BAD_REQUEST', 'expected no more bytes than X-File-Size')
        // A copy: the bytes are the reader's again before the store has taken them.
        if (!file.bytes.write(Buffer.from(chunk))) await Promise.race([drained(file.bytes), file.stored])
      }
    } catch (error) {
      this.#forget(key, file)
      file.bytes.destroy(error instanceof Error ? error : undefined)
      throw error
    }
    file.patience.refresh()
    if (file.receivedBytes < of.sizeBytes) return undefined
    this.#forget(key, file)
    file.bytes.end()
    return await file.stored
  }

  #begin(key: string, { name, sizeBytes }: PieceOf, store: StoreBytes): Unfinished {
    if (this.#files.size >= mostFiles) {
      throw new GatewayError('TOO_MANY_REQUESTS', `expected at most ${mostFiles} unfinished uploads`)
    }
    if (name.length > mostNameBytes || !Number.isSafeInteger(sizeBytes) || sizeBytes <= 0) {
      throw new GatewayError('BAD_REQUEST', 'expected a file name and a size in X-File-Name and X-File-Size')
    }
    const bytes = new PassThrough()
    const stored = store(bytes)
    // It is told to who sends the last piece, or the next one. What the store did not want to read is passed over.
    const passOver = (): void => void bytes.resume()
    stored.then(passOver, passOver)
    bytes.on('error', () => undefined)
    const giveUp = (): void => {
      this.#files.delete(key)
      bytes.destroy(new GatewayError('BAD_REQUEST', 'the next piece of the file did not come'))
    }
    const file = { bytes, stored, patience: setTimeout(giveUp, patienceMs).unref(), receivedBytes: 0 }
    this.#files.set(key, file)
    return file
  }

  #forget(key: string, { patience }: Unfinished): void {
    clearTimeout(patience)
    this.#files.delete(key)
  }
}

async function drained(bytes: PassThrough): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  bytes.once('drain', resolve).once('close', resolve)
  await promise
}
