/** New instances from tags and a photograph, a scan or a document, as Orthanc's API asks for them. */
import { randomUUID } from 'node:crypto'
import { Readable } from 'node:stream'
import { authorize } from '../../policy/authorize.ts'
import type { Db } from '../db/db.ts'
import { isObject } from '../decode.ts'
import { charsetOf } from '../dicom/charset.ts'
import { isRepresentable, newElement } from '../dicom/modification.ts'
import { encodeDataset, fileMeta, type NewElement } from '../dicom/part10-writer.ts'
import { formatTag, isPrivateTag, type Tag } from '../dicom/tag.ts'
import { explicitVrLittleEndian, newUid } from '../dicom/uid.ts'
import { GatewayError } from '../errors.ts'
import { decodeImage } from '../pixels/image-import.ts'
import type { Principal } from '../principal.ts'
import type { Blobs } from '../store/blobs.ts'
import type { Origin } from '../store/origin.ts'
import type { Ingest, IngestResult } from './ingest.ts'
import { keyTags, readFlag, readTagValues, readText } from './modify-request.ts'
import { type Inherited, inheritFrom } from './modify-studies.ts'
import { storeFile } from './upload.ts'

/** Creates instances. */
export interface DicomCreation {
  /**
   * Creates one instance, or one for each item of a `Content` that is a list: those are one series.
   *
   * @throws GatewayError BAD_REQUEST, DICOM_UNREADABLE, TOO_LARGE, and what ingest throws
   */
  create(principal: Principal, body: unknown): Promise<Created>
}

/** What was created. */
export interface Created {
  readonly results: readonly IngestResult[]
  /** The request's content was a list. */
  readonly isSeries: boolean
}

/** What creating takes. */
export interface CreationParts {
  readonly db: Db
  readonly blobs: Pick<Blobs, 'open'>
  readonly ingest: Ingest
  readonly limitBytes: number
}

const pixelData = 0x7fe00010
const specificCharacterSet = 0x00080005
const secondaryCapture = '1.2.840.10008.5.1.4.1.1.7'
const encapsulatedPdf = '1.2.840.10008.5.1.4.1.1.104.1'
const mostItems = 10_000
const [dates, times] = [
  [0x00080012, 0x00080020, 0x00080021, 0x00080022, 0x00080023],
  [0x00080013, 0x00080030, 0x00080031, 0x00080032, 0x00080033],
]
/** What a request may say anew although it is there already. */
const open: ReadonlySet<Tag> = new Set([...dates, ...times, keyTags.patient])

/** Opens it. */
export function openDicomCreation(parts: CreationParts): DicomCreation {
  const { ingest, limitBytes } = parts

  const store = async (principal: Principal, elements: Elements, issuer: string): Promise<IngestResult> => {
    const origin: Origin = {
      kind: 'rest',
      principal: principal.id,
      ...(principal.address !== undefined && { remoteAddress: principal.address }),
      ...(issuer !== '' && { issuer }),
    }
    const result = await storeFile(ingest, Readable.from([write(elements)]), origin, { limitBytes })
    if (result.kind === 'conflict' || result.kind === 'variant')
      throw new GatewayError('STATE_CONFLICT', 'another instance has this SOP Instance UID: it is held as a conflict')
    return result
  }

  return {
    async create(principal, body) {
      authorize(principal, 'study.store')
      const request = readRequest(body)
      const { parent, contents } = request
      const inherited = parent === undefined ? undefined : await inherit(parts, parent)
      const common = commonElements(inherited)
      apply(common, request, request.tags)
      const issuer = inherited?.issuer ?? ''
      if (contents === undefined || contents.length === 0)
        return { results: [await store(principal, common, issuer)], isSeries: false }
      const results = []
      for (const [index, { content, tags }] of contents.entries()) {
        const elements = new Map(common)
        if (request.isSeries) {
          elements.set(keyTags.instance, uidElement(keyTags.instance, newUid()))
          for (const [tag, number] of placeOf(index, contents.length))
            elements.set(tag, newElement(tag, String(number)))
        }
        // What stands for all may be said anew for one.
        apply(elements, { ...request, force: true }, tags)
        await embed(elements, content)
        results.push(await store(principal, elements, issuer))
      }
      return { results, isSeries: request.isSeries }
    },
  }
}

