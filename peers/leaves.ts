/**
 * The byte line of a transfer: all objects of the manifest one after the other, cut into leaves of
 * 1 MiB. A leaf may hold many small objects, a large object spans many leaves; only the last leaf of
 * the transfer may be shorter. Ranges of leaves are what travels, bits of leaves are what is
 * remembered, so neither side keeps state per object.
 */
import { GatewayError } from '../gateway/errors.ts'
import type { LeafRun } from './bitmap.ts'

/** Bytes in each leaf but the last. */
export const leafBytes = 1024 * 1024
/** Most leaves in one range: 8 MiB. */
export const maxRangeLeaves = 8

/** A piece of one object inside a range of leaves. */
export interface Piece {
  /** Place of the object in the manifest, from 0. */
  readonly ordinal: number
  /** First byte inside the object. */
  readonly offset: number
  readonly length: number
  /** First byte inside the range. */
  readonly at: number
}

/** Where each object lies on the byte line. */
export interface LeafMap {
  readonly totalBytes: number
  readonly leafCount: number
  readonly objectCount: number
  /** Bytes of one object. */
  sizeOf(ordinal: number): number
  /** Bytes of a run of leaves. */
  runBytes(run: LeafRun): number
  /** The objects' pieces in a run of leaves, in order, without gaps. */
  pieces(run: LeafRun): Piece[]
  /** The run of leaves that holds an object. */
  runOf(ordinal: number): LeafRun
}

/** Lays objects of these sizes (each at least 1 byte) on the byte line. */
export function mapLeaves(sizes: readonly number[]): LeafMap {
  const ends = new Float64Array(sizes.length) // exact: sums are safe integers
  let totalBytes = 0
  sizes.forEach((size, ordinal) => {
    totalBytes += size
    ends[ordinal] = totalBytes
  })
  const leafCount = Math.ceil(totalBytes / leafBytes)
  const startOf = (ordinal: number): number => (ordinal === 0 ? 0 : (ends[ordinal - 1] ?? 0))
  const sizeOf = (ordinal: number): number => (ends[ordinal] ?? 0) - startOf(ordinal)

  /** The object that holds a byte of the line. */
  const objectAt = (position: number): number => {
    let low = 0
    let high = ends.length - 1
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((ends[middle] ?? 0) > position) high = middle
      else low = middle + 1
    }
    return low
  }

  const bounds = (run: LeafRun): { start: number; end: number } => ({
    start: run.from * leafBytes,
    end: Math.min((run.to + 1) * leafBytes, totalBytes),
  })

  return {
    totalBytes,
    leafCount,
    objectCount: sizes.length,
    sizeOf,
    runBytes: run => {
      const { start, end } = bounds(run)
      return end - start
    },
    pieces: run => {
      const { start, end } = bounds(run)
      const out: Piece[] = []
      let position = start
      for (let ordinal = objectAt(start); position < end; ordinal++) {
        const offset = position - startOf(ordinal)
        const length = Math.min(sizeOf(ordinal) - offset, end - position)
        out.push({ ordinal, offset, length, at: position - start })
        position += length
      }
      return out
    },
    runOf: ordinal => ({
      from: Math.floor(startOf(ordinal) / leafBytes),
      to: Math.floor(((ends[ordinal] ?? 1) - 1) / leafBytes),
    }),
  }
}

/**
 * Reads `{from}-{to}` of a range URL.
 *
 * @throws GatewayError CHUNK_RANGE unless it is one to eight leaves inside the transfer
 */
export function parseRun(text: string, leafCount: number): LeafRun {
  const match = /^(0|[1-9]\d{0,9})-(0|[1-9]\d{0,9})$/.exec(text)
  const from = Number(match?.[1])
  const to = Number(match?.[2])
  if (!match || from > to || to >= leafCount || to - from >= maxRangeLeaves) {
    throw new GatewayError('CHUNK_RANGE', `expected {from}-{to} of at most ${maxRangeLeaves} leaves below ${leafCount}`)
  }
  return { from, to }
}
