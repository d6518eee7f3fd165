/**
 * The data set of an instance as Orthanc prints it: by tag with name and type, by tag alone (`?short`), or by
 * name (`?simplify`). Binary values are null, texts of more than 256 characters too unless they are asked for.
 */
import { type Dataset, decodeStrings, type Element } from '../../dicom/dataset.ts'
import { elementToJson } from '../../dicom/json.ts'
import { formatTag, isGroupLength, isPrivateTag, keywordOf, type Tag } from '../../dicom/tag.ts'
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

/** What is printed. */
export interface TagOptions {
  /** Elements whose text is given whatever its length. */
  readonly whole?: ReadonlySet<Tag>
  /** Group lengths are given: those of the file meta information. */
  readonly groupLengths?: boolean
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
    const value = items
      ? { Type: 'Sequence' as const, Value: items.map(item => fullTags(item, options)) }
      : readValue(element, dataset, options)
    if (isCreator(tag) && typeof value.Value === 'string') creators.set(tag, value.Value)
    const creator = isPrivateTag(tag) ? creators.get(creatorOf(tag)) : undefined
    out[commaTag(tag)] = { Name: nameOf(tag), ...(creator !== undefined && { PrivateCreator: creator }), ...value }
  }
  return out
}

/** The data set by name; elements without one by their tag. */
export function simpleTags(dataset: Dataset, options: TagOptions = {}): SimpleTags {
  return plainTags(
    dataset,
    options,
    tag => (isGroupLength(tag) ? groupLengthName(tag) : keywordOf(tag)) ?? commaTag(tag),
  )
}

function shortTags(dataset: Dataset, options: TagOptions): SimpleTags {
  return plainTags(dataset, options, commaTag)
}

function plainTags(dataset: Dataset, options: TagOptions, nameOf: (tag: Tag) => string): SimpleTags {
  const out: Record<string, SimpleTags[string]> = {}
  for (const element of dataset.elements) {
    if (isLeftOut(element.tag, options)) continue
    out[nameOf(element.tag)] = element.items
      ? element.items.map(item => plainTags(item, options, nameOf))
      : readValue(element, dataset, options).Value
  }
  return out
}

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
