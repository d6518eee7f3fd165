/** Finds many texts in one: each as a whole, with no letter or digit beside it. */
import { fold } from './identifiers.ts'

/** A set of texts, in lower case, to be found where a word begins. Time grows with the text searched, not with the set. */
export class WholeWords {
  readonly #texts: ReadonlySet<string>
  /** By the first word of a text, the longest first. */
  readonly #byFirstWord = new Map<string, string[]>()
  readonly #others: string[] = []

  constructor(texts: ReadonlySet<string>) {
    this.#texts = texts
    for (const text of [...texts].sort((a, b) => b.length - a.length)) {
      const first = firstWord.exec(text)?.[0]
      if (first === undefined) this.#others.push(text)
      else this.#byFirstWord.set(first, [...(this.#byFirstWord.get(first) ?? []), text])
    }
  }

  /** True when the whole text is one of the set. */
  has(folded: string): boolean {
    return this.#texts.has(folded)
  }

  /** True when one of the set is in the text. */
  isIn(folded: string): boolean {
    return this.#find(folded, 0) !== undefined
  }

  /** The text with a space in the place of each of the set. */
  cut(text: string): string {
    if (this.#texts.size === 0) return text
    let searched = text
    let folded = fold(searched)
    // Folding may change lengths; then what is searched is cut, without its accents.
    if (folded.length !== searched.length) {
      if (!this.isIn(folded)) return text
      searched = text.normalize('NFC')
      folded = fold(searched)
      if (folded.length !== searched.length) searched = folded
    }
    let out = ''
    let from = 0
    for (let found = this.#find(folded, 0); found !== undefined; found = this.#find(folded, from)) {
      out += `${searched.slice(from, found.at)} `
      from = found.at + found.length
    }
    return out === '' ? text : out + searched.slice(from)
  }

  /** The first place from `from` on. */
  #find(folded: string, from: number): { at: number; length: number } | undefined {
    let found = this.#findWord(folded, from)
    for (const text of this.#others) {
      const at = folded.indexOf(text, from)
      if (at >= 0 && at < (found?.at ?? folded.length) && isWholeAt(folded, text, at))
        found = { at, length: text.length }
    }
    return found
  }

  #findWord(folded: string, from: number): { at: number; length: number } | undefined {
    if (this.#byFirstWord.size === 0) return undefined
    const words = new RegExp(wordsSource, 'gu')
    words.lastIndex = from
    for (let match = words.exec(folded); match !== null; match = words.exec(folded)) {
      const { index } = match
      const text = this.#byFirstWord.get(match[0])?.find(one => isWholeAt(folded, one, index))
      if (text !== undefined) return { at: index, length: text.length }
    }
    return undefined
  }
}

const wordsSource = '[\\p{L}\\p{M}\\p{N}]+'
const firstWord = new RegExp(`^${wordsSource}`, 'u')

function isWholeAt(folded: string, text: string, at: number): boolean {
  return folded.startsWith(text, at) && !isWord(folded[at + text.length])
}

function isWord(character: string | undefined): boolean {
  return character !== undefined && /[\p{L}\p{M}\p{N}]/u.test(character)
}
