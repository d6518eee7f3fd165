/** Which fragments make up each frame of encapsulated pixel data (PS3.5 §A.4). */
import type { ByteSource } from '../dicom/byte-source.ts'
import type { ByteRange } from '../dicom/dataset.ts'
import { GatewayError } from '../errors.ts'
import type { PixelElement } from './layout.ts'

/** The fragments of one frame, in order. */
export type Frame = readonly ByteRange[]

const longestBasicTableBytes = 67_108_864
const itemHeaderBytes = 8

/**
 * The frames of encapsulated pixel data: all fragments of a single frame, one fragment each, as an offset table says, or
 * where a code stream begins.
 *
 * @throws GatewayError DICOM_UNREADABLE when the fragments cannot be told apart
 */
export async function framesOf(source: ByteSource, pixels: PixelElement): Promise<readonly Frame[]> {
  const { fragments = [], frames } = pixels
  if (frames === 1) return [fragments]
  if (fragments.length === frames) return fragments.map(fragment => [fragment])
  const offsets = pixels.extendedOffsets ?? (await basicOffsets(source, pixels))
  const byOffset = offsets.length === frames ? splitAtOffsets(fragments, offsets) : undefined
  if (byOffset?.length === frames) return byOffset
  const byStart = await splitAtStarts(source, fragments)
  if (byStart.length !== frames) throw unreadable(fragments.length, frames)
  return byStart
}

async function basicOffsets(source: ByteSource, { basicOffsets: table }: PixelElement): Promise<number[]> {
  if (table === undefined || table.length === 0 || table.length > longestBasicTableBytes) return []
  const bytes = await source.read(table.offset, table.length)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return Array.from({ length: bytes.length >>> 2 }, (_, i) => view.getUint32(4 * i, true))
}

/** Offsets count from the tag of the first fragment; undefined when one is not that of a fragment. */
function splitAtOffsets(fragments: readonly ByteRange[], offsets: readonly number[]): Frame[] | undefined {
  const start = (fragments[0]?.offset ?? 0) - itemHeaderBytes
  const begins = new Set(offsets.map(offset => start + offset + itemHeaderBytes))
  const frames: ByteRange[][] = []
  for (const fragment of fragments) {
    if (begins.delete(fragment.offset)) frames.push([fragment])
    else frames.at(-1)?.push(fragment)
  }
  return begins.size === 0 ? frames : undefined
}

/** Frames begin with SOI of JPEG, SOC of JPEG 2000, or the signature of JPEG XL. */
async function splitAtStarts(source: ByteSource, fragments: readonly ByteRange[]): Promise<Frame[]> {
  const frames: ByteRange[][] = []
  for (const fragment of fragments) {
    const [first = 0, second = 0] = await source.read(fragment.offset, Math.min(2, fragment.length))
    const isStart = first === 0xff && (second === 0xd8 || second === 0x4f || second === 0x0a)
    if (isStart || frames.length === 0) frames.push([fragment])
    else frames.at(-1)?.push(fragment)
  }
  return frames
}

/** The compressed bytes of a frame, in a buffer of their own. @throws GatewayError DICOM_LIMIT beyond `maxBytes` */
export async function readFrame(source: ByteSource, frame: Frame, maxBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const total = frame.reduce((sum, { length }) => sum + length, 0)
  if (total > maxBytes) throw new GatewayError('DICOM_LIMIT', 'a compressed frame is larger than allowed')
  const bytes = new Uint8Array(total)
  let at = 0
  for (const { offset, length } of frame) {
    bytes.set(await source.read(offset, length), at)
    at += length
  }
  return bytes
}

function unreadable(fragments: number, frames: number): GatewayError {
  return new GatewayError('DICOM_UNREADABLE', 'expected fragments for each frame of the pixel data', {
    context: { fragments, frames },
  })
}
