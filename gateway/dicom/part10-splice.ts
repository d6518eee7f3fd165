/**
 * Edits elements of a file by splicing: what is not edited keeps its bytes, whatever its encoding, and is copied by
 * range, so that memory does not grow with the size of the file.
 *
 * Two passes over the source: the first walks the headers and plans replacements, among them the lengths of the items,
 * sequences and groups around an edit; the second copies.
 */
import { pipeline, Readable } from 'node:stream'
import { createDeflateRaw } from 'node:zlib'
import { GatewayError } from '../errors.ts'
import type { ByteSource } from './byte-source.ts'
import { type Charset, charsetOfValue, undeclaredCharset } from './charset.ts'
import type { Encoding } from './dataset.ts'
import type { Action, Visitor, WalkedElement } from './element-visitor.ts'
import { type WalkStart, walk } from './element-walker.ts'
import { inflateSource } from './inflate-source.ts'
import { findLayout, type Part10Layout } from './part10-layout.ts'
import { type NewElement, writeElement } from './part10-writer.ts'
import { formatTag, isGroupLength, type Tag } from './tag.ts'

/**
 * One edit. `within` leads to the item that is edited: sequence tag, item index from 0, and so on; empty or absent for
 * the top level (tags of group 2 are the file meta's). A later edit of the same element replaces an earlier one.
 */
export type Edit =
  | { readonly within?: readonly number[]; readonly set: NewElement }
  | { readonly within?: readonly number[]; readonly remove: Tag }

const copyBytes = 1_048_576
const maxInflatedBytes = 4_294_967_296
const specificCharacterSet = 0x00080005

/**
 * The bytes of `source` with the edits made. `set` replaces every element of that tag in the item, or inserts it in
 * order; `remove` of an absent element does nothing. Without edits the bytes are those of the source. A deflated data
 * set is deflated anew when it is edited.
 *
 * @param text  `recoded`: the edits encode all text in the character set that one of them puts into (0008,0005)
 * @throws GatewayError while iterating: DICOM_UNREADABLE or DICOM_LIMIT for the source, BAD_REQUEST for a value that its
 *   VR or the character set of the data set cannot represent, for an item that does not exist, and for (0008,0005) of text
 *   that is kept
 */
export async function* spliceEdits(
  source: ByteSource,
  edits: readonly Edit[],
  text: 'kept' | 'recoded' = 'kept',
): AsyncGenerator<Uint8Array> {
  if (edits.length === 0) return yield* copyRange(source, 0, source.sizeBytes)
  const layout = await findLayout(source)
  const root = groupEdits(edits, text)
  const metaEdits = pickGroup(root, tag => tag >>> 16 === 2)
  const dataEdits = pickGroup(root, tag => tag >>> 16 !== 2)
  yield* splice(source, await planMeta(source, layout, metaEdits), 0, layout.datasetOffset)
  if (isEmpty(dataEdits)) yield* copyRange(source, layout.datasetOffset, source.sizeBytes)
  else if (layout.isDeflated) yield* spliceDeflated(source, layout, dataEdits)
  else {
    const { datasetOffset: offset, encoding } = layout
    yield* splice(source, await plan(source, { offset, encoding }, dataEdits), offset, source.sizeBytes)
  }
}

// ---- edits by item ----------------------------------------------------------------------------------

/** The edits of one item: new elements, or undefined to remove, and the items below. */
interface ItemEdits {
  readonly elements: Map<Tag, NewElement | undefined>
  readonly sequences: Map<Tag, Map<number, ItemEdits>>
}

function groupEdits(edits: readonly Edit[], text: 'kept' | 'recoded'): ItemEdits {
  const root = noEdits()
  for (const edit of edits) {
    const { within = [] } = edit
    if (within.length % 2 !== 0) throw refused('expected sequence tags and item indices in turn')
    let item = root
    for (let i = 0; i < within.length; i += 2) item = itemAt(item, within[i] ?? 0, within[i + 1] ?? 0)
    const tag = 'set' in edit ? edit.set.tag : edit.remove
    if (tag === specificCharacterSet && text === 'kept')
      throw refused('the character set of existing text cannot be edited')
    item.elements.set(tag, 'set' in edit ? edit.set : undefined)
  }
  return root
}

