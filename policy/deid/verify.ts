/**
 * The second pass: reads the bytes that were written, by the general reader and not by what the engine remembers, and
 * looks for what must not be there. It asks the tables again, in its own words; where the two disagree nothing leaves.
 */
import type { ByteSource } from '../../gateway/dicom/byte-source.ts'
import { type Charset, charsetOf } from '../../gateway/dicom/charset.ts'
import { type Dataset, decodeStrings, type Element, itemsOf, stringOf } from '../../gateway/dicom/dataset.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { isPrivateTag, type Tag } from '../../gateway/dicom/tag.ts'
import { isBulkVr, vrFacts } from '../../gateway/dicom/vr.ts'
import { isRequired } from './attribute-types.ts'
import { dummyDate, isDummyText, ownTexts } from './dummies.ts'
import { fold, type Identifiers, wordPattern } from './identifiers.ts'
import { marks, methodCodesOf } from './marks.ts'
import type { PixelPlan } from './pixel-plan.ts'
import { isCreator, PrivateBlocks } from './private.ts'
import { datesOf, type Profile } from './profile.ts'
import type { RewriteRecord } from './rewrite.ts'
import { rowOf } from './tables.ts'
import { WholeWords } from './whole-words.ts'

/** What is known of the output beforehand. */
export interface Expected {
  readonly profile: Profile
  readonly identifiers: Identifiers
  readonly record: Pick<RewriteRecord, 'uids' | 'dates'>
  readonly pseudonym: string
  readonly sopInstanceUid: string
  readonly pixels: Pick<PixelPlan, 'outcome'>
}

/** Something that must not be in the output, or is missing there. */
export interface Finding {
  readonly tag: Tag
  readonly rule: string
}

/** The first findings of the output, at most ten. */
export async function verifyOutput(output: ByteSource, expected: Expected): Promise<readonly Finding[]> {
  const file = await readPart10(output, { maxValueBytes: 16_777_216, maxTotalBytes: 134_217_728, limits })
  const verifier = new Verifier(expected)
  if (file.preamble.length !== 128 || file.preamble.some(byte => byte !== 0))
    verifier.find(0, 'the preamble is not empty')
  for (const { tag } of file.meta.elements) if (!metaTags.has(tag)) verifier.find(tag, 'not of a file meta of ours')
  const named = [stringOf(file.meta, 0x00020003), stringOf(file.dataset, 0x00080018)]
  if (named.some(uid => uid !== expected.sopInstanceUid)) verifier.find(0x00080018, 'not the instance that was meant')
  verifier.marks(file.dataset)
  verifier.dataset(file.dataset, true)
  return verifier.findings
}

const metaTags: ReadonlySet<Tag> = new Set([
  0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013,
])
const limits = { maxDepth: 64, maxElements: 5_000_000 }
const maxFindings = 10
/** Bytes of binary values are searched up to here; longer ones are pixels and their kin. */
const maxSearchedBytes = 65_536
/** Shorter texts turn up in bytes by chance. */
const minSearchedLetters = 6

class Verifier {
  readonly findings: Finding[] = []
  readonly #expected: Expected
  readonly #originals: ReadonlySet<string>
  readonly #ownTags: ReadonlySet<Tag>
  readonly #optionNames: readonly string[]
  readonly #overridden: ReadonlySet<Tag>
  readonly #ids: WholeWords
  readonly #needles = new Map<string, WholeWords>()

  constructor(expected: Expected) {
    this.#expected = expected
    const { profile, record, pixels, pseudonym } = expected
    this.#originals = new Set([...record.uids].filter(([from, to]) => from !== to).map(([from]) => from))
    this.#ownTags = new Set(marks(profile, pixels, pseudonym).map(({ tag }) => tag))
    this.#ids = new WholeWords(expected.identifiers.ids)
    this.#optionNames = profile.options
    this.#overridden = new Set(profile.overrides.map(({ attribute }) => attribute))
  }

  /** Of the data set that is verified. */
  #sopClassUid = ''

  find(tag: Tag, rule: string): void {
    if (this.findings.length < maxFindings) this.findings.push({ tag, rule })
  }

  /** The instance says what was done to it. */
  marks(dataset: Dataset): void {
    this.#sopClassUid = stringOf(dataset, 0x00080016) ?? ''
    const { profile, pixels } = this.#expected
    if (stringOf(dataset, 0x00120062) !== 'YES') this.find(0x00120062, 'not marked as de-identified')
    const codes = itemsOf(dataset, 0x00120064).map(item => stringOf(item, 0x00080100))
    if (codes.join() !== methodCodesOf(profile, pixels).join()) this.find(0x00120064, 'not the methods that were used')
    const temporal = { kept: 'UNMODIFIED', shifted: 'MODIFIED', removed: 'REMOVED' }[datesOf(profile)]
    if (stringOf(dataset, 0x00280303) !== temporal) this.find(0x00280303, 'not what became of dates')
  }

