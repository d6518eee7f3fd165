/**
 * Walks the elements of a data set through a window of bytes, without recursion and without
 * holding values: the one place that knows how DICOM bytes are laid out (PS3.5 §7).
 *
 * The walk is synchronous. It runs until it lacks bytes and says which; `walk` feeds it from a
 * source. What it meets goes to a visitor, which decides whether to see a value, enter a sequence,
 * pass over, or stop. Nesting and the number of elements are bounded, every step consumes bytes,
 * so time is linear in the size of the source.
 */
import { GatewayError } from '../errors.ts'
import type { ByteSource } from './byte-source.ts'
import type { Encoding } from './dataset.ts'
import { entryOf } from './dictionary.ts'
import { defaultLimits, undefinedLength, type Visitor, WalkedElement, type WalkLimits } from './element-visitor.ts'
import { formatTag, isPrivateTag, type Tag } from './tag.ts'
import { type Vr, vrFacts, vrOfCode } from './vr.ts'

/** Bytes that a walk lacks. */
interface Need {
  readonly offset: number
  readonly length: number
}

interface Frame {
  readonly kind: 'dataset' | 'sequence' | 'fragments'
  /** The first offset behind the frame; Infinity when a delimiter ends it. */
  readonly end: number
  /** The nearest known end around the frame, which nothing in it may pass. */
  readonly limit: number
  /** Its declared length goes beyond the source. */
  readonly isOverlong: boolean
  readonly encoding: Encoding
  /** Passed over: nothing inside is reported. */
  readonly isSilent: boolean
  /** The element that a sequence or fragments frame belongs to. */
  readonly element: WalkedElement | undefined
  /** (0028,0103) of the data set or of one around it, which decides between US and SS. */
  isSigned: boolean
}

const implicitLittleEndian: Encoding = { explicitVr: false, bigEndian: false }
const pixelData = 0x7fe00010
const itemTag = 0xfffee000
const itemDelimiter = 0xfffee00d
const sequenceDelimiter = 0xfffee0dd
const pixelRepresentation = 0x00280103

/** Reads this many bytes where elements follow each other, and fewer after passing over a value. */
const sequentialBytes = 32_768
const sparseBytes = 4_096

/**
 * Walks `source` from `offset` on, to its end or until the visitor stops it.
 *
 * @returns the offset where the walk ended: behind the last element, or at the one that stopped it
 * @throws GatewayError DICOM_UNREADABLE, DICOM_LIMIT, and what the source throws
 */
export async function walk(
  source: ByteSource,
  start: WalkStart,
  visitor: Visitor,
  limits: WalkLimits = defaultLimits,
): Promise<number> {
  const walker = new Walker(source.sizeBytes, start, visitor, limits)
  for (let need = walker.run(); need !== undefined; need = walker.run()) {
    const bytes = await source.read(need.offset, need.length)
    walker.feed({ offset: need.offset, bytes }, bytes.length < need.length)
  }
  return walker.position
}

/**
 * The same walk in steps: it rests before each read of the source and at its end, so that what the visitor gathered can
 * be passed on meanwhile, and yields how far it has come. Between two rests the visitor meets what one read holds.
 */
export async function* walkInSteps(
  source: ByteSource,
  start: WalkStart,
  visitor: Visitor,
  limits: WalkLimits = defaultLimits,
): AsyncGenerator<number> {
  const walker = new Walker(source.sizeBytes, start, visitor, limits)
  for (let need = walker.run(); need !== undefined; need = walker.run()) {
    yield walker.position
    const bytes = await source.read(need.offset, need.length)
    walker.feed({ offset: need.offset, bytes }, bytes.length < need.length)
  }
  yield walker.position
}

/** Where a walk begins. */
export interface WalkStart {
  readonly offset: number
  readonly encoding: Encoding
  /** The first offset behind the elements; the end of the source unless given. */
  readonly end?: number
  /** Bytes at hand, to save a read. */
  readonly window?: Window
}

/** Bytes of a source, from `offset` on. */
export interface Window {
  readonly offset: number
  readonly bytes: Uint8Array
}

class Walker {
  position: number
  readonly #visitor: Visitor
  readonly #limits: WalkLimits
  readonly #frames: Frame[]
  #top: Frame
  #bytes: Uint8Array = new Uint8Array(0)
  #view: DataView = new DataView(new ArrayBuffer(0))
  #base = 0
  /** The size of the source where reading has found its end. */
  #size: number
  #elements = 0
  #isStopped = false
  /** An element whose value is wanted but not yet in the window. */
  #awaiting: WalkedElement | undefined

