/** PID, PV1 and AL1 of an order as the patient and visit of a worklist item. */
import type { NewElement } from '../dicom/part10-writer.ts'
import { bounded, dateOf, identifier, personName, single, text } from './elements.ts'
import { component, findSegment, type Message, part, repetitions, type Segment } from './message.ts'

/** Repetitions of PID-3 by identifier type (table 0203) that name the patient for this site, the best first. */
const preferredTypes = ['MR', 'PI', 'PT']
const mostOtherIds = 10
const sexes: ReadonlyMap<string, string> = new Map([
  ['M', 'M'],
  ['F', 'F'],
  ['O', 'O'],
  ['A', 'O'],
  ['N', 'O'],
])

/** @throws OrderProblem when PID or what names the patient is missing or does not fit */
export function patientElements(message: Message): NewElement[] {
  const pid = findSegment(message, 'PID')
  const pv1 = findSegment(message, 'PV1')
  const [own, ...others] = patientIds(message, pid)
  const allergies = message.segments
    .filter(({ name }) => name === 'AL1')
    .map(al1 => bounded(component(message, al1, 3, 2) || component(message, al1, 3), 64))
    .filter(allergy => allergy !== '')
  return [
    { tag: 0x00100010, value: patientName(message, pid) },
    ...idElements(own),
    ...single(0x00100030, dateOf(component(message, pid, 7))),
    ...single(0x00100040, sexes.get(component(message, pid, 8).toUpperCase()) ?? ''),
    ...(others.length === 0 ? [] : [{ tag: 0x00101002, items: others.slice(0, mostOtherIds).map(otherId) }]),
    ...(allergies.length === 0 ? [] : [{ tag: 0x00102110, value: allergies.slice(0, 20) }]),
    ...(repetitions(message, pv1, 15).some(status => part(message, status, 1) === 'B6')
      ? [{ tag: 0x001021c0, value: 3 }]
      : []),
    ...single(0x00080090, personName(message, repetitions(message, pv1, 8)[0] ?? '', 'XCN')),
    ...single(0x00380010, identifier(component(message, pv1, 19) || component(message, pid, 18), 64, 'PV1-19')),
    ...single(0x00380300, locationOf(message, pv1)),
  ]
}

interface PatientId {
  readonly id: string
  readonly issuer: string
  readonly type: string
}

function patientIds(message: Message, pid: Segment | undefined): PatientId[] {
  const all = repetitions(message, pid, 3)
    .map(repetition => ({
      id: identifier(part(message, repetition, 1), 64, 'PID-3'),
      // The namespace of the assigning authority; its universal id where it has no name.
      issuer: bounded(part(message, repetition, 4) || part(message, repetition, 4, 2), 64),
      type: part(message, repetition, 5),
    }))
    .filter(({ id }) => id !== '')
  const rank = ({ type }: PatientId): number => {
    const place = preferredTypes.indexOf(type)
    return place < 0 ? preferredTypes.length : place
  }
  return all.toSorted((a, b) => rank(a) - rank(b))
}

function idElements(own: PatientId | undefined): NewElement[] {
  if (!own) return [{ tag: 0x00100020, value: '' }]
  return [{ tag: 0x00100020, value: own.id }, ...single(0x00100021, own.issuer)]
}

const otherId = ({ id, issuer }: PatientId): NewElement[] => [
  { tag: 0x00100020, value: id },
  ...single(0x00100021, issuer),
  { tag: 0x00100022, value: 'TEXT' },
]

/** Component groups by the name representation code (XPN-8, table 0465): alphabetic, ideographic, phonetic. */
function patientName(message: Message, pid: Segment | undefined): string {
  const names = repetitions(message, pid, 5)
  const ofKind = (kinds: readonly string[]): string[] =>
    names.filter(name => kinds.includes(part(message, name, 8).toUpperCase()))
  const alphabetic = ofKind(['', 'A'])
  const legal = alphabetic.find(name => part(message, name, 7).toUpperCase() === 'L') ?? alphabetic[0] ?? ''
  const groups = [legal, ofKind(['I'])[0] ?? '', ofKind(['P'])[0] ?? '']
  return groups
    .map(name => personName(message, name, 'XPN'))
    .join('=')
    .replace(/=+$/, '')
}

/** Point of care, room and bed. */
function locationOf(message: Message, pv1: Segment | undefined): string {
  const words = [1, 2, 3].map(place => component(message, pv1, 3, place)).filter(word => word !== '')
  return text(words.join(' '), 64)
}
