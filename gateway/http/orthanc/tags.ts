/**
 * The data set of an instance as Orthanc prints it: by tag with name and type, by tag alone (`?short`), or by
 * name (`?simplify`). Binary values are null, texts of more than 256 characters too unless they are asked for.
 */
import { type Dataset, decodeStrings, type Element } from '../../dicom/dataset.ts'
import { elementToJson } from '../../dicom/json.ts'
import { formatTag, isGroupLength, isPrivateTag, keywordOf, parseTag, type Tag } from '../../dicom/tag.ts'
import { isVr, type Vr } from '../../dicom/vr.ts'
import { type TagFormat, textOfElement } from './main-tags.ts'

/** `/instances/{id}/tags`. */
export interface TagEntry {
  readonly Name: string
  readonly PrivateCreator?: string
  readonly Type: 'String' | 'Sequence' | 'Null' | 'TooLong'
  readonly Value: string | null | readonly Readonly<Record<string, TagEntry>>[]
}

/** `/instances/{id}/simplified-tags`, and the same by tag. */
export type SimpleTags = { readonly [name: string]: string | null | readonly SimpleTags[] }

/** Names of private elements, which the site has given: by creator and `gggg,xxee`, where `xx` is any block. */
export type PrivateNames = ReadonlyMap<string, { readonly name: string; readonly vr: Vr }>

/** The key of a private element in these names. */
export const privateKey = (creator: string, tag: Tag): string =>
  `${creator} ${formatTag((tag & 0xffff00ff) >>> 0)}`.toLowerCase()

/** Reads the configuration's names; what is no private tag with a creator is passed over. */
export function readPrivateNames(
  given: Readonly<Record<string, { readonly name: string; readonly vr: string; readonly creator: string }>>,
): PrivateNames {
  return new Map(
    Object.entries(given).flatMap(([text, { name, vr, creator }]) => {
      const tag = parseTag(text)
      if (tag === undefined || !isPrivateTag(tag) || !isVr(vr)) return []
      return [[privateKey(creator, tag), { name, vr }] as const]
    }),
  )
}

/** What is printed. */
export interface TagOptions {
  /** Elements whose text is given whatever its length. */
  readonly whole?: ReadonlySet<Tag>
  /** Group lengths are given: those of the file meta information. */
  readonly groupLengths?: boolean
  readonly privateNames?: PrivateNames | undefined
}

/** The data set in one of the three forms. */
export function formatTags(
  dataset: Dataset,
  format: TagFormat,
  options: TagOptions = {},
): Record<string, TagEntry> | SimpleTags {
  if (format === 'full') return fullTags(dataset, options)
  return format === 'simple' ? simpleTags(dataset, options) : shortTags(dataset, options)
}

const maxTextLength = 256

/** The data set by tag, `gggg,eeee`. */
export function fullTags(dataset: Dataset, options: TagOptions = {}): Record<string, TagEntry> {
  const out: Record<string, TagEntry> = {}
  const creators = new Map<number, string>()
  for (const element of dataset.elements) {
    const { tag, items } = element
    if (isLeftOut(tag, options)) continue
    const creator = isPrivateTag(tag) ? creators.get(creatorOf(tag)) : undefined
    const given = namedPrivate(creator, tag, options)
    const value = items
      ? { Type: 'Sequence' as const, Value: items.map(item => fullTags(item, options)) }
      : readValue(typed(element, given), dataset, options)
    if (isCreator(tag) && typeof value.Value === 'string') creators.set(tag, value.Value)
    out[commaTag(tag)] = {
      Name: given?.name ?? nameOf(tag),
      ...(creator !== undefined && { PrivateCreator: creator }),
      ...value,
    }
  }
  return out
}

/** The data set by name; elements without one by their tag. */
export function simpleTags(dataset: Dataset, options: TagOptions = {}): SimpleTags {
  return plainTags(
    dataset,
    options,
    (tag, given) => given ?? (isGroupLength(tag) ? groupLengthName(tag) : keywordOf(tag)) ?? commaTag(tag),
  )
}

function shortTags(dataset: Dataset, options: TagOptions): SimpleTags {
  return plainTags(dataset, options, commaTag)
}

function plainTags(
  dataset: Dataset,
  options: TagOptions,
  nameOf: (tag: Tag, given: string | undefined) => string,
): SimpleTags {
  const out: Record<string, SimpleTags[string]> = {}
  const creators = new Map<number, string>()
  for (const element of dataset.elements) {
    if (isLeftOut(element.tag, options)) continue
    const { tag, items } = element
    const creator = isPrivateTag(tag) ? creators.get(creatorOf(tag)) : undefined
    const given = namedPrivate(creator, tag, options)
    const value = items
      ? items.map(item => plainTags(item, options, nameOf))
      : readValue(typed(element, given), dataset, options).Value
    if (isCreator(tag) && typeof value === 'string') creators.set(tag, value)
    out[nameOf(tag, given?.name)] = value
  }
  return out
}

const namedPrivate = (creator: string | undefined, tag: Tag, { privateNames }: TagOptions) =>
  creator === undefined ? undefined : privateNames?.get(privateKey(creator, tag))

/** What the file does not say of an element of unknown VR, the site may have said. */
const typed = (element: Element, given: { readonly vr: Vr } | undefined): Element =>
  given && element.vr === 'UN' ? { ...element, vr: given.vr } : element

const isLeftOut = (tag: Tag, { groupLengths = false }: TagOptions): boolean => isGroupLength(tag) && !groupLengths
const groupLengthName = (tag: Tag): string | undefined =>
  tag === 0x00020000 ? 'FileMetaInformationGroupLength' : undefined

const specificCharacterSet = 0x00080005

function readValue(
  element: Element,
  dataset: Dataset,
  { whole }: TagOptions,
): { readonly Type: 'String' | 'Null' | 'TooLong'; readonly Value: string | null } {
  // JSON says UTF-8 there; Orthanc prints what the file says.
  if (element.tag === specificCharacterSet && element.value) {
    return { Type: 'String', Value: Buffer.from(element.value).toString('latin1').trim() }
  }
  // The JSON model drops empty component groups at the end of a name; they are part of its text.
  if (element.vr === 'PN' && element.value) {
    return { Type: 'String', Value: decodeStrings(element, dataset.charset).join('\\') }
  }
  const json = elementToJson(element, dataset, { decimals: 'text' })
  if (json === undefined || json.InlineBinary !== undefined) return { Type: 'Null', Value: null }
  const text = textOfElement(json)
  return text.length > maxTextLength && !whole?.has(element.tag)
    ? { Type: 'TooLong', Value: null }
    : { Type: 'String', Value: text }
}

const isCreator = (tag: Tag): boolean => isPrivateTag(tag) && (tag & 0xffff) >= 0x10 && (tag & 0xffff) <= 0xff
/** The tag whose value names the creator of a private element (PS3.5 §7.8.1). */
const creatorOf = (tag: Tag): Tag => ((tag & 0xffff0000) | ((tag & 0xff00) >>> 8)) >>> 0

const nameOf = (tag: Tag): string =>
  groupLengthName(tag) ?? keywordOf(tag) ?? (isCreator(tag) ? 'PrivateCreator' : 'Unknown Tag & Data')

const commaTag = (tag: Tag): string =>
  formatTag(tag)
    .toLowerCase()
    .replace(/^(.{4})/, '$1,')
