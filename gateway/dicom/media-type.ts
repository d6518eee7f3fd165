/** Media types with parameters, and which of several a client accepts: RFC 9110 §8.3.1, §12.5.1, DICOM PS3.18 §8.7. */
import { GatewayError } from '../errors.ts'

/** A media type or range; names in lower case. */
export interface MediaType {
  /** `type/subtype`. */
  readonly name: string
  readonly parameters: ReadonlyMap<string, string>
}

/** A media range of an Accept header. */
export interface Accepted extends MediaType {
  /** 0 to 1; 0 is refused. */
  readonly quality: number
}

const token = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
const typePattern = new RegExp(`\\s*(${token}/${token})\\s*`, 'y')
const parameterPattern = new RegExp(
  `;\\s*(?:(${token})\\s*=\\s*(?:(${token}(?:/${token})?)|"((?:[^"\\\\]|\\\\.)*)"))?\\s*`,
  'y',
)
const maxRanges = 64

/** Reads the value of a Content-Type header; undefined when it is none. */
export function parseMediaType(text: string): MediaType | undefined {
  const [found] = parseList(text) ?? []
  return found
}

/**
 * What the client accepts, best first; everything when it does not say.
 *
 * @throws GatewayError BAD_REQUEST when the header is malformed
 */
export function parseAccept(text: string | undefined): Accepted[] {
  if (text === undefined || text.trim() === '') return [{ name: '*/*', parameters: new Map(), quality: 1 }]
  const list = parseList(text)
  if (!list) throw new GatewayError('BAD_REQUEST', 'expected media ranges in Accept')
  return list
    .map(range => ({ ...range, quality: qualityOf(range.parameters.get('q')) }))
    .sort((a, b) => b.quality - a.quality)
}

function qualityOf(text: string | undefined): number {
  const quality = text === undefined ? 1 : Number(text)
  return quality >= 0 && quality <= 1 ? quality : 1
}

function parseList(text: string): MediaType[] | undefined {
  const list: MediaType[] = []
  for (let at = 0; at < text.length && list.length < maxRanges; ) {
    typePattern.lastIndex = at
    const [all = '', name] = typePattern.exec(text) ?? []
    if (name === undefined) return undefined
    at += all.length
    const parameters = new Map<string, string>()
    while (text[at] === ';') {
      parameterPattern.lastIndex = at
      const found = parameterPattern.exec(text)
      if (!found) return undefined
      const [whole, key, plain, quoted] = found
      if (key !== undefined) parameters.set(key.toLowerCase(), plain ?? (quoted ?? '').replace(/\\(.)/g, '$1'))
      at += whole.length
    }
    list.push({ name: name.toLowerCase(), parameters })
    if (at < text.length && text[at] !== ',') return undefined
    at += 1
  }
  return list.length > 0 ? list : undefined
}

/** True where a media range such as `image/*` holds a media type. */
export function includes(range: string, name: string): boolean {
  return range === '*/*' || range === name || (range.endsWith('/*') && name.startsWith(range.slice(0, -1)))
}

/** How data sets are written. */
export type MetadataFormat = 'json' | 'xml'

/** DICOM JSON as single part, or native model documents as multipart (PS3.18 §8.7.3.2); undefined where neither is accepted. */
export function metadataFormat(accepted: readonly Accepted[]): MetadataFormat | undefined {
  for (const { name, parameters, quality } of accepted) {
    if (quality === 0) continue
    if (['application/dicom+json', 'application/json'].some(json => includes(name, json))) return 'json'
    if (name === 'application/dicom+xml') return 'xml'
    if (name === 'multipart/related') {
      const type = parameters.get('type')?.toLowerCase()
      if (type === undefined || type === 'application/dicom+xml' || type === '*/*') return 'xml'
      if (type === 'application/dicom+json') return 'json'
    }
  }
  return undefined
}
