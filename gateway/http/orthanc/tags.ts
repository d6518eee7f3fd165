/**
 * The data set of an instance as Orthanc prints it: `/tags` (by tag, with name and type) and
 * `/simplified-tags` (by name). Binary values are null, texts of more than 256 characters too.
 */
import type { Dataset, Element } from '../../dicom/dataset.ts'
import { elementToJson } from '../../dicom/json.ts'
import { formatTag, isGroupLength, isPrivateTag, keywordOf, type Tag } from '../../dicom/tag.ts'
import { textOfElement } from './main-tags.ts'

/** `/instances/{id}/tags`. */
export interface TagEntry {
  readonly Name: string
  readonly PrivateCreator?: string
  readonly Type: 'String' | 'Sequence' | 'Null' | 'TooLong'
  readonly Value: string | null | readonly Readonly<Record<string, TagEntry>>[]
}

/** `/instances/{id}/simplified-tags`. */
export type SimpleTags = { readonly [name: string]: string | null | readonly SimpleTags[] }

const maxTextLength = 256

/** The data set by tag, `gggg,eeee`. */
export function fullTags(dataset: Dataset): Record<string, TagEntry> {
  const out: Record<string, TagEntry> = {}
  const creators = new Map<number, string>()
  for (const element of dataset.elements) {
    const { tag, items } = element
    if (isGroupLength(tag)) continue
    const value = items ? { Type: 'Sequence' as const, Value: items.map(fullTags) } : readValue(element, dataset)
    if (isCreator(tag) && typeof value.Value === 'string') creators.set(tag, value.Value)
    const creator = isPrivateTag(tag) ? creators.get(creatorOf(tag)) : undefined
    out[commaTag(tag)] = { Name: nameOf(tag), ...(creator !== undefined && { PrivateCreator: creator }), ...value }
  }
  return out
}

/** The data set by name; elements without one by their tag. */
export function simpleTags(dataset: Dataset): SimpleTags {
  const out: Record<string, SimpleTags[string]> = {}
  for (const element of dataset.elements) {
    if (isGroupLength(element.tag)) continue
    const name = keywordOf(element.tag) ?? commaTag(element.tag)
    out[name] = element.items ? element.items.map(simpleTags) : readValue(element, dataset).Value
  }
  return out
}

const specificCharacterSet = 0x00080005

function readValue(
  element: Element,
  dataset: Dataset,
): { readonly Type: 'String' | 'Null' | 'TooLong'; readonly Value: string | null } {
  // JSON says UTF-8 there; Orthanc prints what the file says.
  if (element.tag === specificCharacterSet && element.value) {
    return { Type: 'String', Value: Buffer.from(element.value).toString('latin1').trim() }
  }
  const json = elementToJson(element, dataset, { decimals: 'text' })
  if (json === undefined || json.InlineBinary !== undefined) return { Type: 'Null', Value: null }
  const text = textOfElement(json)
  return text.length > maxTextLength ? { Type: 'TooLong', Value: null } : { Type: 'String', Value: text }
}

const isCreator = (tag: Tag): boolean => isPrivateTag(tag) && (tag & 0xffff) >= 0x10 && (tag & 0xffff) <= 0xff
/** The tag whose value names the creator of a private element (PS3.5 §7.8.1). */
const creatorOf = (tag: Tag): Tag => ((tag & 0xffff0000) | ((tag & 0xff00) >>> 8)) >>> 0

const nameOf = (tag: Tag): string => keywordOf(tag) ?? (isCreator(tag) ? 'PrivateCreator' : 'Unknown Tag & Data')

const commaTag = (tag: Tag): string =>
  formatTag(tag)
    .toLowerCase()
    .replace(/^(.{4})/, '$1,')
