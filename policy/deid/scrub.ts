/** Takes identifiers out of text that is kept. */
import { fold, type Identifiers, wordPattern } from './identifiers.ts'
import { WholeWords } from './whole-words.ts'

/** How much is taken out: a patient's own identifiers, or also what looks like anybody's. */
export type ScrubLevel = 'echo' | 'clean'

/** A name that is part of a longer word is taken for an echo from this length on. */
const minGluedLetters = 5
const withoutSpaces = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]/u

/** Scrubs the texts of one instance, in time that does not grow with the number of identifiers. */
export class Scrubber {
  readonly #names: ReadonlySet<string>
  /** Lengths of the names that are looked for inside of words. */
  readonly #gluedLengths: readonly number[]
  /** Identifiers in scripts without spaces between words, and their lengths. */
  readonly #ideographs: ReadonlySet<string>
  readonly #ideographLengths: readonly number[]
  readonly #ids: WholeWords
  readonly #dates: readonly RegExp[]
  readonly #areDatesKept: boolean
  /** Texts are the same in all instances of a series. */
  readonly #known = new Map<string, string>()

  constructor(identifiers: Identifiers, options: { readonly dates: 'kept' | 'removed' }) {
    const names = [...identifiers.names]
    this.#names = identifiers.names
    this.#gluedLengths = lengthsOf(names.filter(name => name.length >= minGluedLetters))
    this.#ideographs = new Set(names.filter(name => name.length >= 2 && withoutSpaces.test(name)))
    this.#ideographLengths = lengthsOf([...this.#ideographs])
    this.#ids = new WholeWords(identifiers.ids)
    this.#dates = [...identifiers.birthDates].map(datePattern)
    this.#areDatesKept = options.dates === 'kept'
  }