function itemAt(item: ItemEdits, sequence: Tag, index: number): ItemEdits {
  const items = item.sequences.get(sequence) ?? new Map<number, ItemEdits>()
  const found = items.get(index) ?? noEdits()
  item.sequences.set(sequence, items.set(index, found))
  return found
}

function noEdits(): ItemEdits {
  return { elements: new Map(), sequences: new Map() }
}

function pickGroup({ elements, sequences }: ItemEdits, isWanted: (tag: Tag) => boolean): ItemEdits {
  return {
    elements: new Map([...elements].filter(([tag]) => isWanted(tag))),
    sequences: new Map([...sequences].filter(([tag]) => isWanted(tag))),
  }
}

// ---- first pass: what to replace ---------------------------------------------------------------------

/** Replaces `length` bytes at `offset`. */
interface Splice {
  readonly offset: number
  readonly length: number
  readonly bytes: Uint8Array
}

async function planMeta(
  source: ByteSource,
  { meta, datasetOffset }: Part10Layout,
  edits: ItemEdits,
): Promise<Splice[]> {
  if (isEmpty(edits)) return []
  const [first] = meta.elements
  if (first === undefined) throw refused('the file has no file meta information to edit')
  return plan(source, { offset: first.offset, encoding: first.encoding, end: datasetOffset }, edits)
}

async function plan(source: ByteSource, start: WalkStart, edits: ItemEdits): Promise<Splice[]> {
  const planner = new Planner(edits, start.encoding)
  return planner.finish(await walk(source, start, planner))
}

/** A place in the bytes where a length of four bytes is written. */
interface WrittenLength {
  readonly offset: number
  readonly value: number
}

/** An item with edits, or the top level, that the walk is in. */
interface OpenItem {
  readonly edits: ItemEdits
  readonly encoding: Encoding
  charset: Charset
  /** New elements not yet placed, ascending. */
  readonly waiting: NewElement[]
  /** Sequences that were entered. */
  readonly visited: Set<Tag>
  /** How many bytes each group grew by, for its group length. */
  readonly growth: Map<number, number>
  readonly groupLengths: Map<number, WrittenLength>
  /** The length of the item itself, unless it is undefined or the top level. */
  readonly ownLength: WrittenLength | undefined
}

/** A sequence on the way to an edited item. */
interface OpenSequence {
  readonly element: WalkedElement
  readonly items: ReadonlyMap<number, ItemEdits>
  readonly declaredLength: number
  itemIndex: number
  growth: number
}

class Planner implements Visitor {
  readonly #splices: Splice[] = []
  /** Undefined for items without edits. */
  readonly #items: (OpenItem | undefined)[]
  readonly #sequences: OpenSequence[] = []
  /** An element of undefined length that is cut out once its end is known. */
  #cutting: { readonly element: WalkedElement; readonly bytes: Uint8Array } | undefined

  constructor(edits: ItemEdits, encoding: Encoding) {
    this.#items = [openItem(edits, encoding, undeclaredCharset(), undefined)]
  }

  /** The plan, ascending, after a walk that ended at `end`. */
  finish(end: number): Splice[] {
    const [top] = this.#items
    if (top !== undefined) this.#complete(top, end)
    return this.#splices.sort((a, b) => a.offset - b.offset)
  }

  element(element: WalkedElement, _depth: number, holdsItems: boolean): Action {
    const item = this.#items.at(-1)
    if (item === undefined) return 'skip'
    const { tag } = element
    this.#place(item, tag, element.offset)
    if (item.edits.elements.has(tag)) {
      this.#replace(item, element)
      return 'skip'
    }
    const items = item.edits.sequences.get(tag)
    if (items !== undefined && holdsItems && element.vr === 'SQ') {
      item.visited.add(tag)
      this.#sequences.push({ element, items, declaredLength: element.length, itemIndex: -1, growth: 0 })
      return 'enter'
    }
    return tag === specificCharacterSet || (isGroupLength(tag) && element.length === 4) ? 'value' : 'skip'
  }

