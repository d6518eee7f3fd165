/**
 * JSON from a peer. One text has one meaning: two parsers that disagree on a duplicate key would
 * make a signature cover two different documents, so such a text is refused, as is whatever else
 * RFC 7493 (I-JSON) rules out: invalid UTF-8, lone surrogates, a byte order mark.
 */
import type { Decoder } from '../gateway/decode.ts'
import { type ErrorCode, GatewayError } from '../gateway/errors.ts'

/** Bounds for one document; `code` is thrown when it is not acceptable JSON. */
export interface JsonLimits {
  readonly maxBytes: number
  /** Nesting of arrays and objects; 32 unless told. */
  readonly maxDepth?: number
  readonly code: ErrorCode
}

/**
 * Parses JSON strictly.
 *
 * @throws GatewayError with `limits.code` for a text that is too long, too deep, not JSON, not UTF-8,
 *   or that has a duplicate key, a key `__proto__`, or a string that is not well-formed Unicode
 */
export function parseJson(bytes: Uint8Array, limits: JsonLimits): unknown {
  const refuse = (reason: string, cause?: unknown): never => {
    throw new GatewayError(limits.code, reason, cause === undefined ? {} : { cause })
  }
  if (bytes.length > limits.maxBytes) {
    return refuse(`expected JSON of at most ${limits.maxBytes} bytes, got ${bytes.length}`)
  }
  let text: string
  let value: unknown
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    value = JSON.parse(text)
  } catch {
    return refuse('expected JSON in UTF-8') // no cause: its message quotes the input
  }
  const fault = findFault(text, limits.maxDepth ?? 32)
  return fault === undefined ? value : refuse(fault)
}

/**
 * Bytes in base64, in either alphabet, padded or not (DSSE: verifiers MUST accept either), and
 * canonical: stray bits or characters are not a second spelling. The problem never shows the value.
 */
export function base64(options: { bytes?: number; max?: number } = {}): Decoder<Uint8Array> {
  const { bytes: exact, max = Number.POSITIVE_INFINITY } = options
  return (raw, path, problems) => {
    const bytes = typeof raw === 'string' ? decodeBase64(raw) : undefined
    if (bytes && (exact === undefined || bytes.length === exact) && bytes.length <= max) return bytes
    problems.add(path, exact === undefined ? 'expected base64' : `expected ${exact} bytes in base64`)
    return undefined
  }
}

function decodeBase64(raw: string): Uint8Array | undefined {
  const standard = raw
    .replaceAll('-', '+')
    .replaceAll('_', '/')
    .replace(/={1,2}$/, '')
  const bytes = Buffer.from(standard, 'base64')
  return bytes.toString('base64').replace(/={1,2}$/, '') === standard ? bytes : undefined
}

/** A UTC instant as `2026-01-31T12:00:00Z`, with up to three fractional digits; gives Unix time in ms. */
export const utcTime: Decoder<number> = (raw, path, problems) => {
  const isShaped = typeof raw === 'string' && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?Z$/.test(raw)
  const at = isShaped ? Date.parse(raw) : Number.NaN
  // Date.parse turns 31 February into 3 March.
  if (isShaped && Number.isFinite(at) && new Date(at).toISOString().startsWith(raw.slice(0, 19))) return at
  problems.add(path, 'expected a UTC time such as 2026-01-31T12:00:00Z')
  return undefined
}

const QUOTE = 0x22
const BACKSLASH = 0x5c

/** Walks a text that is known to be valid JSON; undefined when nothing is wrong with it. */
function findFault(text: string, maxDepth: number): string | undefined {
  // One entry per open bracket: the keys seen so far for an object, undefined for an array.
  const open: (Set<string> | undefined)[] = []
  let expectKey = false
  for (let at = 0; at < text.length; at++) {
    switch (text.charCodeAt(at)) {
      case 0x7b: // {
        open.push(new Set())
        expectKey = true
        break
      case 0x5b: // [
        open.push(undefined)
        expectKey = false
        break
      case 0x7d: // }
      case 0x5d: // ]
        open.pop()
        expectKey = false
        break
      case 0x2c: // ,
        expectKey = open.at(-1) !== undefined
        break
      case QUOTE: {
        const end = endOfString(text, at)
        const raw = text.slice(at, end + 1)
        const value: unknown = raw.includes('\\') ? JSON.parse(raw) : raw.slice(1, -1)
        if (typeof value !== 'string' || !value.isWellFormed()) return 'expected well-formed Unicode strings'
        if (expectKey) {
          const keys = open.at(-1)
          if (value === '__proto__') return 'a key may not be __proto__'
          if (keys?.has(value)) return 'expected unique keys, got one twice'
          keys?.add(value)
          expectKey = false
        }
        at = end
        break
      }
    }
    if (open.length > maxDepth) return `expected at most ${maxDepth} nested levels`
  }
  return undefined
}

function endOfString(text: string, start: number): number {
  for (let at = start + 1; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (code === BACKSLASH) at++
    else if (code === QUOTE) return at
  }
  return text.length
}
