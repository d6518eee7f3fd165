/**
 * What ingest needs to know of an instance, read from the bytes before Pixel Data in one or two reads: about 80 us of
 * one core for a CT slice, its DICOM JSON included.
 */
import { createHash } from 'node:crypto'
import { GatewayError } from '../errors.ts'
import type { ByteSource } from './byte-source.ts'
import { type Dataset, decodeStrings, type Element, findElement, itemsOf, stringOf } from './dataset.ts'
import { type Choice, DatasetBuilder } from './dataset-builder.ts'
import type { WalkedElement } from './element-visitor.ts'
import { walk } from './element-walker.ts'
import { inflateSource } from './inflate-source.ts'
import { type DicomJson, elementToJson, type JsonElement } from './json.ts'
import { levelsOf } from './levels.ts'
import { detectSyntax, findLayout, type Part10Layout } from './part10-layout.ts'
import { formatTag, isGroupLength, isPrivateTag, keywordOf, type Tag } from './tag.ts'
import { toUid, type Uid } from './uid.ts'
import { isBulkVr, vrFacts } from './vr.ts'

/** Identity, match keys and attributes of one instance. Text is decoded, trimmed and free of NUL; keys are bounded. */
export interface InstanceHeader {
  readonly sopClassUid: Uid
  readonly sopInstanceUid: Uid
  readonly studyInstanceUid: Uid
  readonly seriesInstanceUid: Uid
  readonly transferSyntaxUid: Uid
  /** Where the data set begins in the source; what is before is preamble and file meta. */
  readonly datasetOffset: number
  /** Where the Pixel Data element (7FE0,0010) begins in the file; absent without preamble, pixels, or in a deflated data set. */
  readonly pixelDataOffset?: number
  readonly patientId: string
  /** Issuer of Patient ID (0010,0021), or the universal entity ID of its qualifiers. */
  readonly issuer?: string
  readonly patientName: string
  /** The name for matching: without case, accents, and doubled spaces. */
  readonly nameFolded: string
  readonly patientBirthDate?: string
  readonly patientSex?: string
  readonly studyDate?: string
  readonly studyTime?: string
  readonly studyId?: string
  readonly studyDescription?: string
  readonly accessionNumber?: string
  readonly referringPhysicianName?: string
  readonly institutionName?: string
  readonly modality?: string
  readonly seriesNumber?: string
  readonly seriesDescription?: string
  readonly bodyPart?: string
  readonly stationName?: string
  readonly manufacturer?: string
  readonly instanceNumber?: string
  readonly numberOfFrames?: string
  /** (0008,0005) as found, values joined by a backslash; `attributes` are UTF-8 and say so. */
  readonly specificCharacterSet?: string
  /** DICOM JSON by level, without bulk data and private elements; see `maxAttributesBytes`. */
  readonly attributes: {
    readonly patient: DicomJson
    readonly study: DicomJson
    readonly series: DicomJson
    readonly instance: DicomJson
  }
}

/** The attributes of one level stay below this as JSON text; what does not fit is left out and can be read from the bytes. */
export const maxAttributesBytes = 65_536

/** What tells one object or patient from another; never left out. */
const identifyingTags: ReadonlySet<Tag> = new Set([
  0x00080005, 0x00080016, 0x00080018, 0x00100010, 0x00100020, 0x00100021, 0x0020000d, 0x0020000e,
])
const maxIdentifierBytes = 65_536
/** Longer values are left out of the attributes. */
const maxTextBytes = 4_096
const maxBinaryBytes = 256
/** Bounds of one top-level sequence, and of a walk that has to inflate. */
const maxSequenceBytes = 16_384
const maxInflatedBytes = 268_435_456
/** Bounds the values kept in memory, whatever the file. */
const maxKeptBytes = 262_144
/** Match keys stay well below the size that a database index takes. */
const maxKeyCharacters = 256
const pixelData = 0x7fe00008
const pixelDataTag = 0x7fe00010
/** Preamble and prefix (PS3.10 §7.1). */
const preambleBytes = 132

/** How to read a header. */
export interface HeaderOptions {
  /** Where the data set begins, when the caller knows (C-STORE); else it is found. */
  readonly datasetOffset?: number
  /** With `datasetOffset`: how the data set is encoded. */
  readonly transferSyntaxUid?: string
  /**
   * `derive` gives an instance without Study or Series Instance UID (non-patient objects have none, PS3.4 Annex GG)
   * UIDs of its own, derived from its SOP Instance UID: the same each time, shared with no other. Default `refuse`.
   */
  readonly missingUids?: 'refuse' | 'derive'
}

/**
 * Reads an instance up to its pixel data.
 *
 * @throws GatewayError DICOM_UNREADABLE when the bytes are no DICOM or an identifying UID is missing or malformed
 *   (context `attribute` names it), DICOM_LIMIT when nesting or an inflated data set is out of bounds
 */
