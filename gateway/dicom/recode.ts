/**
 * Encodes a data set anew for another transfer syntax: implicit or explicit VR, little or big endian. Values keep their
 * bytes, but for the order of the bytes in numbers; so text, private elements and values of unknown VR are untouched.
 * Elements that the caller changes are named by their item; the caller also writes the bulk values that it wants to
 * (`Hole`). Bytes are copied by range, so that memory does not grow with the size of the file.
 *
 * Sequences and items keep their form: those of defined length get their new length, by a first walk that measures.
 * Group lengths (gggg,0000), which are retired (PS3.5 §7.2), are left out.
 */
import { GatewayError } from '../errors.ts'
import type { ByteSource } from './byte-source.ts'
import { type Charset, charsetOfValue, undeclaredCharset } from './charset.ts'
import type { Encoding } from './dataset.ts'
import { type Action, undefinedLength, type Visitor, type WalkedElement } from './element-visitor.ts'
import { type WalkStart, walk, walkInSteps } from './element-walker.ts'
import { elementHeader, itemHeader, type NewElement, writeElement } from './part10-writer.ts'
import { isGroupLength, type Tag } from './tag.ts'
import { type Vr, vrFacts } from './vr.ts'

/**
 * An element whose value the caller writes: `length` bytes, an even number, or, where it is undefined, items with the
 * delimiter that ends them.
 */
export interface Hole {
  readonly tag: Tag
  readonly vr: 'OB' | 'OW'
  readonly length: number | undefined
}

/** What becomes of an element: another one of its tag, one that the caller writes, or none. */
export type Change = NewElement | Hole | 'remove'

/** The changes of items, by the offset of the item's tag in the source; those of the top level by `topLevel`. */
export type Changes = ReadonlyMap<number, ReadonlyMap<Tag, Change>>

/** The key of the top level in `Changes`. */
export const topLevel = -1

const copyBytes = 1_048_576
/** Longer values are copied by range. */
const heldValueBytes = 4_096
const joinBytes = 65_536
const itemTag = 0xfffee000
const itemDelimiter = 0xfffee00d
const sequenceDelimiter = 0xfffee0dd
const specificCharacterSet = 0x00080005

/**
 * The elements of `source` from `start` on, in the encoding `to`. A `Hole` is yielded behind the header of its element,
 * when its value is to be written.
 *
 * @param open  the bytes that `start` counts in; opened once or twice, read forward only
 * @throws GatewayError while iterating: DICOM_UNREADABLE or DICOM_LIMIT for the source, BAD_REQUEST for a new value that
 *   its VR or the character set of the data set cannot represent
 */
export async function* recode(
  open: () => ByteSource & Partial<AsyncDisposable>,
  start: WalkStart,
  { to, changes }: { readonly to: Encoding; readonly changes: Changes },
): AsyncGenerator<Uint8Array | Hole> {
  const plan = { from: start.encoding, to, changes }
  let lengths: readonly number[] = []
  if (entersSequences(plan)) {
    const measuring = new Recoder(plan, undefined)
    const source = open()
    try {
      await walk(source, start, measuring)
    } finally {
      await source[Symbol.asyncDispose]?.()
    }
    measuring.finish()
    lengths = measuring.lengths
  }
  const recoder = new Recoder(plan, lengths)
  const source = open()
  try {
    for await (const position of walkInSteps(source, start, recoder)) yield* write(source, recoder.take(position))
    recoder.finish()
    yield* write(source, recoder.take(undefined))
  } finally {
    await source[Symbol.asyncDispose]?.()
  }
}

interface Plan {
  readonly from: Encoding
  readonly to: Encoding
  readonly changes: Changes
}

/** Bytes of the source; numbers of `unitBytes` change their byte order when it is more than one. */
interface Copy {
  readonly offset: number
  length: number
  readonly unitBytes: number
}

type Output = Uint8Array | Hole | Copy

/** An item, or the top level. */
interface OpenItem {
  readonly encoding: Encoding
  readonly changes: ReadonlyMap<Tag, Change>
  /** Changes not yet placed, ascending. */
  readonly waiting: Exclude<Change, 'remove'>[]
  charset: Charset
  /** Where the item's new length is kept; undefined for an undefined one. */
  readonly length: Measure | undefined
}

