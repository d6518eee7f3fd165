/** What a walk over elements reports, and to whom. */
import type { ByteRange, Element, Encoding, Item } from './dataset.ts'
import type { Tag } from './tag.ts'
import type { Vr } from './vr.ts'

/** The length that says that a delimiter ends the value (PS3.5 §7.1.1). */
export const undefinedLength = 0xffffffff

/** `value`: deliver the bytes; `enter`: visit the items or fragments; `skip`: pass over; `stop`: end the walk here. */
export type Action = 'value' | 'enter' | 'skip' | 'stop'

/** The element a walk is at; `value`, `items` and `fragments` are the visitor's to fill. */
export class WalkedElement implements Element {
  readonly tag: Tag
  readonly vr: Vr
  readonly offset: number
  readonly valueOffset: number
  length: number
  readonly isUndefinedLength: boolean
  readonly encoding: Encoding
  value: Uint8Array | undefined = undefined
  items: Item[] | undefined = undefined
  fragments: ByteRange[] | undefined = undefined

  constructor(tag: Tag, vr: Vr, offset: number, valueOffset: number, length: number, encoding: Encoding) {
    this.tag = tag
    this.vr = vr
    this.offset = offset
    this.valueOffset = valueOffset
    this.isUndefinedLength = length === undefinedLength
    this.length = this.isUndefinedLength ? 0 : length
    this.encoding = encoding
  }
}

/** What a walk meets. Offsets are absolute in the source. */
export interface Visitor {
  /** `depth` is 0 at the top level; `holdsItems` says that `enter` is possible. */
  element(element: WalkedElement, depth: number, holdsItems: boolean): Action
  /** After `value`; the bytes are a view that is valid only now unless the source is in memory. */
  value(element: WalkedElement, bytes: Uint8Array): void
  /** After `enter`, for each item of a sequence; no length means an undefined one. */
  beginItem(offset: number, valueOffset: number, length: number | undefined): void
  /** `contentEnd` is before the item's delimiter, `end` behind it. */
  endItem(contentEnd: number, end: number): void
  /** After `enter`, for each fragment of encapsulated data. */
  fragment(range: ByteRange): void
  /** Behind a sequence or fragments that were entered, or passed over for their undefined length: `element.length` is known. */
  endElement(element: WalkedElement): void
}

/** Bounds of one walk; exceeding them is DICOM_LIMIT. */
export interface WalkLimits {
  /** Sequences within sequences. */
  readonly maxDepth: number
  readonly maxElements: number
}

/** The bounds of a walk that asks for none. */
export const defaultLimits: WalkLimits = { maxDepth: 64, maxElements: 5_000_000 }