export async function readInstanceHeader(source: ByteSource, options: HeaderOptions = {}): Promise<InstanceHeader> {
  const layout = await layoutOf(source, options)
  const { dataset, pixelDataOffset } = await readTop(source, layout)
  const header = headerOf(dataset, layout, options)
  return pixelDataOffset === undefined ? header : { ...header, pixelDataOffset }
}

async function layoutOf(
  source: ByteSource,
  { datasetOffset, transferSyntaxUid }: HeaderOptions,
): Promise<Omit<Part10Layout, 'preambleBytes' | 'meta'>> {
  if (datasetOffset === undefined) return findLayout(source)
  const window = { offset: datasetOffset, bytes: await source.read(datasetOffset, 32_768) }
  return {
    datasetOffset,
    window,
    ...(await detectSyntax(source, window, datasetOffset, { declared: transferSyntaxUid })),
  }
}

async function readTop(
  source: ByteSource,
  layout: Omit<Part10Layout, 'preambleBytes' | 'meta'>,
): Promise<{ readonly dataset: Dataset; readonly pixelDataOffset: number | undefined }> {
  const { encoding, datasetOffset, window, isDeflated } = layout
  const choose = chooser(isDeflated ? undefined : source.sizeBytes)
  let pixelDataOffset: number | undefined
  const builder = new DatasetBuilder(
    (element, depth, holdsItems) => {
      const isPixels = depth === 0 && element.tag === pixelDataTag
      if (isPixels && !isDeflated && datasetOffset > preambleBytes) pixelDataOffset = element.offset
      return choose(element, depth, holdsItems)
    },
    bytes => bytes,
  )
  if (layout.isDeflated) {
    await using inflated = inflateSource(source, datasetOffset, maxInflatedBytes)
    await walk(inflated, { offset: 0, encoding }, builder)
  } else await walk(source, { offset: datasetOffset, encoding, window }, builder)
  return { dataset: builder.dataset, pixelDataOffset }
}

/**
 * Keeps small public values and small sequences, up to a total. Pixel data that the bytes, of known size, cannot
 * hold are refused: a truncated upload must not pass for the instance.
 */
function chooser(
  sizeBytes: number | undefined,
): (element: WalkedElement, depth: number, holdsItems: boolean) => Choice {
  let keptBytes = 0
  let sequenceEnd = 0
  return (element, depth, holdsItems) => {
    const { tag, vr, length, offset } = element
    if (depth === 0 && tag >= pixelData) {
      const end = element.valueOffset + (element.isUndefinedLength ? 0 : length)
      if (sizeBytes !== undefined && end > sizeBytes) {
        throw new GatewayError('DICOM_UNREADABLE', 'the data set ends before its pixel data do', {
          context: { tag: formatTag(tag), expected: end, seen: sizeBytes },
        })
      }
      return 'stop'
    }
    if (depth === 0 && identifyingTags.has(tag)) {
      // Left out, two patients would become one.
      if (length > maxIdentifierBytes) throw overlong(tag, length)
      return 'value'
    }
    if (isPrivateTag(tag) || isGroupLength(tag) || (depth === 0 && keptBytes > maxKeptBytes)) return 'omit'
    if (holdsItems) {
      if (vr !== 'SQ' || length > maxSequenceBytes || (depth > 0 && offset > sequenceEnd)) return 'omit'
      if (depth === 0) sequenceEnd = offset + maxSequenceBytes
      keptBytes += 64
      return 'enter'
    }
    // A sequence of undefined length shows its size only on the way; it is dropped whole in `attributesOf`.
    if (depth > 0 && offset > sequenceEnd) return 'omit'
    const { kind } = vrFacts(vr)
    if (isBulkVr(vr) || length > (kind === 'binary' ? maxBinaryBytes : maxTextBytes)) return 'omit'
    keptBytes += length + 32
    return 'value'
  }
}

function headerOf(
  dataset: Dataset,
  layout: Pick<Part10Layout, 'transferSyntaxUid' | 'datasetOffset'>,
  { missingUids }: HeaderOptions,
): InstanceHeader {
  const sopInstanceUid = uidOf(dataset, 0x00080018)
  const own = (level: string): Uid | undefined =>
    missingUids === 'derive' ? derivedUid(`${level}|${sopInstanceUid}`) : undefined
  const patientName = bounded(stringOf(dataset, 0x00100010) ?? '')
  return {
    sopClassUid: uidOf(dataset, 0x00080016),
    sopInstanceUid,
    studyInstanceUid: uidOf(dataset, 0x0020000d, own('study')),
    seriesInstanceUid: uidOf(dataset, 0x0020000e, own('series')),
    transferSyntaxUid: toUid(layout.transferSyntaxUid, 'transfer syntax UID'),
    datasetOffset: layout.datasetOffset,
    patientId: bounded(stringOf(dataset, 0x00100020) ?? ''),
    ...present('issuer', issuerOf(dataset)),
    patientName,
    nameFolded: foldName(patientName),
    ...present('patientBirthDate', stringOf(dataset, 0x00100030)),
    ...present('patientSex', stringOf(dataset, 0x00100040)),
    ...present('studyDate', stringOf(dataset, 0x00080020)),
    ...present('studyTime', stringOf(dataset, 0x00080030)),
    ...present('studyId', stringOf(dataset, 0x00200010)),
    ...present('studyDescription', stringOf(dataset, 0x00081030)),
    ...present('accessionNumber', stringOf(dataset, 0x00080050)),
    ...present('referringPhysicianName', stringOf(dataset, 0x00080090)),
    ...present('institutionName', stringOf(dataset, 0x00080080)),
    ...present('modality', stringOf(dataset, 0x00080060)),
    ...present('seriesNumber', stringOf(dataset, 0x00200011)),
    ...present('seriesDescription', stringOf(dataset, 0x0008103e)),
    ...present('bodyPart', stringOf(dataset, 0x00180015)),
    ...present('stationName', stringOf(dataset, 0x00081010)),
    ...present('manufacturer', stringOf(dataset, 0x00080070)),
    ...present('instanceNumber', stringOf(dataset, 0x00200013)),
    ...present('numberOfFrames', stringOf(dataset, 0x00280008)),
    ...present('specificCharacterSet', dataset.charset.terms.join('\\')),
    attributes: attributesOf(dataset),
  }
}