  value(element: WalkedElement, bytes: Uint8Array): void {
    const item = this.#items.at(-1)
    if (item === undefined) return
    if (element.tag === specificCharacterSet) item.charset = charsetOfValue(bytes)
    else {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      const value = view.getUint32(0, !element.encoding.bigEndian)
      item.groupLengths.set(element.tag >>> 16, { offset: element.valueOffset, value })
    }
  }

  beginItem(offset: number, _valueOffset: number, length: number | undefined): void {
    const sequence = this.#sequences.at(-1)
    const around = this.#items.at(-1)
    if (sequence === undefined || around === undefined) return
    const edits = sequence.items.get(++sequence.itemIndex)
    const ownLength = length === undefined ? undefined : { offset: offset + 4, value: length }
    this.#items.push(edits && openItem(edits, sequence.element.encoding, around.charset, ownLength))
  }

  endItem(contentEnd: number): void {
    const item = this.#items.pop()
    const sequence = this.#sequences.at(-1)
    if (item === undefined || sequence === undefined) return
    const growth = this.#complete(item, contentEnd)
    if (item.ownLength !== undefined) this.#grow(item.ownLength, growth, item.encoding)
    sequence.growth += growth
  }

  fragment(): void {}

  endElement(element: WalkedElement): void {
    const item = this.#items.at(-1)
    if (item === undefined) return
    if (this.#cutting?.element === element) {
      this.#cut(item, element, this.#cutting.bytes)
      this.#cutting = undefined
    }
    const sequence = this.#sequences.at(-1)
    if (sequence?.element !== element) return
    this.#sequences.pop()
    for (const [index, edits] of sequence.items)
      if (index > sequence.itemIndex && hasNew(edits)) throw noItem(element.tag)
    addGrowth(item, element.tag, sequence.growth)
    if (element.isUndefinedLength) return
    this.#grow({ offset: element.valueOffset - 4, value: sequence.declaredLength }, sequence.growth, item.encoding)
  }

  /** Puts new elements below `tag` at `offset`. */
  #place(item: OpenItem, tag: Tag, offset: number): void {
    for (let next = item.waiting[0]; next !== undefined && next.tag < tag; next = item.waiting[0]) {
      item.waiting.shift()
      const bytes = writeElement(next, item.encoding, item.charset)
      this.#splices.push({ offset, length: 0, bytes })
      addGrowth(item, next.tag, bytes.length)
    }
  }

  /** Cuts an element out; the new one takes the place of its first occurrence, others just go. */
  #replace(item: OpenItem, element: WalkedElement): void {
    const [next] = item.waiting
    let bytes: Uint8Array = new Uint8Array(0)
    if (next?.tag === element.tag) {
      item.waiting.shift()
      bytes = writeElement(next, item.encoding, item.charset)
    }
    if (element.isUndefinedLength) this.#cutting = { element, bytes }
    else this.#cut(item, element, bytes)
  }

  #cut(item: OpenItem, element: WalkedElement, bytes: Uint8Array): void {
    const length = element.valueOffset + element.length - element.offset
    this.#splices.push({ offset: element.offset, length, bytes })
    addGrowth(item, element.tag, bytes.length - length)
  }

  /** Places what is left and corrects group lengths; returns the growth of the item. */
  #complete(item: OpenItem, contentEnd: number): number {
    this.#place(item, Number.POSITIVE_INFINITY, contentEnd)
    for (const [tag, items] of item.edits.sequences) {
      const isMissing = !item.visited.has(tag) && !item.edits.elements.has(tag)
      if (isMissing && [...items.values()].some(hasNew)) throw noItem(tag)
    }
    let growth = 0
    for (const [group, bytes] of item.growth) {
      growth += bytes
      const written = item.groupLengths.get(group)
      if (written !== undefined) this.#grow(written, bytes, item.encoding)
    }
    return growth
  }

  #grow({ offset, value }: WrittenLength, growth: number, encoding: Encoding): void {
    if (growth === 0) return
    const bytes = new Uint8Array(4)
    // A group length may have been wrong before; a length of 2^32 - 1 would mean an undefined one.
    const grown = Math.min(Math.max(0, value + growth), 0xfffffffe)
    new DataView(bytes.buffer).setUint32(0, grown, !encoding.bigEndian)
    this.#splices.push({ offset, length: 4, bytes })
  }
}

