/**
 * Changes of a data set that a person asks for: tags replaced, removed, private elements dropped. They become edits of
 * the file, so that everything else keeps its bytes. Text that the data set's character set cannot represent, or another
 * character set that is asked for, makes all text be encoded anew, so that nothing is lost and all of it is declared.
 */
import { GatewayError } from '../errors.ts'
import type { ByteSource } from './byte-source.ts'
import { type Charset, charsetOf } from './charset.ts'
import { type Dataset, type Element, findElement } from './dataset.ts'
import { entryOf } from './dictionary.ts'
import { readPart10 } from './part10-reader.ts'
import type { Edit } from './part10-splice.ts'
import { implementationClassUid, implementationVersionName, type NewElement } from './part10-writer.ts'
import { formatTag, isPrivateTag, parseTag, type Tag } from './tag.ts'
import { type Place, placesOf, type TagPath } from './tag-path.ts'
import { type Vr, vrFacts } from './vr.ts'

/** A new value: text with backslashes between values, raw bytes, or items. */
export type NewValue = string | Uint8Array | readonly (readonly { readonly tag: Tag; readonly value: NewValue }[])[]

/** What is wanted of a data set. */
export interface Modification {
  readonly remove: readonly TagPath[]
  /** A replaced tag that is absent is inserted, but no item is. */
  readonly replace: readonly { readonly path: TagPath; readonly value: NewValue }[]
  readonly removePrivateTags: boolean
  /** Who owns the private elements of `replace`. */
  readonly privateCreator?: string | undefined
}

const specificCharacterSet = 0x00080005
const sopInstanceUid = 0x00080018
const pixelData = 0x7fe00010
/** Bulk values are not looked at; text of any length is. */
const readOptions = { stopBefore: 0x7fe00000, maxValueBytes: 16_777_216, maxTotalBytes: 67_108_864 }

/** Edits of a file, for `spliceEdits`. */
export interface PlannedEdits {
  readonly edits: readonly Edit[]
  /** The edits encode all text anew and say so in (0008,0005). */
  readonly isRecoded: boolean
}

/**
 * Plans the edits of one file. Removals come first, then replacements, as in Orthanc.
 *
 * @param first  edits that are made before them
 * @throws GatewayError DICOM_UNREADABLE, DICOM_LIMIT, BAD_REQUEST for a value that its VR cannot represent
 */
export async function planModification(
  source: ByteSource,
  wanted: Modification,
  first: readonly Edit[] = [],
): Promise<PlannedEdits> {
  const { dataset, meta } = await readPart10(source, readOptions)
  const edits: Edit[] = [...first]
  if (wanted.removePrivateTags) removePrivate(dataset, [], edits)
  for (const path of wanted.remove) {
    if (isReserved(path.tag)) continue
    for (const { within } of placesOf(dataset, path)) edits.push({ within, remove: path.tag })
  }
  for (const { path, value } of wanted.replace) {
    if (isReserved(path.tag)) continue
    if (path.tag === pixelData) throw new GatewayError('BAD_REQUEST', 'pixel data cannot be replaced')
    for (const place of placesOf(dataset, path)) edits.push(...replacement(place, path.tag, value, wanted, first))
  }
  if (meta.elements.length > 0) edits.push(...metaEdits(edits))
  const charset = wantedCharset(dataset, wanted, edits)
  return charset ? { edits: recoded(dataset, edits, charset), isRecoded: true } : { edits, isRecoded: false }
}

/** File meta information says what the data set says, and who wrote the file; the character set has its own rule. */
const isReserved = (tag: Tag): boolean => tag >>> 16 <= 2 || tag === specificCharacterSet

function removePrivate(dataset: Dataset, within: readonly number[], edits: Edit[]): void {
  for (const { tag, items } of dataset.elements) {
    if (isPrivateTag(tag)) edits.push({ within, remove: tag })
    else for (const [index, item] of (items ?? []).entries()) removePrivate(item, [...within, tag, index], edits)
  }
}

