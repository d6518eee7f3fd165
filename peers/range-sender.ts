/**
 * Sends the leaves that a receiver wants: a few ranges at once, the next one read and hashed while one
 * is on the line. Memory is bounded by the buffers, over all transfers of the process.
 */
import { GatewayError } from '../gateway/errors.ts'
import type { Bitmap, LeafRun } from './bitmap.ts'
import type { Delivery } from './carrier.ts'
import { type PeerConnection, processRange, type Refusal, rangeRequest } from './https-client.ts'
import { type LeafMap, leafBytes } from './leaves.ts'
import { isWholeObject, rangeDigest, sha256Of } from './range-digest.ts'

/** Leaves in our ranges: half of what the protocol allows is as fast on any line, with half the memory. */
const rangeLeaves = 4

/** Buffers for ranges on their way, shared by all transfers. */
export interface RangeBuffers {
  /** Waits for a free buffer of 4 MiB. */
  take(signal: AbortSignal): Promise<Buffer>
  /** A free buffer, or undefined at once. */
  tryTake(): Buffer | undefined
  /** `isFree: false` when a connection that was cut off may still hold it: it is replaced. */
  give(buffer: Buffer, isFree: boolean): void
}

/** At most `most` buffers of 4 MiB at a time. */
export function createRangeBuffers(most: number): RangeBuffers {
  const free: Buffer[] = []
  const waiting: ((buffer: Buffer) => void)[] = []
  let made = 0
  const tryTake = (): Buffer | undefined => {
    const buffer = free.pop()
    if (buffer || made === most) return buffer
    made++
    return Buffer.allocUnsafeSlow(rangeLeaves * leafBytes)
  }
  return {
    tryTake,
    async take(signal) {
      signal.throwIfAborted()
      const buffer = tryTake()
      if (buffer) return buffer
      const { promise, resolve, reject } = Promise.withResolvers<Buffer>()
      const giveUp = (): void => {
        waiting.splice(waiting.indexOf(resolve), 1)
        reject(signal.reason)
      }
      waiting.push(resolve)
      signal.addEventListener('abort', giveUp, { once: true })
      return await promise.finally(() => signal.removeEventListener('abort', giveUp))
    },
    give(buffer, isFree) {
      const next = isFree ? buffer : Buffer.allocUnsafeSlow(rangeLeaves * leafBytes)
      const waiter = waiting.shift()
      if (waiter) waiter(next)
      else free.push(next)
    },
  }
}

/** How a round of sending ended. */
export type RoundEnd =
  | { readonly kind: 'complete' }
  | { readonly kind: 'stopped' }
  /** Something went wrong; the receiver's state tells what is missing now. */
  | { readonly kind: 'failed'; readonly error: unknown; readonly retryAfterMs: number | undefined }

interface Prepared {
  readonly run: LeafRun
  readonly buffer: Buffer
  readonly bytes: Uint8Array
  readonly digest: Uint8Array
}

/** What a round works on. */
export interface Round {
  readonly connection: PeerConnection
  readonly delivery: Delivery
  readonly want: Bitmap
  readonly creditBytes: number
  readonly connections: number
  readonly buffers: RangeBuffers
  /** How large ranges may be on this line; kept from round to round. */
  readonly pace: Pace
}

/** Leaves of the next range, from how long the last ones took. */
export interface Pace {
  leaves: number
}

/** The pace of a line that nothing is known of: it may be slow, and a range that takes too long is never acknowledged. */
export function unknownPace(): Pace {
  return { leaves: 1 }
}

/** How much of a connection's second one range should take. */
const rangeMs = 1000