  dataset(dataset: Dataset, isTop: boolean): void {
    const blocks = new PrivateBlocks(dataset, this.#expected.profile)
    for (const element of dataset.elements) {
      const isOwn = isTop && this.#ownTags.has(element.tag) && element.tag !== 0x0018a001
      if (!isOwn) this.#element(element, dataset, blocks)
      if (this.findings.length >= maxFindings) return
    }
  }

  #element(element: Element, dataset: Dataset, blocks: PrivateBlocks): void {
    const { tag, vr, items } = element
    if (isPrivateTag(tag)) {
      const isKept = isCreator(tag) ? blocks.isUsedCreator(tag) : blocks.vrOf(element) !== undefined
      if (!isKept) this.find(tag, 'a private attribute that is not safe')
      // The creator of a safe attribute is a fixed text, whoever has the same name.
      if (isCreator(tag)) return
    } else {
      if ((tag & 0xffff) === 0 || tag < 0x00080000) this.find(tag, 'not of a data set')
      if (tag >>> 24 === 0x50 || tag >>> 24 === 0x60) this.find(tag, 'a curve or an overlay')
      this.#byRow(element, dataset)
    }
    if (items !== undefined) for (const item of items) this.dataset(item, false)
    else if (vr === 'UI') this.#uids(element, dataset)
    else if (vr === 'DA' || vr === 'DT') this.#dates(element, dataset)
    else if (vrFacts(vr).kind === 'text' || vr === 'CS' || vr === 'AE' || vr === 'UR') this.#text(element, dataset)
    else if (isBulkVr(vr)) this.#bytes(element)
  }

  /** The Basic Profile's code, where no option and no override says otherwise. */
  #byRow(element: Element, dataset: Dataset): void {
    const row = rowOf(element.tag)
    if (row === undefined || this.#overridden.has(element.tag)) return
    if (this.#optionNames.some(name => Object.hasOwn(row.options, name))) return
    const { tag, length, vr } = element
    if (row.basic === 'X' && !isRequired(this.#sopClassUid, tag)) this.find(tag, 'X in Table E.1-1, but present')
    if (vr === 'SQ' || vr === 'UI' || length === 0 || isPatient(tag)) return
    // In a content item Table E.3.4-1 decides.
    if (stringOf(dataset, 0x0040a040) !== undefined && contentValues.has(tag)) return
    if (row.basic === 'Z') this.find(tag, 'Z in Table E.1-1, but not empty')
    if (row.basic === 'D' || row.basic === 'X' || row.basic.includes('/')) {
      const isDummy = element.value?.every(byte => byte === 0) ?? false
      const texts = decodeStrings(element, dataset.charset)
      if (!isDummy && !texts.every(text => text === '' || isDummyText(text)))
        this.find(tag, 'to be replaced, but not a dummy')
    }
  }

  #uids(element: Element, dataset: Dataset): void {
    for (const uid of decodeStrings(element, dataset.charset))
      if (this.#originals.has(uid)) this.find(element.tag, 'a UID of the source')
  }

  #dates(element: Element, dataset: Dataset): void {
    const { profile, record } = this.#expected
    if (this.#overridden.has(element.tag)) return
    const row = rowOf(element.tag)
    const isOfDevice = this.#optionNames.includes('retainDeviceIdentity') && row?.options.retainDeviceIdentity === 'K'
    const dates = datesOf(profile)
    if (dates === 'kept' || (dates === 'removed' && isOfDevice)) return
    for (const date of decodeStrings(element, dataset.charset)) {
      if (date === '' || date.startsWith(dummyDate)) continue
      if (dates === 'removed' || !record.dates.has(date)) this.find(element.tag, 'a date that was not moved')
    }
  }

  #text(element: Element, dataset: Dataset): void {
    const { identifiers, pseudonym } = this.#expected
    const isOurs = (text: string): boolean =>
      text === '' || isDummyText(text) || ownTexts.has(text) || text === pseudonym
    const texts = decodeStrings(element, dataset.charset).filter(text => !isOurs(text))
    if (texts.length === 0) return
    for (const text of texts) {
      const folded = fold(text)
      if (element.vr === 'CS' || element.vr === 'AE') {
        if (folded.length >= minSearchedLetters && identifiers.ids.has(folded))
          this.find(element.tag, 'an identifier in a code')
        continue
      }
      for (const [word] of folded.matchAll(wordPattern))
        if (identifiers.names.has(word)) this.find(element.tag, 'a part of a name')
      if (this.#ids.isIn(folded)) this.find(element.tag, 'an identifier')
    }
    if (element.vr !== 'CS') this.#bytes(element, dataset.charset)
  }

  /** The identifiers as bytes, in the encodings that they may have been written in. */
  #bytes({ tag, value, length }: Element, charset: Charset | undefined = undefined): void {
    if (value === undefined || length > maxSearchedBytes) return
    const raw = Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('latin1').toLowerCase()
    if (this.#needlesIn(charset).isIn(raw)) this.find(tag, 'an identifier in the bytes')
  }

  #needlesIn(charset: Charset | undefined): WholeWords {
    const key = charset?.terms.join('\\') ?? 'binary'
    const known = this.#needles.get(key)
    if (known !== undefined) return known
    const texts = [...this.#expected.identifiers.texts].filter(text => text.length >= minSearchedLetters)
    const needles = new WholeWords(new Set(texts.flatMap(text => needlesOf(text, charset))))
    this.#needles.set(key, needles)
    return needles
  }
}

const contentValues: ReadonlySet<Tag> = new Set([0x0040a120, 0x0040a121, 0x0040a122, 0x0040a123, 0x0040a160])

function isPatient(tag: Tag): boolean {
  return tag === 0x00100010 || tag === 0x00100020
}

const utf8 = charsetOf(['ISO_IR 192'])
const latin = charsetOf(['ISO_IR 100'])

/** Bytes as Latin-1 text, one character each. */
function needlesOf(text: string, charset: Charset | undefined): readonly string[] {
  const forms = [utf8.encode(text), latin.encode(text), charset?.encode(text), Buffer.from(text, 'utf16le')]
  return forms.filter(bytes => bytes !== undefined).map(bytes => Buffer.from(bytes).toString('latin1').toLowerCase())
}
