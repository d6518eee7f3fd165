/**
 * Looks at bytes of inbound objects while they are in memory, so that nothing need be read back: digests of pieces,
 * and of whole objects that are what their sender signed also the header and the data set's digest.
 */
import { createHash } from 'node:crypto'
import { sha256Of } from '../../peers/range-digest.ts'
import { bufferSource } from '../dicom/byte-source.ts'
import { type InstanceHeader, readInstanceHeader } from '../dicom/instance-header.ts'

/** A piece of some bytes. */
export interface PieceToExamine {
  readonly at: number
  readonly length: number
  /** For a whole object: the digest, lower-case hex, that lets it be read as DICOM. */
  readonly signedSha256?: string
}

/** What a piece is. */
export interface ExaminedPiece {
  /** 32 bytes. */
  readonly sha256: Uint8Array
  /** Of a whole object with the signed digest, where it can be read as DICOM. */
  readonly known?: KnownObject
}

/** What is learned of an object. */
export interface KnownObject {
  readonly header: InstanceHeader
  /** 32 bytes. */
  readonly datasetSha256: Uint8Array
}

/** Examines pieces in order; `bytes` must not change until this resolves. */
export async function examinePieces(bytes: Uint8Array, pieces: readonly PieceToExamine[]): Promise<ExaminedPiece[]> {
  const examined: ExaminedPiece[] = []
  for (const { at, length, signedSha256 } of pieces) {
    const piece = bytes.subarray(at, at + length)
    const sha256 = sha256Of(piece)
    const known = signedSha256 === sha256.toString('hex') ? await readKnown(piece) : undefined
    examined.push({ sha256, ...(known && { known }) })
  }
  return examined
}

async function readKnown(object: Uint8Array): Promise<KnownObject | undefined> {
  try {
    const header = await readInstanceHeader(bufferSource(object), { missingUids: 'derive' })
    const datasetSha256 = createHash('sha256').update(object.subarray(header.datasetOffset)).digest()
    return { header, datasetSha256 }
  } catch {
    return undefined // the airlock will say what is wrong with it
  }
}