/** Sends every wanted leaf once. Removes what was acknowledged from `round.want`. */
export async function sendRound(round: Round, signal: AbortSignal): Promise<RoundEnd> {
  const { connection, delivery, want, connections, buffers, pace } = round
  const { map, offer } = delivery
  const stop = new AbortController()
  const stopping = AbortSignal.any([signal, stop.signal])
  const width = Math.max(1, Math.min(connections, Math.floor(round.creditBytes / leafBytes)))
  const fairShare = Math.max(1, Math.ceil(want.count() / width))
  let cursor = 0
  let acknowledged = map.totalBytes - wantedBytes(map, want)
  delivery.onAcknowledged(acknowledged)
  let end: RoundEnd = { kind: 'complete' }
  const finish = (other: RoundEnd): void => {
    if (end.kind === 'complete') end = other
    stop.abort(new Error('round ended'))
  }
  const nextRun = (leaves: number): LeafRun | undefined => {
    if (stopping.aborted) return undefined
    const run = want.nextRun(cursor, leaves)
    cursor = run ? run.to + 1 : want.leaves
    return run
  }

  const prepare = async (run: LeafRun, buffer: Buffer): Promise<Prepared> => {
    const bytes = buffer.subarray(0, map.runBytes(run))
    try {
      const digests: Uint8Array[] = []
      for (const piece of map.pieces(run)) {
        const target = bytes.subarray(piece.at, piece.at + piece.length)
        const reader = await delivery.openObject(piece.ordinal)
        try {
          await reader.readInto(target, piece.offset)
        } finally {
          await reader.close()
        }
        // What is wrong with a whole object's bytes, the receiver finds: see `verifyOwn`.
        digests.push(isWholeObject(piece, map) ? delivery.objectSha256(piece.ordinal) : sha256Of(target))
      }
      return { run, buffer, bytes, digest: rangeDigest(digests) }
    } catch (error) {
      buffers.give(buffer, true)
      throw error
    }
  }

  /** Damaged on the way, or here? Only the latter is for a person. */
  const verifyOwn = ({ run, bytes }: Prepared): void => {
    for (const piece of map.pieces(run)) {
      if (!isWholeObject(piece, map)) continue
      const sha256 = sha256Of(bytes.subarray(piece.at, piece.at + piece.length))
      if (sha256.equals(delivery.objectSha256(piece.ordinal))) continue
      throw new GatewayError('STORAGE_CORRUPT', 'the bytes of an instance are not the ones that were stored', {
        context: { object: piece.ordinal, sha256: sha256.toString('hex') },
      })
    }
  }

  const send = async (prepared: Prepared): Promise<void> => {
    let isAnswered = false
    try {
      if (!(await delivery.mayContinue())) {
        finish({ kind: 'stopped' })
        isAnswered = true
        return
      }
      const started = performance.now()
      delivery.onSent(prepared.bytes.length)
      // Not stopped by a failure elsewhere: what is nearly there need not be sent again.
      const answer = await rangeRequest(connection, offer.id, prepared, signal)
      isAnswered = true
      const result = processRange(answer)
      if (result.kind === 'refused') {
        if (result.refusal.error.code === 'CHUNK_DIGEST') verifyOwn(prepared)
        finish(failed(result.refusal))
        return
      }
      want.remove(prepared.run)
      acknowledged += prepared.bytes.length
      delivery.onAcknowledged(acknowledged)
      const perSecond = (prepared.bytes.length / (performance.now() - started)) * rangeMs
      const credit = creditLeaves(result.creditBytes ?? round.creditBytes, width)
      pace.leaves = Math.max(1, Math.min(rangeLeaves, fairShare, credit, Math.floor(perSecond / leafBytes)))
    } finally {
      buffers.give(prepared.buffer, isAnswered)
    }
  }

  const lane = async (): Promise<void> => {
    let ahead: Promise<Prepared> | undefined
    let isFirst = true
    try {
      for (;;) {
        // The first is small: it is on the line while the others are read.
        const current = ahead ?? takeNext(isFirst ? 1 : pace.leaves)
        isFirst = false
        ahead = undefined
        const prepared = await current
        if (!prepared) return
        if (stopping.aborted) {
          buffers.give(prepared.buffer, true)
          return
        }
        ahead = readAhead()
        await send(prepared)
      }
    } catch (error) {
      pace.leaves = 1
      finish({ kind: 'failed', error, retryAfterMs: undefined })
    } finally {
      await ahead?.then(
        prepared => buffers.give(prepared.buffer, true),
        () => undefined, // the lane's own error says enough
      )
    }
  }
  const takeNext = async (leaves: number): Promise<Prepared | undefined> => {
    const run = nextRun(leaves)
    return run && (await prepare(run, await buffers.take(stopping)))
  }
  /** Only with a buffer that nobody waits for: reading ahead must not keep another transfer from sending. */
  const readAhead = (): Promise<Prepared> | undefined => {
    const buffer = stopping.aborted ? undefined : buffers.tryTake()
    if (!buffer) return undefined
    const run = nextRun(pace.leaves)
    if (run) {
      const prepared = prepare(run, buffer)
      prepared.catch(() => undefined) // awaited after the current send
      return prepared
    }
    buffers.give(buffer, true)
    return undefined
  }

  await Promise.all(Array.from({ length: width }, lane))
  signal.throwIfAborted()
  return end
}

function wantedBytes(map: LeafMap, want: Bitmap): number {
  let bytes = 0
  for (let run = want.nextRun(0, want.leaves); run; run = want.nextRun(run.to + 1, want.leaves)) {
    bytes += map.runBytes(run)
  }
  return bytes
}

function failed(refusal: Refusal): RoundEnd {
  return { kind: 'failed', error: refusal.error, retryAfterMs: refusal.retryAfterMs }
}

const creditLeaves = (creditBytes: number, width: number): number =>
  Math.max(1, Math.floor(creditBytes / leafBytes / width))

/** The error of a round that cannot go on without a person, as opposed to one that may pass. */
export function isFinal(error: unknown): error is GatewayError {
  return error instanceof GatewayError && error.meaning.retry === 'no'
}
