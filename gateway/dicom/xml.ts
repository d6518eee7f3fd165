/** The Native DICOM Model in XML, DICOM PS3.19 §A.1, written from DICOM JSON. */
import { isObject } from '../decode.ts'
import { type DicomJson, type JsonElement, type JsonValue, tagOfName } from './json.ts'
import { isPrivateTag, keywordOf } from './tag.ts'

/** The namespace of PS3.19 §A.1.6. */
export const nativeModelNamespace = 'http://dicom.nema.org/PS3.19/models/NativeDICOM'

/** Elements of a person name's component group, in the order of PS3.5 §6.2.1.1. */
export const nameComponents = ['FamilyName', 'GivenName', 'MiddleName', 'NamePrefix', 'NameSuffix'] as const

/** Component groups of a person name. */
export const nameGroups = ['Alphabetic', 'Ideographic', 'Phonetic'] as const

/** A data set as a document of the Native DICOM Model. What XML 1.0 cannot hold becomes U+FFFD. */
export function toXml(dataset: DicomJson): string {
  return `<?xml version="1.0" encoding="utf-8"?>\n<NativeDicomModel xmlns="${nativeModelNamespace}" xml:space="preserve">${attributes(dataset)}</NativeDicomModel>`
}

function attributes(dataset: DicomJson): string {
  return Object.entries(dataset)
    .map(([name, element]) => {
      const tag = tagOfName(name)
      const keyword = isPrivateTag(tag) ? undefined : keywordOf(tag)
      const named = keyword === undefined ? '' : ` keyword="${keyword}"`
      const creator = privateCreator(dataset, name)
      const owner = creator === undefined ? '' : ` privateCreator="${escaped(creator)}"`
      const start = `<DicomAttribute${named} tag="${name}" vr="${element.vr}"${owner}`
      const content = contentOf(element)
      return content === '' ? `${start}/>` : `${start}>${content}</DicomAttribute>`
    })
    .join('')
}

/** The private creator of the element's block (PS3.5 §7.8.1). */
function privateCreator(dataset: DicomJson, name: string): string | undefined {
  if (!isPrivateTag(tagOfName(name)) || name.slice(4, 6) === '00') return undefined
  const [creator] = dataset[`${name.slice(0, 4)}00${name.slice(4, 6)}`]?.Value ?? []
  return typeof creator === 'string' ? creator : undefined
}

function contentOf({ vr, Value: values, InlineBinary, BulkDataURI }: JsonElement): string {
  if (InlineBinary !== undefined) return `<InlineBinary>${InlineBinary}</InlineBinary>`
  if (BulkDataURI !== undefined) return `<BulkData uri="${escaped(BulkDataURI)}"/>`
  return (values ?? []).map((value, index) => singleOf(vr, value, index + 1)).join('')
}

function singleOf(vr: JsonElement['vr'], value: JsonValue, number: number): string {
  if (vr === 'SQ') return `<Item number="${number}">${isItem(value) ? attributes(value) : ''}</Item>`
  // Empty values keep their places.
  if (value === null) return vr === 'PN' ? `<PersonName number="${number}"/>` : `<Value number="${number}"/>`
  if (typeof value !== 'object')
    return `<Value number="${number}">${escaped(Object.is(value, -0) ? '-0' : String(value))}</Value>`
  const groups = nameGroups.map(group => {
    const text: unknown = Reflect.get(value, group)
    return typeof text === 'string' && text !== '' ? `<${group}>${componentsOf(text)}</${group}>` : ''
  })
  return `<PersonName number="${number}">${groups.join('')}</PersonName>`
}

function isItem(value: JsonValue): value is DicomJson {
  return isObject(value)
}

/** Empty components stand too, so that carets at the end survive; what is beyond the fifth stays with it. */
function componentsOf(group: string): string {
  const parts = group.split('^')
  const last = nameComponents.length - 1
  return nameComponents
    .slice(0, parts.length)
    .map((name, index) => {
      const text = index === last ? parts.slice(last).join('^') : (parts[index] ?? '')
      return text === '' ? `<${name}/>` : `<${name}>${escaped(text)}</${name}>`
    })
    .join('')
}

/** Text for content and attributes; carriage returns would become line feeds (XML 1.0 §2.11). */
function escaped(text: string): string {
  return /^[ !#-%'-;=?-~]*$/.test(text) ? text : text.toWellFormed().replace(special, replacement)
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: those that XML 1.0 §2.2 has no place for are looked for
const special = /[\u0000-\u001f&<>"\ufffe\uffff]/g

function replacement(character: string): string {
  switch (character) {
    case '&':
      return '&amp;'
    case '<':
      return '&lt;'
    case '>':
      return '&gt;'
    case '"':
      return '&quot;'
    case '\t':
    case '\n':
    case '\r':
      return `&#${character.charCodeAt(0)};`
    default:
      return '\ufffd'
  }
}
