/** Matches of a search as result data sets: DICOM PS3.18 §10.6.3.3. */

import { isObject } from '../../decode.ts'
import type { DicomJson, JsonElement, JsonValue } from '../../dicom/json.ts'
import type { Level } from '../../dicom/levels.ts'
import { formatTag, type Tag } from '../../dicom/tag.ts'
import type { Included, IncludedAttribute } from './search-query.ts'

type SearchLevel = Exclude<Level, 'patient'>

const instanceAvailability = 0x00080056
const retrieveUrl = 0x00081190
const studyUid = '0020000D'
const seriesUid = '0020000E'
const sopInstanceUid = '00080018'

/** PS3.18 Tables 10.6.3-3, -4 and -5, with what viewers show beside it. */
const defaults: Readonly<Record<SearchLevel, readonly Tag[]>> = {
  study: [
    0x00080005, 0x00080020, 0x00080030, 0x00080050, 0x00080061, 0x00080090, 0x00080201, 0x00081030, 0x00100010,
    0x00100020, 0x00100021, 0x00100030, 0x00100040, 0x0020000d, 0x00200010, 0x00201206, 0x00201208,
  ],
  series: [
    0x00080005, 0x00080021, 0x00080031, 0x00080060, 0x00080201, 0x0008103e, 0x0020000d, 0x0020000e, 0x00200011,
    0x00201209, 0x00400244, 0x00400245, 0x00400275,
  ],
  instance: [
    0x00080005, 0x00080016, 0x00080018, 0x00080201, 0x0020000d, 0x0020000e, 0x00200013, 0x00280008, 0x00280010,
    0x00280011, 0x00280100, 0x00083002,
  ],
}

/** Attributes of the result data sets: those of the level, those of the levels above that the path leaves open, and others. */
export function resultTags(level: SearchLevel, scope: ReadonlyMap<Tag, string>, included: Included): Set<Tag> {
  const isStudyOpen = !scope.has(0x0020000d)
  const isSeriesOpen = !scope.has(0x0020000e)
  return new Set([
    ...defaults[level],
    ...(level !== 'study' && isStudyOpen ? defaults.study : []),
    ...(level === 'instance' && isSeriesOpen ? defaults.series : []),
    ...(included === 'all' ? [0x00080062] : included.map(({ tag }) => tag)),
  ])
}

/** Makes result data sets, elements in the order of their tags. */
export function resultWriter(options: {
  readonly level: SearchLevel
  readonly tags: ReadonlySet<Tag>
  readonly included: Included
  /** Where the service is, without a slash at the end. */
  readonly baseUrl: string
}): (attributes: DicomJson) => DicomJson {
  const { level, tags, included, baseUrl } = options
  const online: JsonElement = { vr: 'CS', Value: ['ONLINE'] }
  const at = (attributes: DicomJson): JsonElement => ({
    vr: 'UR',
    Value: [urlOf(baseUrl, level, attributes)],
  })
  if (included === 'all') {
    return attributes => {
      const whole = {
        ...attributes,
        [formatTag(instanceAvailability)]: online,
        [formatTag(retrieveUrl)]: at(attributes),
      }
      return Object.fromEntries(Object.entries(whole).sort(([a], [b]) => (a < b ? -1 : 1)))
    }
  }
  const inner = new Map(included.map(({ tag, items }) => [tag, items]))
  const fields = [...new Set([...tags, instanceAvailability, retrieveUrl])]
    .sort((a, b) => a - b)
    .map(tag => ({ tag, name: formatTag(tag), items: inner.get(tag) ?? [] }))
  return attributes => {
    const result: Record<string, JsonElement> = {}
    for (const { tag, name, items } of fields) {
      if (tag === retrieveUrl) result[name] = at(attributes)
      else if (tag === instanceAvailability) result[name] = online
      else {
        const element = attributes[name]
        if (element) result[name] = items.length === 0 ? element : narrowed(element, items)
      }
    }
    return result
  }
}

function narrowed(element: JsonElement, items: readonly IncludedAttribute[]): JsonElement {
  const values = (element.Value ?? []).map((item): JsonValue => {
    if (!isItem(item)) return item
    const kept: Record<string, JsonElement> = {}
    for (const { tag, items: inner } of items) {
      const found = item[formatTag(tag)]
      if (found) kept[formatTag(tag)] = inner.length === 0 ? found : narrowed(found, inner)
    }
    return kept
  })
  return { vr: element.vr, Value: values }
}

function isItem(value: JsonValue): value is DicomJson {
  return isObject(value)
}

function urlOf(baseUrl: string, level: SearchLevel, attributes: DicomJson): string {
  const study = `${baseUrl}/studies/${uidOf(attributes, studyUid)}`
  if (level === 'study') return study
  const series = `${study}/series/${uidOf(attributes, seriesUid)}`
  return level === 'series' ? series : `${series}/instances/${uidOf(attributes, sopInstanceUid)}`
}

function uidOf(attributes: DicomJson, name: string): string {
  const [uid] = attributes[name]?.Value ?? []
  return typeof uid === 'string' ? uid : ''
}
