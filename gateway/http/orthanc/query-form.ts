/** How Orthanc writes queries and their answers: keys by name or tag; full, simplified and short forms. */
import { decode, describe, integer, isObject, object, optional, text } from '../../decode.ts'
import { entryOf } from '../../dicom/dictionary.ts'
import { type DicomJson, type JsonElement, personName } from '../../dicom/json.ts'
import { formatTag, keywordOf, parseTag, type Tag, tagOf } from '../../dicom/tag.ts'
import { GatewayError } from '../../errors.ts'
import type { RemoteCall } from '../../services/remote.ts'
import type { RetrieveKeys } from '../../services/retrieve-plan.ts'
import { mainTags, textOfElement } from './main-tags.ts'
import { moduleTags } from './modules.ts'

/** A level of the hierarchy. */
export type QueryLevel = RetrieveKeys['level']

const levels: Readonly<Record<string, QueryLevel>> = {
  patient: 'patient',
  patients: 'patient',
  study: 'study',
  studies: 'study',
  series: 'series',
  instance: 'instance',
  instances: 'instance',
  image: 'instance',
  images: 'instance',
}

/** The levels as Orthanc writes them. */
export const levelLabels: Readonly<Record<QueryLevel, string>> = {
  patient: 'Patient',
  study: 'Study',
  series: 'Series',
  instance: 'Instance',
}

/** From the patient down. */
export const levelOrder: readonly QueryLevel[] = ['patient', 'study', 'series', 'instance']

/** @throws GatewayError BAD_REQUEST */
export function readLevel(raw: unknown): QueryLevel {
  const level = typeof raw === 'string' ? levels[raw.toLowerCase()] : undefined
  if (level === undefined) throw new GatewayError('BAD_REQUEST', 'Level: expected Patient, Study, Series or Instance')
  return level
}

const mostKeys = 200
const mostValueLength = 65_536

/**
 * Keys of a query by name, `gggg,eeee` or `ggggeeee`, as DICOM JSON.
 *
 * @param sequences  may values be lists of items?
 * @throws GatewayError BAD_REQUEST
 */
export function readKeys(raw: unknown, sequences: 'sequences' | 'texts' = 'texts', depth = 0): DicomJson {
  if (!isObject(raw)) throw new GatewayError('BAD_REQUEST', 'Query: expected an object of DICOM tags and texts')
  const entries = Object.entries(raw)
  if (entries.length > mostKeys || depth > 8) throw new GatewayError('BAD_REQUEST', 'Query: too many tags')
  const keys: [string, JsonElement][] = entries.map(([name, value]) => {
    const tag = readTag(name)
    const vr = entryOf(tag)?.vrs[0] ?? 'UN'
    if (vr === 'SQ' && sequences === 'sequences' && Array.isArray(value)) {
      return [formatTag(tag), { vr, Value: value.slice(0, mostKeys).map(item => readKeys(item, sequences, depth + 1)) }]
    }
    if (typeof value !== 'string' || value.length > mostValueLength || (vr === 'SQ' && value !== '')) {
      throw new GatewayError('BAD_REQUEST', 'Query: expected an object of DICOM tags and texts')
    }
    if (value === '') return [formatTag(tag), { vr }]
    if (vr === 'UN') return [formatTag(tag), { vr: 'LO', Value: value.split('\\') }]
    return [formatTag(tag), { vr, Value: vr === 'PN' ? value.split('\\').map(personName) : value.split('\\') }]
  })
  return Object.fromEntries(keys)
}

/** @throws GatewayError BAD_REQUEST */
function readTag(name: string): Tag {
  const tag = parseTag(name.replace('-', ',')) ?? tagOf(name)
  if (tag === undefined || tag >>> 16 <= 0x0002)
    throw new GatewayError('BAD_REQUEST', 'Query: expected an object of DICOM tags and texts')
  return tag
}

/** Counts and summaries that a level alone answers, PS3.4 Tables C.6-1 to C.6-3. */
const summaryTags: Readonly<Record<QueryLevel, readonly Tag[]>> = {
  patient: [0x00201200, 0x00201202, 0x00201204],
  study: [0x00080061, 0x00080062, 0x00201206, 0x00201208],
  series: [0x00201209],
  instance: [],
}

/** Only the keys that the level and those above it have: what `Normalize` asks for. */
export function normalizeKeys(keys: DicomJson, level: QueryLevel): DicomJson {
  const levels = levelOrder.slice(0, levelOrder.indexOf(level) + 1)
  const isOf = (name: string): boolean => {
    const tag = Number.parseInt(name, 16)
    if (tag === specificCharacterSet || summaryTags[level].includes(tag)) return true
    return levels.some(each => moduleTags[each].has(tag) || Object.hasOwn(mainTags[each], name))
  }
  return Object.fromEntries(Object.entries(keys).filter(([name]) => isOf(name)))
}

const specificCharacterSet = 0x00080005

/** How answers are written. */
export type AnswerForm = 'full' | 'simplify' | 'short'

/** What a query string or body asks for: `simplify` wins over `short`. */
export function formOf(simplify: boolean, short: boolean): AnswerForm {
  return simplify ? 'simplify' : short ? 'short' : 'full'
}

/** An answer or a query in one of Orthanc's forms. */
export function writeAnswer(document: DicomJson, form: AnswerForm): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(document)
      .toSorted(([one], [other]) => (one < other ? -1 : 1))
      .map(([key, element]) => {
        const tag = Number.parseInt(key, 16)
        const name = keywordOf(tag) ?? 'Unknown Tag & Data'
        const comma = `${key.slice(0, 4)},${key.slice(4)}`.toLowerCase()
        const value =
          element.vr === 'SQ'
            ? (element.Value ?? []).map(item => (isObject(item) ? writeAnswer(toDicomJson(item), form) : {}))
            : textOfElement(element)
        if (form === 'simplify') return [keywordOf(tag) ?? comma, value]
        if (form === 'short') return [comma, value]
        return [comma, { Name: name, Type: element.vr === 'SQ' ? 'Sequence' : 'String', Value: value }]
      }),
  )
}

function toDicomJson(item: Readonly<Record<string, unknown>>): DicomJson {
  return Object.fromEntries(Object.entries(item).filter((entry): entry is [string, JsonElement] => isObject(entry[1])))
}

/** Unique keys of each level, in the order of levels. */
export const uniqueKeys: Readonly<Record<QueryLevel, string>> = {
  patient: '00100020',
  study: '0020000D',
  series: '0020000E',
  instance: '00080018',
}

const callForm = object(
  {
    LocalAet: optional(text({ max: 16, pattern: /^[ -[\]-~]*$/, expected: 'an AE title' })),
    Timeout: optional(integer({ min: 0, max: 3_600 })),
  },
  { unknown: 'keep' },
)

/** `LocalAet` and `Timeout` (seconds) of a body. @throws GatewayError BAD_REQUEST */
export function readCall(body: unknown): RemoteCall {
  const given = decode(callForm, isObject(body) ? body : {})
  if (!given.ok) throw new GatewayError('BAD_REQUEST', describe(given.problems))
  const { LocalAet, Timeout } = given.value
  return {
    callingAe: LocalAet?.trim() || undefined,
    timeoutMs: Timeout ? Timeout * 1000 : undefined,
  }
}
