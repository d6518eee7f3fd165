/** What is known of the objects of a range from looking at it once, while its bytes were in memory. */
import type { LeafRun } from '../../peers/bitmap.ts'
import type { Piece } from '../../peers/leaves.ts'
import { isWholeObject, rangeDigest } from '../../peers/range-digest.ts'
import type { KnownObject, PieceToExamine } from './examine.ts'
import type { Examiner } from './examiner.ts'
import type { Plan } from './inbound-context.ts'

/** One object as it arrived. */
export interface Arrival {
  readonly fileSha256: Buffer
  /** The digest is the manifest's. */
  readonly isSigned: boolean
  /** Absent when it cannot be read as DICOM, or for headers too many to keep: the airlock reads the file then. */
  readonly known?: KnownObject
}

/** Headers kept from arrival to import; a transfer of more objects is read again, batch by batch. */
export const mostHeadersKept = 2_000

/** What a range holds. */
export interface ArrivedRange {
  readonly run: LeafRun
  /** What the sender's range digest must be. */
  readonly digest: Buffer
  /** The objects that lay wholly in it. */
  readonly objects: readonly { readonly ordinal: number; readonly arrival: Arrival }[]
  /** The objects that it held a part of. */
  readonly partial: readonly number[]
}

/** Examines a range; `bytes` must not change until this resolves. */
export async function examineRange(
  examiner: Examiner,
  { manifest, map }: Plan,
  run: LeafRun,
  bytes: Uint8Array,
): Promise<ArrivedRange> {
  const pieces = map.pieces(run)
  const isKept = manifest.objects.length <= mostHeadersKept
  const signed = ({ ordinal }: Piece): string => manifest.objects[ordinal]?.sha256 ?? ''
  const questions = pieces.map(
    (piece): PieceToExamine => ({
      at: piece.at,
      length: piece.length,
      ...(isKept && isWholeObject(piece, map) && { signedSha256: signed(piece) }),
    }),
  )
  const examined = await examiner.examine(bytes, questions)
  const objects: { ordinal: number; arrival: Arrival }[] = []
  const partial: number[] = []
  for (const [index, piece] of pieces.entries()) {
    const { sha256, known } = examined[index] ?? { sha256: new Uint8Array() }
    const fileSha256 = Buffer.from(sha256)
    const isSigned = fileSha256.toString('hex') === signed(piece)
    if (!isWholeObject(piece, map)) partial.push(piece.ordinal)
    else objects.push({ ordinal: piece.ordinal, arrival: { fileSha256, isSigned, ...(known && { known }) } })
  }
  return { run, digest: rangeDigest(examined.map(({ sha256 }) => sha256)), objects, partial }
}
