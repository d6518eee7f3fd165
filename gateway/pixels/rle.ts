/** The RLE codec of DICOM PS3.5 Annex G: byte planes, each compressed by PackBits. */
import { GatewayError } from '../errors.ts'
import { frameBytes, type ImageFormat } from './image.ts'

const headerBytes = 64
const maxSegments = 15

/** The segments of a frame: one for each byte of each sample (PS3.5 §G.2). */
function segmentsOf({ samplesPerPixel, bitsAllocated }: ImageFormat): number {
  return samplesPerPixel * Math.ceil(bitsAllocated / 8)
}

/** The bytes of one plane; samples of one bit are packed, eight to a byte. */
function planeBytes({ rows, columns, bitsAllocated }: ImageFormat): number {
  return bitsAllocated === 1 ? Math.ceil((rows * columns) / 8) : rows * columns
}

/** True when a frame of this format fits the fifteen segments of the header (PS3.5 §G.5). */
export function fitsRle(format: ImageFormat): boolean {
  return format.bitsAllocated % 8 === 0 && segmentsOf(format) <= maxSegments
}

/** Where byte plane `segment` begins in a frame, and the step to its next byte. The most significant byte comes first. */
function plane(format: ImageFormat, segment: number): { at: number; step: number } {
  const width = Math.ceil(format.bitsAllocated / 8)
  const sample = Math.floor(segment / width)
  const byte = width - 1 - (segment % width)
  if (format.isPlanar) return { at: sample * planeBytes(format) * width + byte, step: width }
  return { at: sample * width + byte, step: format.samplesPerPixel * width }
}

/**
 * The samples of a frame, little endian, color by plane or by pixel as the format says.
 *
 * @throws GatewayError PIXELS_UNREADABLE
 */
export function decodeRle(bytes: Uint8Array, format: ImageFormat): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const count = segmentsOf(format)
  if (count > maxSegments || bytes.length < headerBytes || view.getUint32(0, true) !== count) throw unreadable()
  const out = new Uint8Array(frameBytes(format))
  for (let segment = 0; segment < count; segment++) {
    const from = view.getUint32(4 + 4 * segment, true)
    const to = segment + 1 < count ? view.getUint32(8 + 4 * segment, true) : bytes.length
    if (from < headerBytes || to < from || to > bytes.length) throw unreadable()
    unpack(bytes.subarray(from, to), out, plane(format, segment), planeBytes(format))
  }
  return out
}

function unpack(packed: Uint8Array, out: Uint8Array, { at, step }: { at: number; step: number }, count: number): void {
  const end = at + count * step
  let to = at
  let i = 0
  while (to < end) {
    const code = packed[i++]
    if (code === undefined) throw unreadable()
    if (code < 128) {
      if (i + code >= packed.length && to + code * step < end) throw unreadable()
      for (let left = code + 1; left > 0 && to < end; left--, to += step) out[to] = packed[i++] ?? 0
    } else if (code > 128) {
      const value = packed[i++]
      if (value === undefined) throw unreadable()
      for (let left = 257 - code; left > 0 && to < end; left--, to += step) out[to] = value
    }
  }
}

/** A frame as RLE header and segments. The format must fit (`fitsRle`). */
export function encodeRle(bytes: Uint8Array, format: ImageFormat): Uint8Array {
  const count = segmentsOf(format)
  const header = Buffer.alloc(headerBytes)
  header.writeUInt32LE(count, 0)
  const segments: Uint8Array[] = [header]
  let offset = headerBytes
  for (let segment = 0; segment < count; segment++) {
    header.writeUInt32LE(offset, 4 + 4 * segment)
    const packed = pack(bytes, format, plane(format, segment))
    segments.push(packed)
    offset += packed.length
  }
  return Buffer.concat(segments)
}

/** One byte plane; each row is encoded by itself, the segment has an even length (PS3.5 §G.3). */
function pack(
  bytes: Uint8Array,
  { rows, columns }: ImageFormat,
  { at, step }: { at: number; step: number },
): Uint8Array {
  const row = new Uint8Array(columns)
  const out = new Uint8Array(rows * (columns + Math.ceil(columns / 128)) + 1)
  let length = 0
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) row[x] = bytes[at + (y * columns + x) * step] ?? 0
    length = packRow(row, out, length)
  }
  return out.subarray(0, length + (length % 2))
}

function packRow(row: Uint8Array, out: Uint8Array, start: number): number {
  let to = start
  let literal = 0
  let x = 0
  const flush = (end: number): void => {
    for (; literal < end; literal += 128) {
      const part = row.subarray(literal, Math.min(literal + 128, end))
      out[to++] = part.length - 1
      out.set(part, to)
      to += part.length
    }
    literal = end
  }
  while (x < row.length) {
    const value = row[x]
    let run = 1
    while (run < 128 && row[x + run] === value && x + run < row.length) run++
    // A run of two costs as much as two literals and would split them.
    if (run > 2 || (run === 2 && literal === x)) {
      flush(x)
      out[to++] = 257 - run
      out[to++] = value ?? 0
      literal = x + run
    }
    x += run
  }
  flush(row.length)
  return to
}

function unreadable(): GatewayError {
  return new GatewayError('PIXELS_UNREADABLE', 'cannot decode frame: expected RLE segments of its size')
}
