/**
 * HL7 v2 messages in their traditional encoding ("vertical bar", HL7 v2.5.1 §2.6): segments, fields, repetitions,
 * components and subcomponents, with the delimiters that each message declares itself.
 */
import { GatewayError } from '../errors.ts'
import { decodeMessage } from './charset.ts'

/** Delimiters of a message: MSH-1 and MSH-2. */
export interface Delimiters {
  readonly field: string
  readonly component: string
  readonly repetition: string
  /** `''` where the message declares none. */
  readonly escape: string
  readonly subcomponent: string
}

/** One segment; fields are as written, with their escapes. */
export interface Segment {
  /** Three characters. */
  readonly name: string
  /** By HL7's number of the field: `fields[3]` of PID is PID-3. */
  readonly fields: readonly string[]
}

/** A message with its segments in their order. */
export interface Message {
  readonly delimiters: Delimiters
  readonly segments: readonly Segment[]
}

const maxSegments = 2_000
const maxFields = 1_000

/**
 * Reads a message.
 *
 * @throws GatewayError BAD_REQUEST: no MSH segment with delimiters, too many segments or fields, a set of characters
 *   that is not known; the message holds nothing of the text
 */
export function parseMessage(bytes: Uint8Array): Message {
  const text = textOf(bytes)
  const delimiters = delimitersOf(text)
  const lines = text.split(/\r\n?|\n/).filter(line => line !== '')
  if (lines.length > maxSegments) throw malformed(`expected at most ${maxSegments} segments`)
  const segments = lines.map(line => segmentOf(line, delimiters))
  return { delimiters, segments }
}

/** Reads just MSH, from bytes that may not be a message otherwise, to answer them; undefined when there is none. */
export function parseHeader(bytes: Uint8Array): Message | undefined {
  const end = bytes.findIndex(byte => byte === 0x0d || byte === 0x0a)
  const line = Buffer.from(end < 0 ? bytes.subarray(0, 4096) : bytes.subarray(0, Math.min(end, 4096))).toString(
    'latin1',
  )
  try {
    const delimiters = delimitersOf(line)
    return { delimiters, segments: [segmentOf(line, delimiters)] }
  } catch {
    return undefined
  }
}

/** The first segment of this name. */
export function findSegment(message: Pick<Message, 'segments'>, name: string): Segment | undefined {
  return message.segments.find(segment => segment.name === name)
}

/** Repetitions of a field; none when it is empty. HL7's `""`, which deletes a value, is empty too. */
export function repetitions(message: Message, segment: Segment | undefined, field: number): string[] {
  const text = segment?.fields[field] ?? ''
  if (text === '' || text === '""') return []
  return text.split(message.delimiters.repetition)
}

/** A component of the first repetition of a field, without escapes; `''` when there is none. Both count from 1. */
export function component(message: Message, segment: Segment | undefined, field: number, place = 1): string {
  return part(message, repetitions(message, segment, field)[0] ?? '', place)
}

/** A component of one repetition, its first subcomponent unless another is named. */
export function part(message: Message, repetition: string, place: number, subcomponent = 1): string {
  const { delimiters } = message
  const text = repetition.split(delimiters.component)[place - 1] ?? ''
  const raw = text.split(delimiters.subcomponent)[subcomponent - 1] ?? ''
  return raw === '""' ? '' : unescaped(raw, delimiters).trim()
}

/** A text with its delimiters escaped, for a message of ours. */
export function escapeText(text: string, delimiters: Delimiters): string {
  const { field, component, repetition, escape: mark, subcomponent } = delimiters
  const codes: ReadonlyMap<string, string> = new Map([
    [field, 'F'],
    [component, 'S'],
    [repetition, 'R'],
    [mark, 'E'],
    [subcomponent, 'T'],
  ])
  return [...text]
    .map(character => {
      const code = codes.get(character)
      if (code !== undefined) return mark === '' ? ' ' : `${mark}${code}${mark}`
      return character < ' ' ? ' ' : character
    })
    .join('')
}

/** HL7 v2.5.1 §2.7: delimiters, hexadecimal data; highlighting and formatting commands become nothing or a space. */
function unescaped(text: string, delimiters: Delimiters): string {
  const { escape: mark } = delimiters
  if (mark === '' || !text.includes(mark)) return text
  const pieces = text.split(mark)
  let out = pieces[0] ?? ''
  for (let at = 1; at < pieces.length; at += 2) {
    const code = pieces[at] ?? ''
    // An escape character without its partner is text.
    if (at === pieces.length - 1) out += mark + code
    else out += meaningOf(code, delimiters) + (pieces[at + 1] ?? '')
  }
  return out
}

function meaningOf(code: string, { field, component, repetition, escape: mark, subcomponent }: Delimiters): string {
  switch (code) {
    case 'F':
      return field
    case 'S':
      return component
    case 'R':
      return repetition
    case 'E':
      return mark
    case 'T':
      return subcomponent
    default:
      break
  }
  if (/^X(?:[0-9A-Fa-f]{2})+$/.test(code)) return hexText(Buffer.from(code.slice(1), 'hex'))
  return code.startsWith('.') ? ' ' : ''
}

/** \Xdd..\ is text of the message's set as bytes; all that senders use it for is line ends and UTF-8. */
function hexText(bytes: Buffer): string {
  return bytes.toString('utf8').replaceAll('\0', '')
}

function textOf(bytes: Uint8Array): string {
  const header = parseHeader(bytes)
  if (!header) throw malformed('expected a message that begins with MSH and its delimiters')
  const declared = repetitions(header, header.segments[0], 18)
  const text = decodeMessage(bytes, declared)
  if (text === undefined) throw malformed('expected a character set of table 0211 in MSH-18')
  return text.replaceAll('\0', '')
}

function delimitersOf(text: string): Delimiters {
  if (!text.startsWith('MSH') || text.length < 8) throw malformed('expected a message that begins with MSH')
  const field = text.charAt(3)
  const [declared = ''] = text.slice(4).split(field, 1)
  const [component = '', repetition = '', mark = '', subcomponent = ''] = [...declared.slice(0, 4)]
  const all = [field, component, repetition, mark, subcomponent].filter(character => character !== '')
  const isUsable = all.every(character => /^[!-/:-@[-`{-~]$/.test(character))
  if (component === '' || repetition === '' || !isUsable || new Set(all).size !== all.length)
    throw malformed('expected delimiters in MSH-1 and MSH-2')
  // A missing one must split nothing: a character that text cannot hold.
  return { field, component, repetition, escape: mark, subcomponent: subcomponent || '\u0000' }
}

function segmentOf(line: string, { field }: Delimiters): Segment {
  const parts = line.split(field, maxFields + 1)
  if (parts.length > maxFields) throw malformed(`expected at most ${maxFields} fields in a segment`)
  const [name = '', ...rest] = parts
  if (!/^[A-Z][A-Z0-9]{2}$/.test(name)) throw malformed('expected segments that begin with their name')
  // The delimiter behind MSH is MSH-1 itself.
  return { name, fields: name === 'MSH' ? ['MSH', field, ...rest] : [name, ...rest] }
}

function malformed(message: string): GatewayError {
  return new GatewayError('BAD_REQUEST', message)
}