/** A length that is measured: its place in `lengths`, and what had been written before. */
interface Measure {
  readonly index: number
  readonly from: number
}

/** An element whose end is to come: entered, or passed over to be copied or dropped. */
interface OpenElement {
  readonly element: WalkedElement
  readonly kind: 'entered' | 'copied' | 'dropped'
  readonly length: Measure | undefined
  /** Where what is still to be copied begins. */
  copyFrom: number
}

const noChanges: ReadonlyMap<Tag, Change> = new Map()

class Recoder implements Visitor {
  /** New lengths of items and sequences of defined length, in the order of their beginning. */
  readonly lengths: number[] = []
  readonly #known: readonly number[] | undefined
  readonly #plan: Plan
  readonly #isSame: boolean
  readonly #entersSequences: boolean
  readonly #items: OpenItem[]
  readonly #elements: OpenElement[] = []
  #output: Output[] = []
  #written = 0

  /** @param known  the lengths that a first walk has measured; undefined for that walk */
  constructor(plan: Plan, known: readonly number[] | undefined) {
    this.#known = known
    this.#plan = plan
    this.#isSame = isSameEncoding(plan)
    this.#entersSequences = entersSequences(plan)
    this.#items = [openItem(plan, plan.from, topLevel, undeclaredCharset(), undefined)]
  }

  /** What came together since it was last taken, when the walk has come to `position`. */
  take(position: number | undefined): readonly Output[] {
    const open = this.#elements.at(-1)
    if (position !== undefined && open?.kind === 'copied') this.#copyOpen(open, position)
    const output = this.#output
    this.#output = []
    return output
  }

  /** Places what is left at the end of the top level. */
  finish(): void {
    const [top] = this.#items
    if (top !== undefined) this.#place(top, Number.POSITIVE_INFINITY)
  }

  element(element: WalkedElement, _depth: number, holdsItems: boolean): Action {
    const item = this.#items.at(-1)
    if (item === undefined) return 'skip'
    const { tag } = element
    this.#place(item, tag)
    const change = item.changes.get(tag)
    if (change !== undefined || isGroupLength(tag)) {
      if (change !== undefined && change !== 'remove' && item.waiting[0] === change) {
        item.waiting.shift()
        this.#putChange(item, change)
      }
      if (element.isUndefinedLength) this.#open(element, 'dropped', undefined)
      return 'skip'
    }
    // A value of UN is implicit VR little endian in every syntax (PS3.5 §6.2.2), so it goes as it is.
    const isOpaque = element.vr === 'UN' || element.encoding !== item.encoding
    if (holdsItems && element.vr === 'SQ' && !isOpaque && this.#entersSequences) {
      const length = element.isUndefinedLength ? undefined : this.#beginLength()
      this.#put(this.#header(tag, 'SQ', this.#lengthOf(length)))
      this.#open(element, 'entered', this.#afterHeader(length))
      return 'enter'
    }
    if (this.#isSame) this.#copyRest(element, element.offset)
    else if (holdsItems) this.#passItems(element, isOpaque)
    else return this.#plain(element, isOpaque)
    return tag === specificCharacterSet && element.length <= heldValueBytes ? 'value' : 'skip'
  }

  value(element: WalkedElement, bytes: Uint8Array): void {
    const item = this.#items.at(-1)
    if (item === undefined) return
    if (element.tag === specificCharacterSet) item.charset = charsetOfValue(bytes)
    if (this.#isSame) return
    const unitBytes = this.#unitBytes(element, element.encoding !== item.encoding)
    this.#put(unitBytes > 1 ? swapped(bytes, unitBytes) : bytes)
  }

  beginItem(offset: number, _valueOffset: number, length: number | undefined): void {
    const around = this.#items.at(-1)
    const encoding = this.#elements.at(-1)?.element.encoding ?? this.#plan.from
    const measure = length === undefined ? undefined : this.#beginLength()
    this.#put(itemHeader(itemTag, this.#lengthOf(measure), this.#plan.to))
    const charset = around?.charset ?? undeclaredCharset()
    this.#items.push(openItem(this.#plan, encoding, offset, charset, this.#afterHeader(measure)))
  }

  endItem(): void {
    const item = this.#items.pop()
    if (item === undefined) return
    this.#place(item, Number.POSITIVE_INFINITY)
    if (item.length === undefined) this.#put(itemHeader(itemDelimiter, 0, this.#plan.to))
    else this.#endLength(item.length)
  }

  fragment(): void {}

  endElement(element: WalkedElement): void {
    const open = this.#elements.at(-1)
    if (open?.element !== element) return
    this.#elements.pop()
    if (open.kind === 'copied') this.#copyOpen(open, element.valueOffset + element.length)
    else if (open.length !== undefined) this.#endLength(open.length)
    else if (open.kind === 'entered') this.#put(itemHeader(sequenceDelimiter, 0, this.#plan.to))
  }

  // ---- elements ---------------------------------------------------------------------------------------

  /** A value without items. */
  #plain(element: WalkedElement, isOpaque: boolean): Action {
    const vr = isOpaque ? 'UN' : writtenVr(element)
    this.#put(this.#header(element.tag, vr, element.length))
    if (element.length <= heldValueBytes) return 'value'
    this.#copy(element.valueOffset, element.length, this.#unitBytes(element, isOpaque))
    return 'skip'
  }

  /** Items that are not looked into: of UN, or encapsulated data. */
  #passItems(element: WalkedElement, isOpaque: boolean): void {
    if (!isOpaque && this.#plan.from.bigEndian !== this.#plan.to.bigEndian) {
      throw new GatewayError('DICOM_UNREADABLE', 'cannot encode anew: fragments in a syntax that has none')
    }
    const vr = isOpaque ? 'UN' : element.vr
    this.#put(this.#header(element.tag, vr, element.isUndefinedLength ? undefinedLength : element.length))
    this.#copyRest(element, element.valueOffset)
  }