function present<K extends string>(key: K, text: string | undefined): { [P in K]?: string } {
  const out: { [P in K]?: string } = {}
  if (text !== undefined && text !== '') out[key] = bounded(text)
  return out
}

/** @throws GatewayError DICOM_UNREADABLE with the attribute in its context */
function uidOf(dataset: Dataset, tag: Tag, fallback?: Uid): Uid {
  const element = findElement(dataset, tag)
  const [text = ''] = element === undefined ? [] : decodeStrings(element, dataset.charset)
  const attribute = keywordOf(tag)
  if (text === '') {
    if (fallback !== undefined) return fallback
    throw new GatewayError('DICOM_UNREADABLE', `cannot read DICOM: ${attribute} is missing`, { context: { attribute } })
  }
  return toUid(text, attribute)
}

function overlong(tag: Tag, length: number): GatewayError {
  const attribute = keywordOf(tag)
  return new GatewayError('DICOM_LIMIT', `${attribute} is longer than allowed`, { context: { attribute, length } })
}

/** A UID of the UUID form (PS3.5 §B.2) from a digest of `text`. */
function derivedUid(text: string): Uid {
  const hex = createHash('sha256').update(text).digest('hex').slice(0, 32)
  return toUid(`2.25.${BigInt(`0x${hex}`)}`)
}

function issuerOf(dataset: Dataset): string | undefined {
  const [qualifiers] = itemsOf(dataset, 0x00100024)
  return stringOf(dataset, 0x00100021) ?? (qualifiers && stringOf(qualifiers, 0x00400032))
}

/** Distinct long values stay distinct: the end is replaced by a digest. */
function bounded(text: string): string {
  if (text.length <= maxKeyCharacters) return text
  const digest = createHash('sha256').update(text).digest('hex').slice(0, 32)
  return `${text.slice(0, maxKeyCharacters - 33)}#${digest}`
}

/** Text without the differences of letter case and accents. */
export function foldLetters(text: string): string {
  if (/^[ -~]*$/.test(text)) return text.toLowerCase()
  return text
    .normalize('NFKD')
    .replace(/[\u0300-\u036f]/g, '')
    .normalize('NFC')
    .toUpperCase()
    .toLowerCase()
}

/** A person name for matching: no case, no accents, single spaces, no empty components at the end. */
export function foldName(name: string): string {
  return foldLetters(name)
    .replace(/\s+/g, ' ')
    .replace(/ ?([\^=]) ?/g, '$1')
    .replace(/[\^ ]+(?==|$)/g, '')
    .replace(/=+$/, '')
    .trim()
}

function attributesOf(dataset: Dataset): InstanceHeader['attributes'] {
  const levels = {
    patient: new Attributes(),
    study: new Attributes(),
    series: new Attributes(),
    instance: new Attributes(),
  }
  for (const element of dataset.elements) {
    if (element.items !== undefined && element.length > maxSequenceBytes) continue
    const json = elementToJson(element, dataset, { decimals: 'text' })
    if (json === undefined) continue
    for (const level of levelsOf(element.tag)) levels[level].add(element, json)
  }
  return {
    patient: levels.patient.json,
    study: levels.study.json,
    series: levels.series.json,
    instance: levels.instance.json,
  }
}

/** Elements of one level as long as they fit. */
class Attributes {
  readonly json: Record<string, JsonElement> = {}
  #bytes = 2

  add(element: Element, json: JsonElement): void {
    // Text rarely grows by more than its quotes; only what might be large is measured.
    const isSmall = element.items === undefined && element.length <= 128
    const bytes = isSmall ? 64 + 6 * element.length : Buffer.byteLength(JSON.stringify(json)) + 12
    if (this.#bytes + bytes > maxAttributesBytes) return
    this.#bytes += bytes
    this.json[formatTag(element.tag)] = json
  }
}
