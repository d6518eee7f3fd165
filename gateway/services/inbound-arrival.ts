/**
 * What is learned from a range while its bytes are in memory, so that nothing need be read back: digests
 * of its pieces, and of objects that lie wholly in it also the data set's digest and the header.
 */
import { createHash } from 'node:crypto'
import type { LeafRun } from '../../peers/bitmap.ts'
import type { Piece } from '../../peers/leaves.ts'
import { isWholeObject, rangeDigest, sha256Of } from '../../peers/range-digest.ts'
import { bufferSource } from '../dicom/byte-source.ts'
import { type InstanceHeader, readInstanceHeader } from '../dicom/instance-header.ts'
import type { Plan } from './inbound-context.ts'

/** One object as it arrived. */
export interface Arrival {
  readonly fileSha256: Buffer
  /** The digest is the manifest's. */
  readonly isSigned: boolean
  /** Absent when it cannot be read as DICOM, or for headers too many to keep: the airlock reads the file then. */
  readonly known?: { readonly header: InstanceHeader; readonly datasetSha256: Buffer }
}

/** Headers kept from arrival to import; a transfer of more objects is read again, batch by batch. */
export const mostHeadersKept = 2_000

/** A range's pieces with their digests. */
export interface DigestedRange {
  readonly run: LeafRun
  readonly pieces: readonly { readonly piece: Piece; readonly sha256: Buffer }[]
  /** What the sender's range digest must be. */
  readonly digest: Buffer
}

/** Digests a range: every byte once. */
export function digestRange({ map }: Plan, run: LeafRun, bytes: Uint8Array): DigestedRange {
  const pieces = map.pieces(run).map(piece => ({ piece, sha256: sha256Of(slice(bytes, piece)) }))
  return { run, pieces, digest: rangeDigest(pieces.map(({ sha256 }) => sha256)) }
}

/** What a durable range brought. */
export interface ArrivedRange {
  readonly run: LeafRun
  /** The objects that lay wholly in it. */
  readonly objects: readonly { readonly ordinal: number; readonly arrival: Arrival }[]
  /** The objects that it held a part of. */
  readonly partial: readonly number[]
}

/** Reads the objects that lie wholly in a range; `bytes` must not change until this resolves. */
export async function readArrivals(plan: Plan, range: DigestedRange, bytes: Uint8Array): Promise<ArrivedRange> {
  const { manifest, map } = plan
  const objects: { ordinal: number; arrival: Arrival }[] = []
  const partial: number[] = []
  for (const { piece, sha256 } of range.pieces) {
    if (!isWholeObject(piece, map)) {
      partial.push(piece.ordinal)
      continue
    }
    const isSigned = manifest.objects[piece.ordinal]?.sha256 === sha256.toString('hex')
    const isKept = manifest.objects.length <= mostHeadersKept
    const known = isSigned && isKept ? await readKnown(slice(bytes, piece)) : undefined
    objects.push({ ordinal: piece.ordinal, arrival: { fileSha256: sha256, isSigned, ...(known && { known }) } })
  }
  return { run: range.run, objects, partial }
}

async function readKnown(object: Uint8Array): Promise<Arrival['known']> {
  try {
    const header = await readInstanceHeader(bufferSource(object), { missingUids: 'derive' })
    const datasetSha256 = createHash('sha256').update(object.subarray(header.datasetOffset)).digest()
    return { header, datasetSha256 }
  } catch {
    return undefined // the airlock will say what is wrong with it
  }
}

const slice = (bytes: Uint8Array, piece: Piece): Uint8Array => bytes.subarray(piece.at, piece.at + piece.length)