  /** Copies from `offset` to the end of the element, at once or when its end is known. */
  #copyRest(element: WalkedElement, offset: number): void {
    if (element.isUndefinedLength) this.#open(element, 'copied', undefined, offset)
    else this.#copy(offset, element.valueOffset + element.length - offset, 1)
  }

  #open(element: WalkedElement, kind: OpenElement['kind'], length: Measure | undefined, copyFrom = 0): void {
    this.#elements.push({ element, kind, length, copyFrom })
  }

  #copyOpen(open: OpenElement, to: number): void {
    if (to <= open.copyFrom) return
    this.#copy(open.copyFrom, to - open.copyFrom, 1)
    open.copyFrom = to
  }

  #header(tag: Tag, vr: Vr, length: number): Uint8Array {
    return elementHeader(tag, vr, length, this.#plan.to)
  }

  /** The bytes of the numbers whose order changes; 1 where nothing changes. */
  #unitBytes(element: WalkedElement, isOpaque: boolean): number {
    if (isOpaque) return 1
    // A long value of a short VR is written as UN, thus little endian (PS3.5 §6.2.2).
    const target = writtenVr(element) === 'UN' ? false : this.#plan.to.bigEndian
    return element.encoding.bigEndian === target ? 1 : vrFacts(element.vr).unitBytes
  }

  // ---- changes ----------------------------------------------------------------------------------------

  /** Puts changes below `tag`. */
  #place(item: OpenItem, tag: Tag): void {
    for (let next = item.waiting[0]; next !== undefined && next.tag < tag; next = item.waiting[0]) {
      item.waiting.shift()
      this.#putChange(item, next)
    }
  }

  #putChange(item: OpenItem, change: NewElement | Hole): void {
    if (!isHole(change)) {
      this.#put(writeElement(change, this.#plan.to, item.charset))
      return
    }
    this.#put(this.#header(change.tag, change.vr, change.length ?? undefinedLength))
    this.#written += change.length ?? 0
    if (this.#known !== undefined) this.#output.push(change)
  }

  // ---- lengths and output -----------------------------------------------------------------------------

  #beginLength(): Measure {
    this.lengths.push(0)
    return { index: this.lengths.length - 1, from: 0 }
  }

  #afterHeader(measure: Measure | undefined): Measure | undefined {
    return measure && { index: measure.index, from: this.#written }
  }

  #endLength({ index, from }: Measure): void {
    const length = this.#written - from
    if (length >= undefinedLength) throw new GatewayError('DICOM_LIMIT', 'a sequence is too long for its new encoding')
    this.lengths[index] = length
  }

  /** The length to write; while measuring, any number will do. */
  #lengthOf(measure: Measure | undefined): number {
    return measure === undefined ? undefinedLength : (this.#known?.[measure.index] ?? 0)
  }

  #put(bytes: Uint8Array): void {
    this.#written += bytes.length
    if (this.#known !== undefined && bytes.length > 0) this.#output.push(bytes)
  }

  #copy(offset: number, length: number, unitBytes: number): void {
    this.#written += length
    if (this.#known === undefined || length === 0) return
    const last = this.#output.at(-1)
    if (last !== undefined && isCopy(last) && last.unitBytes === unitBytes && last.offset + last.length === offset) {
      last.length += length
    } else this.#output.push({ offset, length, unitBytes })
  }
}