  /** The text without identifiers; the same text when there were none. */
  scrub(text: string, level: ScrubLevel): string {
    if (text === '') return text
    const key = level + text
    const known = this.#known.get(key)
    if (known !== undefined) return known
    const scrubbed = this.#scrub(text, level)
    if (text.length <= maxRememberedLength && this.#known.size < maxRemembered) this.#known.set(key, scrubbed)
    return scrubbed
  }

  /** True when a coded value, as a whole, is an identifier. */
  isIdentifier(value: string): boolean {
    const folded = fold(value)
    if (codeWords.has(folded)) return false
    return this.#names.has(folded) || this.#ids.has(folded)
  }

  #scrub(text: string, level: ScrubLevel): string {
    let out = this.#ids.cut(text)
    for (const date of this.#dates) out = out.replace(date, ' ')
    if (level === 'clean') out = removePatterns(out, this.#areDatesKept)
    if (this.#ideographs.size > 0 && withoutSpaces.test(out)) out = this.#cutIdeographs(out)
    out = out.replace(wordPattern, word => (this.#isName(word) ? ' ' : word))
    return out === text ? text : tidy(out)
  }

  #isName(word: string): boolean {
    const folded = fold(word)
    if (this.#names.has(folded)) return true
    return folded.length > minGluedLetters && hasPart(folded, this.#names, this.#gluedLengths)
  }

  #cutIdeographs(text: string): string {
    const composed = text.normalize('NFC')
    let out = ''
    for (let at = 0; at < composed.length; ) {
      const from = at
      const length = this.#ideographLengths.find(size => this.#ideographs.has(fold(composed.slice(from, from + size))))
      out += length === undefined ? composed[at] : ' '
      at += length ?? 1
    }
    return out
  }
}

const maxRememberedLength = 1_024
const maxRemembered = 4_000

/** Distinct lengths, the longest first. */
function lengthsOf(texts: readonly string[]): readonly number[] {
  return [...new Set(texts.map(text => text.length))].sort((a, b) => b - a)
}

function hasPart(word: string, parts: ReadonlySet<string>, lengths: readonly number[]): boolean {
  for (const length of lengths)
    for (let at = 0; at + length <= word.length; at++) if (parts.has(word.slice(at, at + length))) return true
  return false
}

/** Words of code strings that are somebody's name too; as coded values they mean what the standard says. */
const codeWords: ReadonlySet<string> = new Set(
  `ct mr pt us cr dx mg nm xa rf ot sc sr pr ko seg rtstruct rtplan rtdose rtimage yes no male female head neck chest
   abdomen pelvis spine brain heart breast hand foot knee hip arm leg shoulder skull ankle wrist elbow liver kidney axial
   original primary derived secondary localizer left right none unknown other body whole ax sag cor m f o l r p a h s i
   perfusion diffusion adc trace tracew fa mosaic fmri mpr mip minip average volume reformatted resampled subtraction
   screen mask dynamic static tomo gated fluoro angio phase magnitude real imaginary monochrome1 monochrome2 rgb mod norm rectangle circle unpaired paired lung prostate extremity image`
    .split(/\s+/)
    .filter(word => word !== ''),
)

/** A birth date as people write it: year first or last, with or without separators, day and month either way round. */
function datePattern(date: string): RegExp {
  const [year, month, day] = [date.slice(0, 4), date.slice(4, 6), date.slice(6)]
  const loose = (digits: string): string => (digits.startsWith('0') ? `0?${digits.slice(1)}` : digits)
  const [m, d] = [loose(month), loose(day)]
  const separator = '[-./ ]'
  const shortYear = `(?:${year.slice(0, 2)})?${year.slice(2)}`
  const forms = [
    `${year}${month}${day}`,
    `${day}${month}${year}`,
    `${month}${day}${year}`,
    `${year}${separator}${m}${separator}${d}`,
    `${d}${separator} ?${m}${separator} ?${shortYear}`,
    `${m}${separator} ?${d}${separator} ?${shortYear}`,
  ]
  return new RegExp(`(?<!\\d)(?:${forms.join('|')})(?!\\d)`, 'g')
}

const monthNames =
  'jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?'

const datePatterns: readonly RegExp[] = [
  /(?<!\d)\d{4}([-./])\d{1,2}\1\d{1,2}(?!\d)/g,
  /(?<!\d)\d{1,2}([-./])\d{1,2}\1(?:\d{4}|\d{2})(?!\d)/g,
  /(?<!\d)(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:\d{2,6})?(?!\d)/g,
  new RegExp(`(?<!\\p{L})\\d{1,2}[-. ]{0,2}(?:${monthNames})\\.?[-, ]{0,2}\\d{2,4}(?!\\d)`, 'giu'),
  new RegExp(`(?<!\\p{L})(?:${monthNames})\\.?[- ]{0,2}\\d{1,2}(?:st|nd|rd|th)?[, ]{1,2}\\d{4}(?!\\d)`, 'giu'),
]

/** What looks like a person, a number of a person, or a way to reach one. */
const personPatterns: readonly RegExp[] = [
  // UIDs, addresses of mail and web.
  /(?<![\d.])\d+(?:\.\d+){4,}(?![\d.])/g,
  /[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})*/g,
  /\b(?:https?|ftp|file):\/\/\S{1,500}/gi,
  // Names after a title, or after a word that announces one.
  /\b(?:dr|prof|pd|mrs|ms|miss|herr|frau|mme|mlle)\b\.? {0,3}(?:[\p{L}'.-]{1,40} ?){1,3}/giu,
  /\bMr\.? {0,3}\p{Lu}[\p{L}'-]{1,40}(?: \p{Lu}[\p{L}'-]{1,40})?/gu,
  /\b(?:patient|pat|pt|name|mrn|id|dob|born|physician|doctor|operator|technologist|tech|referrer|tel|phone|fax)\.? {0,2}[:=#][^;,\n\r]{0,80}/giu,
  /\b(?:by|von|per) \p{Lu}[\p{L}'-]{1,40}(?: \p{Lu}[\p{L}'-]{1,40}){0,2}/gu,
  // Numbers of persons: of social security, telephone, record.
  /(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)/g,
  /\+?\(?\d{2,4}\)?(?:[ /-]{1,2}\d{2,6}){2,5}/g,
  /[\p{L}\d-]{0,12}\d{5,}[\p{L}\d-]{0,12}/gu,
  // Addresses.
  /\d{1,5} (?:[\p{L}.]{1,30} ){1,3}(?:street|st|road|rd|avenue|ave|lane|ln|drive|blvd)\b\.?/giu,
]

/** A name in DICOM's own form; but protocols are named so too: `Head^Routine`. */
const caretName = /[\p{L}'-]{1,64}(?:\^[\p{L}' .-]{0,64}){1,4}/gu
const examWord =
  /head|neck|chest|thora|abd|pelvi|spine|spin|brain|neuro|heart|card|coron|breast|mamm|liver|kidney|renal|knee|hip|hand|foot|shoulder|ankle|wrist|elbow|vasc|angio|onco|routine|adult|child|pediat|exam|proto|scan|seq|body|extrem|joint|lung|pulm|prostat|kopf|hals|bauch|becken|thorax|wirbel|herz/i

function removePatterns(text: string, areDatesKept: boolean): string {
  let out = text
  if (!areDatesKept) for (const pattern of datePatterns) out = out.replace(pattern, ' ')
  for (const pattern of personPatterns) out = out.replace(pattern, ' ')
  out = out.replace(caretName, name => (examWord.test(name) ? name : ' '))
  return out
}

function tidy(text: string): string {
  return text
    .replace(/ {2,}/g, ' ')
    .replace(/^[ ,;:_^=-]+|[ ,;:_^=-]+$/g, '')
    .trim()
}