/** Instance Number, Number of Temporal Positions, Images in Acquisition, Image Index: what tells a viewer the series' order. */
const placeOf = (index: number, count: number): readonly (readonly [Tag, number])[] => [
  [0x00200013, index + 1],
  [0x00200105, 1],
  [0x00201002, count],
  [0x00541330, index + 1],
]

type Elements = Map<Tag, NewElement>
type Tags = ReturnType<typeof readTagValues>

interface CreationRequest {
  readonly tags: Tags
  readonly force: boolean
  readonly privateCreator: string | undefined
  readonly parent: string | undefined
  readonly contents: readonly { readonly content: string; readonly tags: Tags }[] | undefined
  readonly isSeries: boolean
}

function readRequest(given: unknown): CreationRequest {
  if (!isObject(given)) throw bad('expected a JSON object')
  const body = 'Tags' in given ? given : newForm(given)
  const binary = (readFlag(body, 'InterpretBinaryTags') ?? true) ? 'decoded' : 'kept'
  const tagsOf = (raw: unknown): Tags => (raw === undefined ? [] : readTagValues(raw, 'Tags', binary))
  const content = body['Content']
  const list: readonly unknown[] | undefined = Array.isArray(content) ? content : undefined
  if (list && list.length > mostItems) throw bad(`Content: expected at most ${mostItems} items`)
  const items = list ?? (content === undefined ? undefined : [content])
  return {
    tags: tagsOf(body['Tags']),
    force: readFlag(body, 'Force') ?? false,
    privateCreator: readText(body, 'PrivateCreator'),
    parent: readText(body, 'Parent'),
    contents: items?.map(item => {
      if (typeof item === 'string') return { content: item, tags: [] }
      const inner = isObject(item) ? item['Content'] : undefined
      if (!isObject(item) || typeof inner !== 'string') throw bad('Content: expected a data URI')
      return { content: inner, tags: tagsOf(item['Tags']) }
    }),
    isSeries: list !== undefined && list.length > 0,
  }
}

/** Names of a request that are no tags. */
const optionNames: ReadonlySet<string> = new Set([
  'Content',
  'Force',
  'InterpretBinaryTags',
  'Parent',
  'PixelData',
  'PrivateCreator',
])

/** The older form, which has the tags beside the options, and the image as `PixelData`. */
function newForm(given: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const options = Object.entries(given).filter(([name]) => optionNames.has(name) && name !== 'PixelData')
  const tags = Object.entries(given).filter(([name]) => !optionNames.has(name))
  return {
    ...('PixelData' in given && { Content: given['PixelData'] }),
    ...Object.fromEntries(options),
    Tags: Object.fromEntries(tags),
  }
}

async function inherit(parts: CreationParts, parent: string): Promise<Inherited> {
  const inherited = await inheritFrom(parts, parent)
  if (!inherited) throw bad('Parent: expected a patient, a study or a series that is stored')
  return inherited
}

/** The tags of the resources above, new identifiers and the present time. */
function commonElements(inherited: Inherited | undefined): Elements {
  const now = new Date()
  const two = (value: number): string => String(value).padStart(2, '0')
  const date = `${now.getFullYear()}${two(now.getMonth() + 1)}${two(now.getDate())}`
  const time = `${two(now.getHours())}${two(now.getMinutes())}${two(now.getSeconds())}.000000`
  const elements: Elements = new Map()
  for (const tag of dates) elements.set(tag, { tag, value: date })
  for (const tag of times) elements.set(tag, { tag, value: time })
  elements.set(keyTags.patient, newElement(keyTags.patient, randomUUID()))
  for (const level of ['study', 'series', 'instance'] as const)
    elements.set(keyTags[level], uidElement(keyTags[level], newUid()))
  for (const { path, value } of inherited?.tags ?? []) elements.set(path.tag, newElement(path.tag, value))
  return elements
}

/** @throws GatewayError BAD_REQUEST for a tag that comes from elsewhere, unless it is forced */
function apply(elements: Elements, { force, privateCreator }: CreationRequest, tags: Tags): void {
  for (const { path, value } of tags) {
    const { tag } = path
    if (path.within.length > 0) throw bad('Tags: expected tags of the top level; sequences are lists of items')
    if (tag === pixelData) throw bad('Tags: pixel data comes by Content')
    if (tag >>> 16 <= 2) throw bad('Tags: expected no file meta information')
    if (elements.has(tag) && !force && !open.has(tag))
      throw bad(`Tags: ${formatTag(tag)} would replace what is inherited or made up, which needs Force`)
    elements.set(tag, newElement(tag, value))
    if (privateCreator !== undefined && isPrivateTag(tag) && (tag & 0xffff) >= 0x1000) {
      const block = ((tag & 0xffff0000) | ((tag & 0xff00) >>> 8)) >>> 0
      elements.set(block, { tag: block, vr: 'LO', value: privateCreator })
    }
  }
}

