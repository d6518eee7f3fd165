/** The bytes of the output as parts: ranges of the source, new bytes, and pixels that are changed while they pass. */
import type { ByteSource } from '../../gateway/dicom/byte-source.ts'
import type { ByteRange } from '../../gateway/dicom/dataset.ts'
import { GatewayError } from '../../gateway/errors.ts'
import { type Codestream, cleanCodestream } from './codestream.ts'
import { HoldError } from './hold.ts'
import type { Painter } from './image.ts'

/** A piece of the output. */
export type Part =
  | { readonly kind: 'range'; readonly offset: number; readonly length: number }
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array }
  | { readonly kind: 'painted'; readonly offset: number; readonly length: number; readonly painter: Painter }
  /** The fragments of one compressed frame, item headers included, with comments overwritten. */
  | { readonly kind: 'frame'; readonly fragments: readonly ByteRange[]; readonly family: Codestream }

const copyBytes = 1_048_576
/** A compressed frame is searched as a whole, in memory. */
const maxFrameBytes = 268_435_456
const itemHeaderBytes = 8

/** Parts in the order of the output; neighbouring ranges are one. */
export class Output {
  readonly parts: Part[] = []
  sizeBytes = 0

  /** Copies from..to of the source. */
  copy(from: number, to: number): void {
    if (to <= from) return
    const last = this.parts.at(-1)
    this.sizeBytes += to - from
    if (last?.kind === 'range' && last.offset + last.length === from)
      this.parts[this.parts.length - 1] = { kind: 'range', offset: last.offset, length: last.length + to - from }
    else this.parts.push({ kind: 'range', offset: from, length: to - from })
  }

  write(bytes: Uint8Array): void {
    if (bytes.length === 0) return
    this.sizeBytes += bytes.length
    this.parts.push({ kind: 'bytes', bytes })
  }

  paint(offset: number, length: number, painter: Painter): void {
    this.sizeBytes += length
    this.parts.push({ kind: 'painted', offset, length, painter })
  }

  frame(fragments: readonly ByteRange[], family: Codestream): void {
    for (const { length } of fragments) this.sizeBytes += itemHeaderBytes + length
    this.parts.push({ kind: 'frame', fragments, family })
  }

  append(other: Output): void {
    for (const part of other.parts) {
      if (part.kind === 'range') this.copy(part.offset, part.offset + part.length)
      else {
        this.parts.push(part)
        this.sizeBytes += lengthOf(part)
      }
    }
  }
}

function lengthOf(part: Exclude<Part, { kind: 'range' }>): number {
  if (part.kind === 'bytes') return part.bytes.length
  if (part.kind === 'painted') return part.length
  return part.fragments.reduce((sum, { length }) => sum + itemHeaderBytes + length, 0)
}

/**
 * The bytes of the parts, in pieces of at most 1 MiB, but compressed frames as a whole.
 *
 * @throws GatewayError DICOM_UNREADABLE when the source is shorter than it was; HoldError for a frame that cannot be searched
 */
export async function* outputBytes(source: ByteSource, parts: readonly Part[]): AsyncGenerator<Uint8Array> {
  for (const part of parts) {
    if (part.kind === 'bytes') yield part.bytes
    else if (part.kind === 'range') yield* copyRange(source, part.offset, part.length)
    else if (part.kind === 'painted') {
      let at = 0
      for await (const bytes of copyRange(source, part.offset, part.length)) {
        const painted = Uint8Array.from(bytes)
        part.painter.paint(painted, at)
        at += painted.length
        yield painted
      }
    } else yield* cleanFrame(source, part.fragments, part.family)
  }
}

async function* copyRange(source: ByteSource, offset: number, length: number): AsyncGenerator<Uint8Array> {
  const end = offset + length
  for (let at = offset; at < end; ) {
    const bytes = await source.read(at, Math.min(copyBytes, end - at))
    if (bytes.length === 0)
      throw new GatewayError('DICOM_UNREADABLE', 'cannot read DICOM: source is shorter than it was')
    yield bytes
    at += bytes.length
  }
}

async function* cleanFrame(
  source: ByteSource,
  fragments: readonly ByteRange[],
  family: Codestream,
): AsyncGenerator<Uint8Array> {
  const total = fragments.reduce((sum, { length }) => sum + length, 0)
  if (total > maxFrameBytes)
    throw new HoldError('too-large', 'a compressed frame is larger than what can be searched', {
      tag: 0x7fe00010,
      rule: `at most ${maxFrameBytes} bytes`,
    })
  const frame = Buffer.alloc(total)
  const headers: Uint8Array[] = []
  let filled = 0
  for (const { offset, length } of fragments) {
    // One read for header and fragment, since a deflated source is read forward only.
    const bytes = await source.read(offset - itemHeaderBytes, itemHeaderBytes + length)
    if (bytes.length < itemHeaderBytes + length)
      throw new GatewayError('DICOM_UNREADABLE', 'cannot read DICOM: source is shorter than it was')
    headers.push(Uint8Array.from(bytes.subarray(0, itemHeaderBytes)))
    frame.set(bytes.subarray(itemHeaderBytes), filled)
    filled += length
  }
  cleanCodestream(frame, family)
  let at = 0
  for (const [index, { length }] of fragments.entries()) {
    yield headers[index] ?? new Uint8Array(0)
    yield frame.subarray(at, at + length)
    at += length
  }
}
