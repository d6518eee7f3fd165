/** The tables of PS3.15 Annex E, looked up. */
import { entryOf } from '../../gateway/dicom/dictionary.ts'
import type { Tag } from '../../gateway/dicom/tag.ts'
import { isVr, type Vr } from '../../gateway/dicom/vr.ts'
import { attributeLines, conceptLines, methodLines, safePrivateLines } from './profile.data.ts'

/** Options of PS3.15 §E.3 that have a column in Table E.1-1. */
export const columnOptions = [
  'retainSafePrivate',
  'retainUIDs',
  'retainDeviceIdentity',
  'retainInstitutionIdentity',
  'retainPatientCharacteristics',
  'retainLongitudinalFullDates',
  'retainLongitudinalModifiedDates',
  'cleanDescriptors',
  'cleanStructuredContent',
  'cleanGraphics',
] as const

/** All options of PS3.15 §E.3. */
export const optionNames = [...columnOptions, 'cleanPixelData', 'cleanRecognizableVisualFeatures'] as const

export type OptionName = (typeof optionNames)[number]

/** Action codes of Table E.1-1a as the Basic Profile column writes them. */
export type BasicCode = 'D' | 'Z' | 'X' | 'K' | 'C' | 'U' | 'Z/D' | 'X/Z' | 'X/D' | 'X/Z/D' | 'X/Z/U*'

/** What options make of an attribute: kept, or cleaned. */
export type OptionCode = 'K' | 'C'

/** A row of Table E.1-1 or E.3.4-1. */
export interface Row {
  readonly basic: BasicCode
  readonly options: Readonly<Partial<Record<OptionName, OptionCode>>>
}

/** A row of Table E.3.4-1: a content item by the code of its concept name. */
export interface ConceptRow extends Row {
  /** Value Type (0040,A040) that the row is about. */
  readonly valueType: string
}

/** The row of a standard attribute, repeating groups included; undefined where Table E.1-1 has none. */
export function rowOf(tag: Tag): Row | undefined {
  const row = tables.attributes.get(tag)
  if (row !== undefined) return row
  const group = tag >>> 16
  // (50xx,xxxx), (60xx,3000), (60xx,4000): even groups up to xx = 1E, and what senders write beyond.
  if (group >>> 8 === 0x50) return tables.curves
  if (group >>> 8 === 0x60) return tables.overlays.get(tag & 0xffff)
  return undefined
}

/** The row of a content item's concept; undefined where Table E.3.4-1 has none. */
export function conceptRowOf(scheme: string, code: string): ConceptRow | undefined {
  return tables.concepts.get(`${scheme}\t${code}`)
}

/** The VRs of a safe private attribute (Table E.3.10-1); undefined for one that is not listed. */
export function safePrivateVrs(creator: string, tag: Tag): readonly Vr[] | undefined {
  return tables.safePrivate.get(safeKey(tag >>> 16, tag & 0xff, creator))
}

/** The meaning of a code of CID 7050. */
export function methodMeaning(code: string): string {
  return tables.methods.get(code) ?? ''
}

/** Every tag with a row of its own, ascending; without the repeating groups. */
export function tagsWithRow(): readonly Tag[] {
  return [...tables.attributes.keys()].sort((a, b) => a - b)
}

/** The VR of an attribute by PS3.6; undefined when it is not known. */
export function dictionaryVrs(tag: Tag): readonly Vr[] | undefined {
  return entryOf(tag)?.vrs
}

interface Tables {
  readonly attributes: ReadonlyMap<Tag, Row>
  readonly curves: Row
  readonly overlays: ReadonlyMap<number, Row>
  readonly concepts: ReadonlyMap<string, ConceptRow>
  readonly safePrivate: ReadonlyMap<string, readonly Vr[]>
  readonly methods: ReadonlyMap<string, string>
}

const basicCodes: readonly string[] = ['D', 'Z', 'X', 'K', 'C', 'U', 'Z/D', 'X/Z', 'X/D', 'X/Z/D', 'X/Z/U*']
const tables: Tables = readTables()

function readTables(): Tables {
  const attributes = new Map<Tag, Row>()
  const overlays = new Map<number, Row>()
  let curves: Row = { basic: 'X', options: {} }
  for (const line of attributeLines.split('\n')) {
    const [key = '', ...codes] = line.split(' ')
    const row = readRow(codes)
    if (key.startsWith('50xx')) curves = row
    else if (key.startsWith('60xx')) overlays.set(Number.parseInt(key.slice(4), 16), row)
    else if (key !== 'private') attributes.set(Number.parseInt(key, 16), row)
  }
  const concepts = new Map<string, ConceptRow>()
  for (const line of conceptLines.split('\n')) {
    const [scheme = '', code = '', valueType = '', ...codes] = line.split('\t')
    concepts.set(`${scheme}\t${code}`, { valueType, ...readRow(codes) })
  }
  const safePrivate = new Map<string, readonly Vr[]>()
  for (const line of safePrivateLines.split('\n')) {
    const [group = '', low = '', vrs = '', ...creator] = line.split(' ')
    const key = safeKey(Number.parseInt(group, 16), Number.parseInt(low, 16), creator.join(' '))
    safePrivate.set(key, vrs.split('|').filter(isVr))
  }
  const methods = new Map(methodLines.split('\n').map(line => [line.slice(0, 6), line.slice(7)]))
  return { attributes, curves, overlays, concepts, safePrivate, methods }
}

function readRow([basic = 'X', ...pairs]: readonly string[]): Row {
  const options: Partial<Record<OptionName, OptionCode>> = {}
  for (const pair of pairs) {
    const [name, code] = pair.split('=')
    const option = optionNames.find(known => known === name)
    if (option !== undefined) options[option] = code === 'K' ? 'K' : 'C'
  }
  return { basic: isBasicCode(basic) ? basic : 'X', options }
}

function isBasicCode(text: string): text is BasicCode {
  return basicCodes.includes(text)
}

function safeKey(group: number, low: number, creator: string): string {
  return `${group.toString(16)} ${low.toString(16)} ${creator}`
}
