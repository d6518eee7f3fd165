/** Reads the Native DICOM Model in XML (DICOM PS3.19 §A.1) of untrusted sources into DICOM JSON, which is checked after. */
import { XMLParser } from 'fast-xml-parser'
import { isObject } from '../decode.ts'
import { GatewayError } from '../errors.ts'
import { nameComponents, nameGroups } from './xml.ts'

const maxDepth = 64
const textName = '#text'
const cdataName = '#cdata'

/** Attributes and entities are left as they stand: only the five of XML and character references are decoded, by us. */
const parser = new XMLParser({
  preserveOrder: true,
  ignoreAttributes: false,
  attributeNamePrefix: '',
  parseTagValue: false,
  parseAttributeValue: false,
  trimValues: false,
  processEntities: false,
  removeNSPrefix: true,
  cdataPropName: cdataName,
  ignoreDeclaration: true,
  ignorePiTags: true,
  maxNestedTags: 2 * maxDepth + 8,
})

/**
 * The data set of a document, as unchecked DICOM JSON for `fromJson`.
 *
 * @throws GatewayError BAD_REQUEST when it is no Native DICOM Model
 */
export function fromXml(text: string): Record<string, unknown> {
  // Entities of a document's own may grow without bounds; the model has no use for them.
  if (/<!(?:DOCTYPE|ENTITY)/i.test(text)) throw malformed('no document type declaration')
  let parsed: unknown
  try {
    parsed = parser.parse(text)
  } catch (cause) {
    throw new GatewayError('BAD_REQUEST', 'cannot read XML', { cause })
  }
  const roots = nodes(parsed).filter(({ name }) => name !== textName)
  const [root] = roots
  if (roots.length !== 1 || root?.name !== 'NativeDicomModel') throw malformed('one NativeDicomModel')
  return datasetOf(root, 0)
}

interface Node {
  readonly name: string
  readonly attributes: Readonly<Record<string, unknown>>
  readonly content: unknown
}

function nodes(content: unknown): Node[] {
  if (!Array.isArray(content)) return []
  return content.flatMap((raw: unknown) => {
    if (!isObject(raw)) return []
    const name = Object.keys(raw).find(key => key !== ':@')
    const attributes = raw[':@']
    return name === undefined ? [] : [{ name, attributes: isObject(attributes) ? attributes : {}, content: raw[name] }]
  })
}

function children(node: Node, name: string): Node[] {
  return nodes(node.content).filter(child => child.name === name)
}

function textOf(node: Node): string {
  return nodes(node.content)
    .map(({ name, content }) => {
      if (name === textName) return decoded(String(content))
      return name === cdataName ? textParts(content) : ''
    })
    .join('')
}

/** The text of a CDATA section stands as it is. */
function textParts(content: unknown): string {
  return nodes(content)
    .map(part => String(part.content))
    .join('')
}

function attributeOf(node: Node, name: string): string | undefined {
  const value = node.attributes[name]
  return typeof value === 'string' ? decoded(value) : undefined
}

function datasetOf(node: Node, depth: number): Record<string, unknown> {
  if (depth > maxDepth) throw malformed(`at most ${maxDepth} levels`)
  const dataset: Record<string, unknown> = {}
  for (const element of children(node, 'DicomAttribute')) {
    const tag = attributeOf(element, 'tag')?.toUpperCase()
    if (tag === undefined || !/^[0-9A-F]{8}$/.test(tag)) throw malformed('tags of eight hex digits')
    if (Object.hasOwn(dataset, tag)) throw malformed('each attribute once')
    dataset[tag] = elementOf(element, depth)
  }
  return dataset
}

function elementOf(element: Node, depth: number): Record<string, unknown> {
  const vr = attributeOf(element, 'vr')
  const [bulk] = children(element, 'BulkData')
  if (bulk) return { vr, BulkDataURI: attributeOf(bulk, 'uri') ?? attributeOf(bulk, 'uuid') }
  const [inline] = children(element, 'InlineBinary')
  if (inline) return { vr, InlineBinary: textOf(inline).replace(/\s/g, '') }
  const values =
    vr === 'SQ'
      ? numbered(children(element, 'Item'), item => datasetOf(item, depth + 1), {})
      : vr === 'PN'
        ? numbered(children(element, 'PersonName'), personName, null)
        : numbered(children(element, 'Value'), value => scalarOf(vr, textOf(value)), null)
  return values.length === 0 ? { vr } : { vr, Value: values }
}

/** Values by their numbers, which begin at 1; those that are left out are empty. */
function numbered<T>(list: readonly Node[], read: (node: Node) => T, empty: T): T[] {
  const values: T[] = []
  for (const node of list) {
    const number = Number(attributeOf(node, 'number') ?? values.length + 1)
    if (!Number.isInteger(number) || number <= values.length || number > values.length + 1_000_000) {
      throw malformed('numbers of values in ascending order')
    }
    while (values.length < number - 1) values.push(empty)
    values.push(read(node))
  }
  return values
}

const numberVrs: ReadonlySet<string | undefined> = new Set(['FD', 'FL', 'SL', 'SS', 'UL', 'US'])

function scalarOf(vr: string | undefined, text: string): unknown {
  if (!numberVrs.has(vr)) return text === '' ? null : text
  const trimmed = text.trim()
  const number = Number(trimmed)
  return trimmed !== '' && Number.isFinite(number) ? number : trimmed
}

function personName(node: Node): unknown {
  const name: Record<string, string> = {}
  for (const group of nameGroups) {
    const [found] = children(node, group)
    if (!found) continue
    const parts = nameComponents.map(component => children(found, component)[0])
    const count = parts.findLastIndex(part => part !== undefined) + 1
    const texts = parts.slice(0, count).map(part => (part ? textOf(part) : ''))
    name[group] = texts.join('^')
  }
  return Object.keys(name).length === 0 ? null : name
}

const named: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" }

function decoded(text: string): string {
  if (!text.includes('&')) return text
  return text.replace(/&(?:#(\d{1,7})|#x([0-9a-fA-F]{1,6})|([a-z]{2,4}));/g, (whole, decimal, hex, name) => {
    if (typeof name === 'string') return named[name] ?? whole
    const code = typeof hex === 'string' ? Number.parseInt(hex, 16) : Number(decimal)
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : '\ufffd'
  })
}

function malformed(expected: string): GatewayError {
  return new GatewayError('BAD_REQUEST', `native DICOM model: expected ${expected}`)
}