  constructor(sizeBytes: number, start: WalkStart, visitor: Visitor, limits: WalkLimits) {
    this.position = start.offset
    this.#size = sizeBytes
    this.#visitor = visitor
    this.#limits = limits
    this.#top = {
      kind: 'dataset',
      end: start.end ?? Number.POSITIVE_INFINITY,
      limit: start.end ?? Number.POSITIVE_INFINITY,
      isOverlong: false,
      encoding: start.encoding,
      isSilent: false,
      element: undefined,
      isSigned: false,
    }
    this.#frames = [this.#top]
    if (start.window !== undefined) this.feed(start.window, false)
  }

  feed(window: Window, isAtEnd: boolean): void {
    this.#bytes = window.bytes
    this.#view = new DataView(window.bytes.buffer, window.bytes.byteOffset, window.bytes.byteLength)
    this.#base = window.offset
    if (isAtEnd) this.#size = Math.min(this.#size, window.offset + window.bytes.length)
  }

  /** Goes on as far as the window reaches: the bytes lacking, or undefined at the end of the walk. */
  run(): Need | undefined {
    while (!this.#isStopped) {
      const need = this.#awaiting === undefined ? this.#step() : this.#deliver(this.#awaiting)
      if (need !== undefined) return need
    }
    return undefined
  }

  #step(): Need | undefined {
    const top = this.#top
    if (this.position >= top.end) {
      if (this.#frames.length > 1) this.#close(this.position, this.position)
      else this.#isStopped = true
      return undefined
    }
    const left = Math.min(top.limit, this.#size) - this.position
    if (left < 8) {
      // Tolerated: a file that ends where an element ends, inside items whose declared length goes beyond.
      if (left === 0 && top.isOverlong) this.#close(this.position, this.position)
      else if (this.#frames.length > 1) throw this.#unreadable('ends inside a sequence')
      else return this.#finish(left)
      return undefined
    }
    // The longest header is twelve bytes; four more show whether a UN value holds items.
    const need = this.#lacks(this.position, Math.min(16, left))
    if (need !== undefined) return need
    if (++this.#elements > this.#limits.maxElements) throw limit('more elements than allowed', this.#elements)
    const tag = this.#tagAt(this.position, top.encoding.bigEndian)
    if (top.kind === 'dataset') return this.#element(tag, top, left)
    this.#item(tag, top)
    return undefined
  }

  #element(tag: Tag, top: Frame, left: number): Need | undefined {
    if (tag >>> 16 === 0xfffe) {
      this.#delimiterInDataset(tag, top)
      return undefined
    }
    const element = this.#header(tag, top, left)
    if (!element.isUndefinedLength && tag === pixelRepresentation && element.length === 2) {
      const need = this.#lacks(element.valueOffset, 2)
      if (need !== undefined && element.valueOffset + 2 <= this.#size) return need
      if (need === undefined) {
        top.isSigned = this.#view.getUint16(element.valueOffset - this.#base, !element.encoding.bigEndian) === 1
      }
    }
    const holds = this.#contents(element)
    const action = top.isSilent
      ? 'skip'
      : this.#visitor.element(element, (this.#frames.length - 1) >> 1, holds !== undefined)
    if (action === 'stop') {
      this.#isStopped = true
      return undefined
    }
    const end = element.isUndefinedLength ? element.valueOffset : element.valueOffset + element.length
    const isEntered = holds !== undefined && (action === 'enter' || element.isUndefinedLength)
    if (end > Math.min(top.limit, this.#size) && !(isEntered && top.limit >= this.#size)) {
      throw this.#unreadable('a value is longer than what is left', tag)
    }
    if (isEntered) {
      this.#push(holds, element, action !== 'enter', top)
      this.position = element.valueOffset
      return undefined
    }
    if (action === 'value') {
      this.#awaiting = element
      return undefined
    }
    this.position = end
    return undefined
  }

  /** Delivers the value of `element` once the window holds it. */
  #deliver(element: WalkedElement): Need | undefined {
    const need = element.length === 0 ? undefined : this.#lacks(element.valueOffset, element.length)
    if (need !== undefined) {
      if (element.valueOffset + element.length > this.#size) throw this.#unreadable('ends inside a value', element.tag)
      return need
    }
    const at = element.valueOffset - this.#base
    this.#awaiting = undefined
    this.position = element.valueOffset + element.length
    this.#visitor.value(element, this.#bytes.subarray(at, at + element.length))
    return undefined
  }

  #header(tag: Tag, top: Frame, left: number): WalkedElement {
    const { position } = this
    const at = position - this.#base
    const little = !top.encoding.bigEndian
    if (!top.encoding.explicitVr) {
      const length = this.#view.getUint32(at + 4, little)
      const isSequence = length === undefinedLength && tag !== pixelData
      return new WalkedElement(
        tag,
        isSequence ? 'SQ' : implicitVr(tag, top),
        position,
        position + 8,
        length,
        top.encoding,
      )
    }
    const vr = vrOfCode(((this.#bytes[at + 4] ?? 0) << 8) | (this.#bytes[at + 5] ?? 0))
    if (vr === undefined) return this.#headerOfUnknownVr(tag, top, left)
    if (!vrFacts(vr).longLength) {
      const length = this.#view.getUint16(at + 6, little)
      return new WalkedElement(tag, vr, position, position + 8, length, top.encoding)
    }
    if (left < 12) throw this.#unreadable('ends inside an element header', tag)
    const length = this.#view.getUint32(at + 8, little)
    if (vr !== 'UN') return new WalkedElement(tag, vr, position, position + 12, length, top.encoding)
    // PS3.5 §6.2.2: the value of UN is implicit VR little endian, whatever the syntax; a known tag tells its VR.
    const known = length === undefinedLength ? 'SQ' : implicitVr(tag, top)
    const isOpaque =
      known === 'SQ' && length >= 8 && length !== undefinedLength && this.#tagAt(position + 12, false) !== itemTag
    return new WalkedElement(tag, isOpaque ? 'UN' : known, position, position + 12, length, implicitLittleEndian)
  }

  /**
   * Two bytes that are no VR of ours. Letters: a VR of a later edition, which has a 32-bit length (PS3.5 §6.2).
   * Otherwise senders have written an implicit VR element, or a short one with a broken VR.
   */
  #headerOfUnknownVr(tag: Tag, top: Frame, left: number): WalkedElement {
    const { position } = this
    const at = position - this.#base
    const little = !top.encoding.bigEndian
    if (isLetter(this.#bytes[at + 4]) && isLetter(this.#bytes[at + 5]) && left >= 12) {
      const length = this.#view.getUint32(at + 8, little)
      if (position + 12 + length <= top.limit || length === undefinedLength) {
        return new WalkedElement(tag, 'UN', position, position + 12, length, top.encoding)
      }
    }
    const implicitLength = this.#view.getUint32(at + 4, little)
    if (position + 8 + implicitLength <= Math.min(top.limit, this.#size)) {
      return new WalkedElement(tag, implicitVr(tag, top), position, position + 8, implicitLength, top.encoding)
    }
    const length = this.#view.getUint16(at + 6, little)
    return new WalkedElement(tag, implicitVr(tag, top), position, position + 8, length, top.encoding)
  }

  /** Items or fragments inside an element, or undefined for a plain value. */
  #contents(element: WalkedElement): 'sequence' | 'fragments' | undefined {
    if (element.vr === 'SQ') return 'sequence'
    if (!element.isUndefinedLength) return undefined
    if (!vrFacts(element.vr).longLength) throw this.#unreadable('undefined length in a VR that has none', element.tag)
    return 'fragments'
  }

  #item(tag: Tag, top: Frame): void {
    const { position } = this
    const length = this.#view.getUint32(position - this.#base + 4, !top.encoding.bigEndian)
    if (tag === sequenceDelimiter) {
      this.position = position + 8
      if (top.end === Number.POSITIVE_INFINITY) this.#close(position, this.position)
      return
    }
    if (tag !== itemTag) throw this.#unreadable('expected an item', tag)
    const valueOffset = position + 8
    const isUndefined = length === undefinedLength
    const end = isUndefined ? Number.POSITIVE_INFINITY : valueOffset + length
    const isOverlong = !isUndefined && end > this.#size
    if (!isUndefined && (isOverlong ? top.kind === 'fragments' || top.limit < this.#size : end > top.limit)) {
      throw this.#unreadable('an item is longer than what is left', top.element?.tag)
    }
    if (top.kind === 'fragments') {
      if (isUndefined) throw this.#unreadable('a fragment has undefined length', top.element?.tag)
      if (!top.isSilent) this.#visitor.fragment({ offset: valueOffset, length })
      this.position = valueOffset + length
      return
    }
    if (top.isSilent && !isUndefined && !isOverlong) {
      this.position = valueOffset + length
      return
    }
    if (!top.isSilent) this.#visitor.beginItem(position, valueOffset, isUndefined ? undefined : length)
    this.position = valueOffset
    this.#enter({
      ...top,
      kind: 'dataset',
      end,
      limit: Math.min(end, top.limit),
      isOverlong: isOverlong || top.isOverlong,
      element: undefined,
    })
  }

  /** Delimiters among elements: the end of an item of undefined length, or leftovers that senders are known to write. */
  #delimiterInDataset(tag: Tag, top: Frame): void {
    const isOpenItem = this.#frames.length > 1 && top.end === Number.POSITIVE_INFINITY
    if (isOpenItem && tag === itemDelimiter) {
      this.position += 8
      this.#close(this.position - 8, this.position)
    } else if (isOpenItem && (tag === sequenceDelimiter || tag === itemTag)) this.#close(this.position, this.position)
    else if (tag === itemDelimiter || tag === sequenceDelimiter) this.position += 8
    else throw this.#unreadable('unexpected item', tag)
  }

  #push(kind: 'sequence' | 'fragments', element: WalkedElement, isSilent: boolean, top: Frame): void {
    const end = element.isUndefinedLength ? Number.POSITIVE_INFINITY : element.valueOffset + element.length
    const limit = Math.min(end, top.limit)
    const isOverlong = top.isOverlong || (end !== Number.POSITIVE_INFINITY && end > this.#size)
    const { encoding } = element
    this.#enter({ kind, end, limit, isOverlong, encoding, isSilent, element, isSigned: top.isSigned })
  }

  #enter(frame: Frame): void {
    if (this.#frames.length > 2 * this.#limits.maxDepth)
      throw limit('sequences nested deeper than allowed', this.#limits.maxDepth)
    this.#frames.push(frame)
    this.#top = frame
  }

  #close(contentEnd: number, end: number): void {
    const closed = this.#frames.pop()
    const top = this.#frames.at(-1)
    if (closed === undefined || top === undefined) throw this.#unreadable('unexpected end')
    this.#top = top
    if (closed.element !== undefined) {
      closed.element.length = end - closed.element.valueOffset
      if (!top.isSilent) this.#visitor.endElement(closed.element)
    } else if (!closed.isSilent) this.#visitor.endItem(contentEnd, end)
  }

  #lacks(offset: number, length: number): Need | undefined {
    const at = offset - this.#base
    if (at >= 0 && at + length <= this.#bytes.length) return undefined
    const isNear = at >= 0 && at <= this.#bytes.length + sparseBytes
    const wanted = Math.max(length, isNear ? sequentialBytes : sparseBytes)
    return { offset, length: Math.min(wanted, Math.max(length, this.#size - offset)) }
  }

  #tagAt(position: number, bigEndian: boolean): Tag {
    const bytes = this.#bytes
    const at = position - this.#base
    const a = bytes[at] ?? 0
    const b = bytes[at + 1] ?? 0
    const c = bytes[at + 2] ?? 0
    const d = bytes[at + 3] ?? 0
    return (bigEndian ? (a << 24) | (b << 16) | (c << 8) | d : (b << 24) | (a << 16) | (d << 8) | c) >>> 0
  }

  /** The end of the top level. Fewer bytes than an element header there are padding, or a truncated file. */
  #finish(left: number): Need | undefined {
    const need = left > 0 ? this.#lacks(this.position, left) : undefined
    if (need !== undefined) return need
    const at = this.position - this.#base
    if (left > 0 && this.#bytes.subarray(at, at + left).some(byte => byte !== 0)) {
      throw this.#unreadable('ends inside an element header')
    }
    this.#isStopped = true
    return undefined
  }

  #unreadable(what: string, tag?: Tag): GatewayError {
    return new GatewayError('DICOM_UNREADABLE', `cannot read DICOM: ${what}`, {
      context: { offset: this.position, tag: tag === undefined ? undefined : formatTag(tag) },
    })
  }
}

/** The VR of an implicit VR element: the dictionary's, with the choices of PS3.5 §A.1 made. */
function implicitVr(tag: Tag, frame: { readonly isSigned: boolean }): Vr {
  if (isPrivateTag(tag)) return (tag & 0xff00) === 0 && (tag & 0xff) >= 0x10 ? 'LO' : 'UN'
  if ((tag & 0xffff) === 0) return 'UL'
  const vrs = entryOf(tag)?.vrs
  if (vrs === undefined) return 'UN'
  if (vrs.length === 1) return vrs[0]
  if (vrs.includes('OW')) return 'OW'
  return frame.isSigned ? 'SS' : 'US'
}

function isLetter(byte: number | undefined): boolean {
  return byte !== undefined && byte >= 0x41 && byte <= 0x5a
}

function limit(what: string, count: number): GatewayError {
  return new GatewayError('DICOM_LIMIT', what, { context: { count } })
}
