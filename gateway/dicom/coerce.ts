/**
 * Attribute coercion: identifiers become the receiver's, and what they were stays in the Original Attributes
 * Sequence (PS3.3 §C.12.1.1.9), after the items that are there already.
 */
import { GatewayError } from '../errors.ts'
import type { ByteSource } from './byte-source.ts'
import { type Dataset, type Element, findElement } from './dataset.ts'
import { readPart10 } from './part10-reader.ts'
import type { Edit } from './part10-splice.ts'
import type { NewElement } from './part10-writer.ts'
import type { Tag } from './tag.ts'
import { vrFacts } from './vr.ts'

/** New values of text attributes, by tag. */
export type Coercion = ReadonlyMap<Tag, string>

/** Who changes, when, and where the previous values came from. */
export interface CoercionRecord {
  readonly at: Date
  /** Modifying System (0400,0563). */
  readonly system: string
  /** Source of Previous Values (0400,0564), the one who sent the instance. */
  readonly source: string
}

const originalAttributes = 0x04000561
/** Beyond the sequence nothing is edited; what is longer is no identifier. */
const read = { stopBefore: 0x04000562, maxValueBytes: 65_536, maxTotalBytes: 4_194_304 }

/**
 * The edits that coerce an instance; none where it has these values already. The same instance, values and
 * record give the same edits.
 *
 * @throws GatewayError DICOM_UNREADABLE, DICOM_LIMIT when earlier original attributes are too long to be kept
 */
export async function coercionEdits(source: ByteSource, values: Coercion, record: CoercionRecord): Promise<Edit[]> {
  const { dataset } = await readPart10(source, read)
  const changed = [...values].filter(([tag, value]) => textOf(dataset, tag) !== value).map(([tag]) => tag)
  if (changed.length === 0) return []
  const earlier = (findElement(dataset, originalAttributes)?.items ?? []).map(asWritten)
  return [
    ...changed.map(tag => ({ set: { tag, value: values.get(tag) ?? '' } })),
    { set: { tag: originalAttributes, items: [...earlier, itemOf(dataset, [...values.keys()], record)] } },
  ]
}

/** All attributes of the coercion with their previous values: what was absent or empty has zero length. */
function itemOf(dataset: Dataset, tags: readonly Tag[], { at, system, source }: CoercionRecord): NewElement[] {
  const previous = tags.map(tag => {
    const element = findElement(dataset, tag)
    return element ? elementAsWritten(element) : { tag, value: new Uint8Array() }
  })
  return [
    { tag: 0x04000550, items: [previous] },
    { tag: 0x04000562, value: dateTime(at) },
    { tag: 0x04000563, value: system },
    { tag: 0x04000564, value: source },
    { tag: 0x04000565, value: 'COERCE' },
  ]
}

function textOf(dataset: Dataset, tag: Tag): string | undefined {
  const element = findElement(dataset, tag)
  if (!element?.value || element.value.length === 0) return undefined
  return dataset.charset.decode(element.value, element.vr === 'PN' ? 'names' : 'text').replace(/[ \0]+$/, '')
}

/** The elements of a data set with their bytes. @throws GatewayError DICOM_LIMIT where a value was too long to be read */
export const asWritten = (dataset: Dataset): NewElement[] => dataset.elements.map(elementAsWritten)

/** An element with its bytes, little endian as the writer takes them. */
function elementAsWritten(element: Element): NewElement {
  const { tag, vr, items, value } = element
  if (items) return { tag, items: items.map(asWritten) }
  if (!value) throw new GatewayError('DICOM_LIMIT', 'the original attributes of an instance are too long to be kept')
  return { tag, vr, value: element.encoding.bigEndian ? swapped(value, vrFacts(vr).unitBytes) : value }
}

function swapped(value: Uint8Array, unitBytes: number): Uint8Array {
  const bytes = Buffer.from(value)
  if (unitBytes === 1 || bytes.length % unitBytes !== 0) return bytes
  if (unitBytes === 2) return bytes.swap16()
  return unitBytes === 4 ? bytes.swap32() : bytes.swap64()
}

/** A DT in UTC, PS3.5 §6.2. */
function dateTime(at: Date): string {
  const digits = at.toISOString().replace(/[-:TZ]/g, '')
  return `${digits.slice(0, 14)}.${digits.slice(15, 18)}000+0000`
}
