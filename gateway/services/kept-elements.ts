/**
 * Elements that a request keeps of an instance though the profile would change them: sequences with all that is in them,
 * places inside of sequences, private elements with their creator. They are taken from the source as they are.
 */
import type { ByteSource } from '../dicom/byte-source.ts'
import type { Charset } from '../dicom/charset.ts'
import { type Dataset, decodeNumbers, decodeStrings, type Element, findElement } from '../dicom/dataset.ts'
import { entryOf } from '../dicom/dictionary.ts'
import { readPart10 } from '../dicom/part10-reader.ts'
import type { Edit } from '../dicom/part10-splice.ts'
import type { NewElement } from '../dicom/part10-writer.ts'
import { isPrivateTag, type Tag } from '../dicom/tag.ts'
import { placesOf, type TagPath } from '../dicom/tag-path.ts'
import { vrFacts } from '../dicom/vr.ts'

/** Bulk values are not kept; text of any length is. */
const readOptions = { stopBefore: 0x7fe00000, maxValueBytes: 16_777_216, maxTotalBytes: 67_108_864 }

/** True for what the engine of de-identification cannot be asked to keep. */
export function isKeptApart({ within, tag }: TagPath): boolean {
  return within.length > 0 || isPrivateTag(tag) || entryOf(tag)?.vrs[0] === 'SQ'
}

/**
 * Edits that put the elements back into what was made of the source. What has no place there any more stays away.
 *
 * @throws GatewayError DICOM_UNREADABLE, DICOM_LIMIT
 */
export async function keptElements(source: ByteSource, made: ByteSource, paths: readonly TagPath[]): Promise<Edit[]> {
  if (paths.length === 0) return []
  const whole = new Set(paths.filter(({ within }) => within.length === 0).map(({ tag }) => tag))
  const { dataset: before } = await readPart10(source, readOptions)
  const { dataset: after } = await readPart10(made, readOptions)
  return paths
    .filter(({ within: [first] }) => first === undefined || !whole.has(first.tag))
    .flatMap(path =>
      placesOf(before, path).flatMap(({ within, item }) =>
        hasItem(after, within) ? keptOf(item, path.tag, within) : [],
      ),
    )
}

function keptOf(item: Dataset, tag: Tag, within: readonly number[]): Edit[] {
  const tags = isPrivateTag(tag) && (tag & 0xff00) !== 0 ? [creatorOf(tag), tag] : [tag]
  return tags.flatMap(each => {
    const element = findElement(item, each)
    const set = element && copyOf(element, item.charset)
    return set ? [{ within, set }] : []
  })
}

/** The element that says whose block a private element is in (PS3.5 §7.8.1). */
const creatorOf = (tag: Tag): Tag => ((tag & 0xffff0000) | ((tag & 0xff00) >>> 8)) >>> 0

function hasItem(dataset: Dataset, within: readonly number[]): boolean {
  let item: Dataset | undefined = dataset
  for (let at = 0; item && at < within.length; at += 2) {
    item = findElement(item, within[at] ?? 0)?.items?.[within[at + 1] ?? 0]
  }
  return item !== undefined
}

/** The same for another data set, whatever that is encoded in; undefined for bulk data. */
function copyOf(element: Element, charset: Charset): NewElement | undefined {
  const { tag, vr, items, value, encoding } = element
  if (items) {
    const copies = items.map(item => item.elements.map(inner => copyOf(inner, item.charset)))
    return { tag, items: copies.map(copy => copy.filter(inner => inner !== undefined)) }
  }
  if (value === undefined) return undefined
  const { kind, unitBytes } = vrFacts(vr)
  if (kind === 'text') return { tag, vr, value: decodeStrings(element, charset) }
  if (kind === 'binary' && unitBytes > 1 && encoding.bigEndian) return { tag, vr, value: decodeNumbers(element) }
  return { tag, vr, value }
}