function openItem(
  edits: ItemEdits,
  encoding: Encoding,
  charset: Charset,
  ownLength: WrittenLength | undefined,
): OpenItem {
  const waiting = [...edits.elements.values()].filter(element => element !== undefined).sort((a, b) => a.tag - b.tag)
  return {
    edits,
    encoding,
    charset,
    waiting,
    visited: new Set(),
    growth: new Map(),
    groupLengths: new Map(),
    ownLength,
  }
}

function addGrowth(item: OpenItem, tag: Tag, bytes: number): void {
  const group = tag >>> 16
  item.growth.set(group, (item.growth.get(group) ?? 0) + bytes)
}

function isEmpty({ elements, sequences }: ItemEdits): boolean {
  return elements.size === 0 && sequences.size === 0
}

/** True when something would be written below an item that is not there. */
function hasNew({ elements, sequences }: ItemEdits): boolean {
  const isNew = [...elements.values()].some(element => element !== undefined)
  return isNew || [...sequences.values()].some(items => [...items.values()].some(hasNew))
}

// ---- second pass: copy ------------------------------------------------------------------------------

async function* splice(
  source: ByteSource,
  splices: readonly Splice[],
  from: number,
  to: number,
): AsyncGenerator<Uint8Array> {
  let at = from
  for (const { offset, length, bytes } of splices) {
    yield* copyRange(source, at, offset)
    if (bytes.length > 0) yield bytes
    at = offset + length
  }
  yield* copyRange(source, at, to)
}

async function* copyRange(source: ByteSource, from: number, to: number): AsyncGenerator<Uint8Array> {
  for (let at = from; at < to; ) {
    const bytes = await source.read(at, Math.min(copyBytes, to - at))
    if (bytes.length === 0) {
      if (to === Number.POSITIVE_INFINITY) return
      throw new GatewayError('DICOM_UNREADABLE', 'cannot read DICOM: source is shorter than it was', {
        context: { at },
      })
    }
    yield bytes
    at += bytes.length
  }
}

async function* spliceDeflated(
  source: ByteSource,
  { datasetOffset, encoding }: Part10Layout,
  edits: ItemEdits,
): AsyncGenerator<Uint8Array> {
  const splices = await planDeflated(source, datasetOffset, encoding, edits)
  await using inflated = inflateSource(source, datasetOffset, maxInflatedBytes)
  const deflater = createDeflateRaw()
  // The outcome reaches the loop below: a failed source destroys the deflater with its error.
  pipeline(Readable.from(splice(inflated, splices, 0, Number.POSITIVE_INFINITY)), deflater, () => {})
  let length = 0
  for await (const chunk of deflater) {
    if (!(chunk instanceof Uint8Array)) continue
    length += chunk.length
    yield chunk
  }
  if (length % 2 === 1) yield new Uint8Array(1)
}

async function planDeflated(
  source: ByteSource,
  datasetOffset: number,
  encoding: Encoding,
  edits: ItemEdits,
): Promise<Splice[]> {
  await using inflated = inflateSource(source, datasetOffset, maxInflatedBytes)
  return await plan(inflated, { offset: 0, encoding }, edits)
}

function refused(message: string): GatewayError {
  return new GatewayError('BAD_REQUEST', message)
}

function noItem(tag: Tag): GatewayError {
  return new GatewayError('BAD_REQUEST', 'expected an item to edit, found none', { context: { tag: formatTag(tag) } })
}
