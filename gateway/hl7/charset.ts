/** Character sets of HL7 v2 messages: MSH-18, HL7 v2.5.1 table 0211. */
import { charsetOf } from '../dicom/charset.ts'

/** HL7's name for a set to DICOM's defined terms, which name the same ISO registrations (PS3.3 §C.12.1.1.2). */
const terms: ReadonlyMap<string, readonly string[]> = new Map([
  ['ASCII', []],
  ['8859/1', ['ISO_IR 100']],
  ['8859/2', ['ISO_IR 101']],
  ['8859/3', ['ISO_IR 109']],
  ['8859/4', ['ISO_IR 110']],
  ['8859/5', ['ISO_IR 144']],
  ['8859/6', ['ISO_IR 127']],
  ['8859/7', ['ISO_IR 126']],
  ['8859/8', ['ISO_IR 138']],
  ['8859/9', ['ISO_IR 148']],
  ['8859/15', ['ISO_IR 203']],
  ['ISO IR6', []],
  ['ISO IR14', ['ISO_IR 13']],
  ['ISO IR87', ['', 'ISO 2022 IR 87']],
  ['ISO IR159', ['', 'ISO 2022 IR 159']],
  ['GB 18030-2000', ['GB18030']],
  ['KS X 1001', ['', 'ISO 2022 IR 149']],
  ['UNICODE', ['ISO_IR 192']],
  ['UNICODE UTF-8', ['ISO_IR 192']],
])

/**
 * The text of a message.
 *
 * @param declared  values of MSH-18; the first is the message's set, further ones are reached by escape sequences
 * @returns undefined when the first set is not known
 */
export function decodeMessage(bytes: Uint8Array, declared: readonly string[]): string | undefined {
  const names = declared.map(name => name.trim().toUpperCase())
  const [first = ''] = names
  // Senders that declare nothing send UTF-8 or Latin-1; text that is UTF-8 by chance is none in practice.
  if (names.every(name => name === '')) return utf8(bytes) ?? charsetOf(['ISO_IR 100']).decode(bytes)
  if (first !== '' && !terms.has(first)) return undefined
  const found = names.map(name => terms.get(name) ?? [])
  const base = found[0]?.[0] ?? ''
  const further = found.flat().filter(term => term.startsWith('ISO 2022'))
  return charsetOf(further.length > 0 ? [base, ...further] : base === '' ? [] : [base]).decode(bytes)
}

function utf8(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    return undefined
  }
}
