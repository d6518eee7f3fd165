/** Builds a data set from a walk. */
import { type Charset, charsetOfValue, undeclaredCharset } from './charset.ts'
import type { ByteRange, Dataset, Element, Item } from './dataset.ts'
import type { Action, Visitor, WalkedElement } from './element-visitor.ts'

/** What to do with an element: as the walker's actions; `skip` keeps it as a range, `omit` leaves it out. */
export type Choice = Action | 'omit'

interface Level {
  readonly elements: Element[]
  charset: Charset
  /** The item this level is, or undefined at the top. */
  readonly item:
    | { readonly offset: number; readonly valueOffset: number; readonly isUndefinedLength: boolean }
    | undefined
}

const specificCharacterSet = 0x00080005

/** Collects what `choose` wants; `dataset` is complete after the walk. */
export class DatasetBuilder implements Visitor {
  readonly #choose: (element: WalkedElement, depth: number, holdsItems: boolean) => Choice
  readonly #keep: (bytes: Uint8Array) => Uint8Array
  readonly #levels: Level[]
  readonly #entered: WalkedElement[] = []
  #level: Level

  /**
   * @param keep  makes a value of the bytes at hand, which are a view of a larger buffer: copy them to hold
   *   the value for long, return them as they are where the buffer is held anyway
   */
  constructor(
    choose: (element: WalkedElement, depth: number, holdsItems: boolean) => Choice,
    keep: (bytes: Uint8Array) => Uint8Array,
  ) {
    this.#choose = choose
    this.#keep = keep
    this.#level = { elements: [], charset: undeclaredCharset(), item: undefined }
    this.#levels = [this.#level]
  }

  get dataset(): Dataset {
    const [{ elements, charset } = this.#level] = this.#levels
    return { elements, charset }
  }

  element(element: WalkedElement, depth: number, holdsItems: boolean): Action {
    const choice = this.#choose(element, depth, holdsItems)
    if (choice === 'omit') return 'skip'
    if (choice === 'stop') return 'stop'
    this.#level.elements.push(element)
    if (choice === 'enter' && holdsItems) {
      if (element.vr === 'SQ') element.items = []
      else element.fragments = []
      this.#entered.push(element)
    }
    return choice
  }

  value(element: WalkedElement, bytes: Uint8Array): void {
    element.value = this.#keep(bytes)
    if (element.tag === specificCharacterSet) this.#level.charset = charsetOfValue(bytes)
  }

  beginItem(offset: number, valueOffset: number, length: number | undefined): void {
    const item = { offset, valueOffset, isUndefinedLength: length === undefined }
    this.#level = { elements: [], charset: this.#level.charset, item }
    this.#levels.push(this.#level)
  }

  endItem(_contentEnd: number, end: number): void {
    const { elements, charset, item } = this.#level
    this.#levels.pop()
    const around = this.#levels.at(-1)
    if (item === undefined || around === undefined) return
    this.#level = around
    const { offset, valueOffset, isUndefinedLength } = item
    const built: Item = { elements, charset, offset, valueOffset, length: end - valueOffset, isUndefinedLength }
    this.#entered.at(-1)?.items?.push(built)
  }

  fragment(range: ByteRange): void {
    this.#entered.at(-1)?.fragments?.push(range)
  }

  endElement(element: WalkedElement): void {
    if (this.#entered.at(-1) === element) this.#entered.pop()
  }
}