function replacement(place: Place, tag: Tag, value: NewValue, wanted: Modification, first: readonly Edit[]): Edit[] {
  const { within, item } = place
  const before = first.find(
    edit => 'set' in edit && edit.set.tag === tag && (edit.within ?? []).join() === within.join(),
  )
  const vr = before && 'set' in before && 'vr' in before.set ? before.set.vr : undefined
  const set = newElement(tag, value, findElement(item, tag)?.vr ?? vr)
  const { privateCreator } = wanted
  const isOwned = isPrivateTag(tag) && (tag & 0xffff) >= 0x1000
  if (!isOwned || privateCreator === undefined) return [{ within, set }]
  const block = ((tag & 0xffff0000) | ((tag & 0xff00) >>> 8)) >>> 0
  const owner = findElement(item, block)
  const name = owner?.value && item.charset.decode(owner.value).trim()
  if (name && name !== privateCreator && !wanted.removePrivateTags)
    throw new GatewayError('BAD_REQUEST', `the private block of ${formatTag(tag)} belongs to another creator`)
  return [
    { within, set: { tag: block, vr: 'LO', value: privateCreator } },
    { within, set },
  ]
}

/** @throws GatewayError BAD_REQUEST for a value that the VR does not take */
export function newElement(tag: Tag, value: NewValue, knownVr?: Vr): NewElement {
  const vr = knownVr && knownVr !== 'UN' ? knownVr : vrOf(tag)
  if (typeof value !== 'string' && !(value instanceof Uint8Array)) {
    if (vr !== 'SQ' && vr !== 'UN') throw wrongValue(tag, 'text')
    return { tag, items: value.map(item => item.map(inner => newElement(inner.tag, inner.value))) }
  }
  if (vr === 'SQ') {
    if (value.length === 0) return { tag, items: [] }
    throw wrongValue(tag, 'a list of items')
  }
  if (value instanceof Uint8Array || value === '') return { tag, vr, value: value === '' ? [] : value }
  const { kind, unitBytes } = vrFacts(vr)
  if (kind !== 'binary') return { tag, vr, value }
  if (vr === 'AT') return { tag, vr, value: value.split('\\').map(text => tagValue(tag, text)) }
  if (unitBytes === 1 || vr.startsWith('O')) return { tag, vr, value: Buffer.from(value, 'utf8') }
  return { tag, vr, value: value.split('\\').map(text => numberValue(tag, vr, text)) }
}

function vrOf(tag: Tag): Vr {
  if (isPrivateTag(tag)) return (tag & 0xff00) === 0 ? 'LO' : 'UN'
  return entryOf(tag)?.vrs[0] ?? 'UN'
}

function numberValue(tag: Tag, vr: Vr, text: string): number | bigint {
  const trimmed = text.trim()
  if (vr === 'UV' || vr === 'SV') {
    if (/^-?\d{1,20}$/.test(trimmed)) return BigInt(trimmed)
  } else if (trimmed !== '' && Number.isFinite(Number(trimmed))) return Number(trimmed)
  throw wrongValue(tag, 'numbers')
}

function tagValue(tag: Tag, text: string): number {
  const value = parseTag(text.trim())
  if (value === undefined) throw wrongValue(tag, 'tags')
  return value
}

const wrongValue = (tag: Tag, expected: string): GatewayError =>
  new GatewayError('BAD_REQUEST', `${formatTag(tag)}: expected ${expected}`)

/** Who wrote the file, and the new SOP Instance UID where there is one. */
function metaEdits(edits: readonly Edit[]): Edit[] {
  const uid = edits.findLast(edit => 'set' in edit && edit.set.tag === sopInstanceUid && !edit.within?.length)
  return [
    ...(uid && 'set' in uid && 'value' in uid.set ? [{ set: { tag: 0x00020003, value: uid.set.value } }] : []),
    { set: { tag: 0x00020012, value: implementationClassUid } },
    { set: { tag: 0x00020013, value: implementationVersionName } },
    { remove: 0x00020016 },
  ]
}

// ---- character sets ---------------------------------------------------------------------------------