/** Puts a document or an image into an instance. */
async function embed(elements: Elements, uri: string): Promise<void> {
  const { type, bytes } = readDataUri(uri)
  const put = (tag: Tag, value: NewElement): unknown => elements.set(tag, value)
  const unless = (tag: Tag, value: string): void => {
    if (!elements.has(tag)) elements.set(tag, newElement(tag, value))
  }
  if (type === 'application/pdf') {
    if (!Buffer.from(bytes.subarray(0, 1024)).includes('%PDF-')) throw unreadable('Content: expected a PDF document')
    put(0x00080016, uidElement(0x00080016, encapsulatedPdf))
    unless(0x00080060, 'OT')
    unless(0x00080064, 'WSD')
    put(0x00420011, { tag: 0x00420011, vr: 'OB', value: bytes })
    put(0x00420012, { tag: 0x00420012, value: 'application/pdf' })
    put(0x00420015, { tag: 0x00420015, vr: 'UL', value: bytes.length })
    return
  }
  if (type !== 'image/png' && type !== 'image/jpeg') throw bad('Content: expected a PNG, a JPEG or a PDF')
  const { columns, rows, samplesPerPixel, bitsAllocated, pixels } = await decodeImage(bytes)
  const numbers: [Tag, number][] = [
    [0x00280002, samplesPerPixel],
    ...(samplesPerPixel === 3 ? [[0x00280006, 0] satisfies [Tag, number]] : []),
    [0x00280010, rows],
    [0x00280011, columns],
    [0x00280100, bitsAllocated],
    [0x00280101, bitsAllocated],
    [0x00280102, bitsAllocated - 1],
    [0x00280103, 0],
  ]
  for (const [tag, value] of numbers) put(tag, { tag, vr: 'US', value })
  put(0x00280004, { tag: 0x00280004, value: samplesPerPixel === 3 ? 'RGB' : 'MONOCHROME2' })
  put(pixelData, { tag: pixelData, vr: bitsAllocated === 8 ? 'OB' : 'OW', value: pixels })
}

function readDataUri(uri: string): { type: string; bytes: Buffer } {
  const head = /^data:([\w.+-]+\/[\w.+-]+);base64,/.exec(uri.slice(0, 256))
  if (!head) throw unreadable('Content: expected a data URI in base64')
  const bytes = Buffer.from(uri.slice(head[0].length), 'base64')
  if (bytes.length === 0) throw unreadable('Content: expected a data URI that is not empty')
  return { type: (head[1] ?? '').toLowerCase(), bytes }
}

/** The file, its text in the character set asked for, in Latin-1, or in UTF-8 where that does not do. */
function write(elements: Elements): Uint8Array {
  if (!elements.has(0x00080016)) elements.set(0x00080016, uidElement(0x00080016, secondaryCapture))
  const all = [...elements.values()]
  const asked = elements.get(specificCharacterSet)
  const latin = charsetOf(['ISO_IR 100'])
  const terms = all.every(element => isRepresentable(element, latin)) ? 'ISO_IR 100' : 'ISO_IR 192'
  const dataset = encodeDataset(
    asked ? all : [...all, { tag: specificCharacterSet, value: terms }],
    explicitVrLittleEndian,
  )
  const meta = fileMeta({
    sopClassUid: textOf(elements, 0x00080016),
    sopInstanceUid: textOf(elements, keyTags.instance),
    transferSyntaxUid: explicitVrLittleEndian,
  })
  return Buffer.concat([meta, dataset])
}

function textOf(elements: Elements, tag: Tag): string {
  const element = elements.get(tag)
  return element && 'value' in element && typeof element.value === 'string' ? element.value : ''
}

const uidElement = (tag: Tag, value: string): NewElement => ({ tag, vr: 'UI', value })
const bad = (message: string): GatewayError => new GatewayError('BAD_REQUEST', message)
const unreadable = (message: string): GatewayError => new GatewayError('DICOM_UNREADABLE', message)
