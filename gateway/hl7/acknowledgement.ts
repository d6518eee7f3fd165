/** Acknowledgements in original mode, HL7 v2.5.1 §2.9.2 and §2.13.1: MSH, MSA, and ERR for what was refused. */
import { component, escapeText, type Message } from './message.ts'

/** MSA-1: accepted; refused for what the message says; refused for what it is, or because we cannot now. */
export type AcknowledgementCode = 'AA' | 'AE' | 'AR'

/** Why a message was not accepted. */
export interface Refusal {
  /** ERR-3, table 0357. */
  readonly condition: keyof typeof conditions
  /** ERR-8, for people; without patient data. */
  readonly text: string
}

/** Table 0357, message error condition codes. */
const conditions = {
  '100': 'Segment sequence error',
  '101': 'Required field missing',
  '102': 'Data type error',
  '103': 'Table value not found',
  '200': 'Unsupported message type',
  '201': 'Unsupported event code',
  '204': 'Unknown key identifier',
  '207': 'Application internal error',
} as const

/**
 * The answer to a message, in its delimiters and for its sender.
 *
 * @param header  as `parseHeader` read it: the sender's own fields go back byte for byte, and the rest is ASCII
 */
export function acknowledge(
  header: Message,
  answer: { readonly code: AcknowledgementCode; readonly refusal?: Refusal | undefined },
  stamp: { readonly id: string; readonly at: Date },
): Buffer {
  const { delimiters } = header
  const { field, component: separator } = delimiters
  const [msh] = header.segments
  const raw = (place: number): string => (msh?.fields[place] ?? '').slice(0, 227)
  const event = component(header, msh, 9, 2)
  const version = component(header, msh, 12) || '2.5.1'
  const type = ['ACK', ...(event === '' ? [] : [event, 'ACK'])].map(text => escapeText(text.slice(0, 20), delimiters))
  const segments = [
    [
      'MSH',
      raw(2),
      raw(5),
      raw(6),
      raw(3),
      raw(4),
      timestamp(stamp.at),
      '',
      type.join(separator),
      stamp.id,
      escapeText(component(header, msh, 11) || 'P', delimiters).slice(0, 20),
      escapeText(version, delimiters).slice(0, 20),
      '',
      '',
      '',
      '',
      '',
      raw(18),
    ],
    ['MSA', answer.code, raw(10)],
    ...(answer.refusal ? [errorSegment(answer.refusal, header)] : []),
  ]
  return Buffer.from(segments.map(fields => `${fields.join(field)}\r`).join(''), 'latin1')
}

function errorSegment({ condition, text }: Refusal, { delimiters }: Message): string[] {
  const coded = [condition, conditions[condition], 'HL70357'].join(delimiters.component)
  return ['ERR', '', '', coded, 'E', '', '', '', escapeText(text.slice(0, 250), delimiters)]
}

/** DTM in UTC with its offset. */
function timestamp(at: Date): string {
  return `${at.toISOString().replace(/[-:T]/g, '').slice(0, 14)}+0000`
}