/** The character set that all text is to be in, where it is not the one that it is in. */
function wantedCharset(dataset: Dataset, wanted: Modification, edits: readonly Edit[]): Charset | undefined {
  const asked = wanted.replace.find(({ path }) => path.tag === specificCharacterSet && path.within.length === 0)
  if (asked && typeof asked.value === 'string') {
    const terms = asked.value.split('\\').map(term => term.trim())
    const isSame = terms.join('\\') === dataset.charset.terms.join('\\')
    return isSame ? undefined : charsetOf(terms)
  }
  return edits.every(edit => !('set' in edit) || isRepresentable(edit.set, charsetAt(dataset, edit.within ?? [])))
    ? undefined
    : charsetOf(['ISO_IR 192'])
}

function charsetAt(dataset: Dataset, within: readonly number[]): Charset {
  let item = dataset
  for (let at = 0; at < within.length; at += 2) {
    const next = findElement(item, within[at] ?? 0)?.items?.[within[at + 1] ?? 0]
    if (!next) break
    item = next
  }
  return item.charset
}

/** Can this character set write all text of an element? */
export function isRepresentable(element: NewElement, charset: Charset): boolean {
  if ('items' in element) return element.items.every(item => item.every(inner => isRepresentable(inner, charset)))
  if ('fragments' in element || element.value instanceof Uint8Array) return true
  const vr = element.vr ?? vrOf(element.tag)
  return vrFacts(vr).kind !== 'text' || charset.encode(textOf(element.value), kindOf(vr)) !== undefined
}

/** The edits, and one for each text of the data set that has other bytes in this character set. */
function recoded(dataset: Dataset, edits: readonly Edit[], charset: Charset): Edit[] {
  const before: Edit[] = []
  recodeItem(dataset, [], charset, before)
  return [
    ...before,
    ...edits.map(edit => ('set' in edit ? { ...edit, set: encoded(edit.set, charset) } : edit)),
    { set: { tag: specificCharacterSet, value: Buffer.from(charset.terms.join('\\'), 'latin1') } },
  ]
}

function recodeItem(dataset: Dataset, within: readonly number[], charset: Charset, edits: Edit[]): void {
  for (const element of dataset.elements) {
    const { tag, vr, items } = element
    if (tag === specificCharacterSet && within.length > 0) edits.push({ within, remove: tag })
    else if (items) {
      for (const [index, item] of items.entries()) recodeItem(item, [...within, tag, index], charset, edits)
    } else if (vrFacts(vr).kind === 'text' && element.length > 0) {
      const value = recodedText(element, dataset.charset, charset)
      if (value) edits.push({ within, set: { tag, vr, value } })
    }
  }
}

function recodedText({ tag, vr, value }: Element, from: Charset, to: Charset): Uint8Array | undefined {
  if (!value) throw new GatewayError('DICOM_LIMIT', 'a text is too long to be encoded in another character set')
  const bytes = to.encode(from.decode(value, kindOf(vr)), kindOf(vr))
  if (!bytes) throw unrepresentable(tag)
  return Buffer.compare(bytes, value) === 0 ? undefined : bytes
}

function encoded(element: NewElement, charset: Charset): NewElement {
  if ('items' in element)
    return { tag: element.tag, items: element.items.map(item => item.map(inner => encoded(inner, charset))) }
  if ('fragments' in element || element.value instanceof Uint8Array) return element
  const vr = element.vr ?? vrOf(element.tag)
  if (vrFacts(vr).kind !== 'text') return element
  const value = charset.encode(textOf(element.value), kindOf(vr))
  if (!value) throw unrepresentable(element.tag)
  return { tag: element.tag, vr, value }
}

const unrepresentable = (tag: Tag): GatewayError =>
  new GatewayError('BAD_REQUEST', `${formatTag(tag)}: its text cannot be represented in the character set asked for`)

const textOf = (value: string | number | bigint | readonly (string | number | bigint)[]): string =>
  Array.isArray(value) ? value.join('\\') : String(value)

const kindOf = (vr: Vr): 'names' | 'text' => (vr === 'PN' ? 'names' : 'text')
