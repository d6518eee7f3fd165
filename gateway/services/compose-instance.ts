/** Part 10 files from DICOM JSON and bulk data, DICOM PS3.18 §10.5.3: written chunk by chunk, whatever the bulk data's size. */
import { charsetOf } from '../dicom/charset.ts'
import { type DicomJson, fromJson, type JsonElement, tagOfName } from '../dicom/json.ts'
import { jsonText } from '../dicom/json-read.ts'
import { elementHeader, fileMeta, itemHeader, type NewElement, writeElement } from '../dicom/part10-writer.ts'
import { formatTag, isGroupLength, type Tag } from '../dicom/tag.ts'
import { explicitVrLittleEndian, transferSyntax } from '../dicom/uid.ts'
import { vrFacts } from '../dicom/vr.ts'
import { GatewayError } from '../errors.ts'
import type { BulkPart, BulkParts } from './bulk-parts.ts'

/** An instance to be written. */
export interface Composed {
  readonly sopClassUid: string
  readonly sopInstanceUid: string
  readonly chunks: () => AsyncIterable<Uint8Array>
}

const specificCharacterSet: Tag = 0x00080005
const pixelData: Tag = 0x7fe00010
const availableTransferSyntax: Tag = 0x00083002
const encoding = { explicitVr: true, bigEndian: false }
const utf8 = charsetOf(['ISO_IR 192'])
const longestValue = 0xfffffffe

/**
 * Prepares an instance: checks the data set and finds its bulk data.
 *
 * @param dataset  untrusted
 * @throws GatewayError BAD_REQUEST, TRANSCODE_UNSUPPORTED for compressed pixels in an unknown transfer syntax
 */
export function composeInstance(dataset: DicomJson, bulk: BulkParts): Composed {
  const entries = Object.entries(dataset).filter(([name]) => {
    const tag = tagOfName(name)
    return tag >>> 16 !== 2 && !isGroupLength(tag) && tag !== availableTransferSyntax && tag !== specificCharacterSet
  })
  const streamed = new Map<Tag, { readonly element: JsonElement; readonly parts: readonly BulkPart[] }>()
  const plain: Record<string, JsonElement> = {}
  for (const [name, element] of entries) {
    const parts = element.BulkDataURI === undefined ? [] : bulk.get(element.BulkDataURI)
    const isStreamed = parts.length > 0 && /^[0-9A-Fa-f]{8}$/.test(name) && vrFacts(element.vr)?.longLength
    if (isStreamed) streamed.set(tagOfName(name), { element, parts })
    else plain[name] = element
  }
  const elements = fromJson(plain, uri => inMemory(bulk.get(uri)))
  const transferSyntaxUid = syntaxOf(dataset, streamed.get(pixelData)?.parts ?? [])
  const ids = { sopClassUid: jsonText(dataset, 0x00080016), sopInstanceUid: jsonText(dataset, 0x00080018) }
  const text: NewElement = { tag: specificCharacterSet, value: 'ISO_IR 192' }
  const all = [
    ...[...elements, text].map(element => ({ tag: element.tag, element })),
    ...[...streamed].map(([tag, value]) => ({ tag, value })),
  ].sort((a, b) => a.tag - b.tag)
  return {
    ...ids,
    async *chunks() {
      yield fileMeta({ ...ids, transferSyntaxUid })
      for (const each of all) {
        if ('element' in each) yield writeElement(each.element, encoding, utf8)
        else yield* valueChunks(each.tag, each.value.element, each.value.parts)
      }
    },
  }
}

/** One part that is in memory; larger ones are only taken at the top of the data set. */
function inMemory([part, ...others]: readonly BulkPart[]): Uint8Array | undefined {
  return others.length === 0 ? part?.bytes : undefined
}

/** Compressed frames say in what they are; else it is what the data set says, or nothing is compressed. */
function syntaxOf(dataset: DicomJson, pixels: readonly BulkPart[]): string {
  const [named] = pixels.flatMap(({ transferSyntaxUid }) => transferSyntaxUid ?? [])
  const said = named ?? jsonText(dataset, availableTransferSyntax)
  const syntax = transferSyntax(said)
  if (syntax?.encapsulated && pixels.length > 0 && named !== undefined) return said
  if (named !== undefined && named !== explicitVrLittleEndian) {
    throw new GatewayError('TRANSCODE_UNSUPPORTED', 'expected bulk data in a transfer syntax of compressed frames')
  }
  return explicitVrLittleEndian
}

async function* valueChunks(
  tag: Tag,
  { vr }: JsonElement,
  parts: readonly BulkPart[],
): AsyncGenerator<Uint8Array, void, void> {
  if (tag === pixelData && parts.some(({ transferSyntaxUid }) => isEncapsulated(transferSyntaxUid))) {
    yield elementHeader(tag, 'OB', 0xffffffff, encoding)
    yield itemHeader(0xfffee000, 0, encoding)
    for (const part of parts) {
      yield itemHeader(0xfffee000, part.sizeBytes + (part.sizeBytes % 2), encoding)
      yield* padded(part)
    }
    yield itemHeader(0xfffee0dd, 0, encoding)
    return
  }
  const [part, ...others] = parts
  if (!part || others.length > 0) throw bad(tag, 'one part of bulk data')
  const length = part.sizeBytes + (part.sizeBytes % 2)
  if (length > longestValue) throw bad(tag, 'a value of less than 4 GiB')
  yield elementHeader(tag, vr, length, encoding)
  yield* padded(part)
}

async function* padded(part: BulkPart): AsyncGenerator<Uint8Array, void, void> {
  yield* part.chunks()
  if (part.sizeBytes % 2 === 1) yield new Uint8Array(1)
}

function isEncapsulated(uid: string | undefined): boolean {
  return uid !== undefined && transferSyntax(uid)?.encapsulated === true
}

function bad(tag: Tag, expected: string): GatewayError {
  return new GatewayError('BAD_REQUEST', `${formatTag(tag)}: expected ${expected}`)
}