function openItem(
  { changes }: Plan,
  encoding: Encoding,
  offset: number,
  charset: Charset,
  length: Measure | undefined,
): OpenItem {
  const own = changes.get(offset) ?? noChanges
  const waiting = [...own.values()].filter(change => change !== 'remove').sort((a, b) => a.tag - b.tag)
  return { encoding, changes: own, waiting, charset, length }
}

function isSameEncoding({ from, to }: Plan): boolean {
  return from.explicitVr === to.explicitVr && from.bigEndian === to.bigEndian
}

/** True when something in sequences changes. */
function entersSequences(plan: Plan): boolean {
  return !isSameEncoding(plan) || [...plan.changes.keys()].some(key => key !== topLevel)
}

/** The VR in the new header, if it is an explicit one. */
function writtenVr({ vr, length }: WalkedElement): Vr {
  return length > 0xfffe && !vrFacts(vr).longLength ? 'UN' : vr
}

function isHole(change: NewElement | Hole): change is Hole {
  return 'length' in change
}

function isCopy(output: Output): output is Copy {
  return 'unitBytes' in output
}

/** Gives the output its bytes; short ones are joined. */
async function* write(source: ByteSource, outputs: readonly Output[]): AsyncGenerator<Uint8Array | Hole> {
  let held: Uint8Array[] = []
  let heldBytes = 0
  for (const output of outputs) {
    if (output instanceof Uint8Array) {
      held.push(output)
      heldBytes += output.length
      if (heldBytes < joinBytes) continue
    }
    if (heldBytes > 0) yield Buffer.concat(held)
    held = []
    heldBytes = 0
    if (output instanceof Uint8Array) continue
    if (isCopy(output)) yield* copy(source, output)
    else yield output
  }
  if (heldBytes > 0) yield Buffer.concat(held)
}

async function* copy(source: ByteSource, { offset, length, unitBytes }: Copy): AsyncGenerator<Uint8Array> {
  for (let done = 0; done < length; ) {
    const wanted = Math.min(copyBytes, length - done)
    const bytes = await source.read(offset + done, wanted)
    if (bytes.length < wanted)
      throw new GatewayError('DICOM_UNREADABLE', 'cannot read DICOM: source is shorter than it was')
    yield unitBytes > 1 ? swapped(bytes, unitBytes) : bytes
    done += bytes.length
  }
}

/** A copy with the bytes of each unit reversed; bytes beyond the last whole unit stay. */
function swapped(bytes: Uint8Array, unitBytes: number): Uint8Array {
  const copy = Buffer.from(bytes)
  const whole = copy.subarray(0, copy.length - (copy.length % unitBytes))
  if (unitBytes === 2) whole.swap16()
  else if (unitBytes === 4) whole.swap32()
  else if (unitBytes === 8) whole.swap64()
  return copy
}
