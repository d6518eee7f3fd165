/**
 * Imaging orders as worklist items: ORM^O01 of HL7 v2.3.1 and OMI^O23 of v2.5.1, as IHE's transactions Procedure
 * Scheduled and Procedure Updated (RAD-4, RAD-13) use them. `ORDERS.md` has the mapping as tables.
 */
import type { NewElement } from '../dicom/part10-writer.ts'
import { isUid } from '../dicom/uid.ts'
import { derivedUid, shortId, worklistEntriesFromElements } from '../dicom/worklist-item.ts'
import type { Order, OrderedEntry } from '../services/worklist.ts'
import type { WorklistState } from '../store/worklist.ts'
import { codeItem, dateOf, identifier, OrderProblem, personName, single, text, timeOf } from './elements.ts'
import { component, findSegment, type Message, part, repetitions, type Segment } from './message.ts'
import { patientElements } from './patient.ts'

/** What orders do not say. */
export interface OrderDefaults {
  /** Stations by modality, for orders that name none. */
  readonly stations: Readonly<Record<string, readonly string[]>>
  /** For orders without a time. */
  readonly now: Date
}

/** One order of a message with what belongs to it. */
interface OrderGroup {
  readonly orc: Segment | undefined
  obr: Segment | undefined
  tq1: Segment | undefined
  readonly ipcs: Segment[]
  zds: Segment | undefined
}

/** ORC-1 (table 0119): wanted, or no longer. `SC` says more in ORC-5. */
const schedules: ReadonlySet<string> = new Set(['NW', 'XO', 'XX', 'RP', 'SN', 'RF', 'PA', 'CH'])
const ends: ReadonlyMap<string, WorklistState> = new Map([
  ['CA', 'cancelled'],
  ['OC', 'cancelled'],
  ['DC', 'discontinued'],
  ['OD', 'discontinued'],
])
/** ORC-5 (table 0038). */
const statuses: ReadonlyMap<string, WorklistState> = new Map([
  ['SC', 'scheduled'],
  ['IP', 'started'],
  ['CM', 'completed'],
  ['DC', 'discontinued'],
  ['CA', 'cancelled'],
])
/** Requested Procedure Priority (0040,1003) of table 0485. */
const priorities: ReadonlyMap<string, string> = new Map([
  ['S', 'STAT'],
  ['A', 'HIGH'],
  ['P', 'HIGH'],
  ['C', 'HIGH'],
  ['T', 'MEDIUM'],
  ['R', 'ROUTINE'],
])
const mostOrders = 200

/**
 * What the orders of a message want.
 *
 * @throws OrderProblem with what the sender is to be told; GatewayError BAD_REQUEST, TOO_LARGE from building the item
 */
export async function ordersOf(message: Message, defaults: OrderDefaults): Promise<Order[]> {
  const type = typeOf(message)
  const groups = groupsOf(message)
  if (groups.length === 0) throw new OrderProblem('100', 'expected ORC or OBR segments')
  if (groups.length > mostOrders) throw new OrderProblem('207', `expected at most ${mostOrders} orders in a message`)
  const orders: Order[] = []
  for (const group of groups) orders.push(await orderOf(message, group, type, defaults))
  return orders
}

type MessageType = 'ORM' | 'OMI'

function typeOf(message: Message): MessageType {
  const msh = findSegment(message, 'MSH')
  const [type, event] = [component(message, msh, 9), component(message, msh, 9, 2)]
  if (type !== 'ORM' && type !== 'OMI') throw new OrderProblem('200', 'expected ORM^O01 or OMI^O23', 'AR')
  // Old senders leave the event out of ORM, which has just one.
  if (event !== (type === 'ORM' ? 'O01' : 'O23') && !(type === 'ORM' && event === ''))
    throw new OrderProblem('201', 'expected ORM^O01 or OMI^O23', 'AR')
  return type
}

function groupsOf(message: Message): OrderGroup[] {
  const groups: OrderGroup[] = []
  for (const segment of message.segments) {
    const group = groups.at(-1)
    if (segment.name === 'ORC') groups.push({ orc: segment, obr: undefined, tq1: undefined, ipcs: [], zds: undefined })
    else if (segment.name === 'OBR') {
      if (group && !group.obr) group.obr = segment
      else groups.push({ orc: group?.orc, obr: segment, tq1: group?.tq1, ipcs: [], zds: undefined })
    } else if (group && segment.name === 'TQ1') group.tq1 ??= segment
    else if (group && segment.name === 'IPC') group.ipcs.push(segment)
    else if (group && segment.name === 'ZDS') group.zds ??= segment
  }
  return groups
}

async function orderOf(
  message: Message,
  group: OrderGroup,
  type: MessageType,
  defaults: OrderDefaults,
): Promise<Order> {
  const { orc, ipcs } = group
  const orderKey = orderKeyOf(message, group)
  const control = component(message, orc, 1).toUpperCase() || 'NW'
  const state = control === 'SC' ? statuses.get(component(message, orc, 5).toUpperCase()) : ends.get(control)
  if (state) {
    const named =
      type === 'OMI' && ipcs.length === 1 ? component(message, ipcs[0], 4) : component(message, group.obr, 20)
    return { kind: 'state', orderKey, state, ...(named !== '' && { externalKey: stepKey(orderKey, named) }) }
  }
  if (!schedules.has(control))
    throw new OrderProblem('103', 'ORC-1: expected NW, XO, XX, RP, SN, CA, OC, DC, OD, or SC with a status in ORC-5')
  const steps: readonly (Segment | undefined)[] = type === 'OMI' && ipcs.length > 0 ? ipcs : [undefined]
  const entries: OrderedEntry[] = []
  for (const ipc of steps) entries.push(await entryOf(message, group, ipc, { orderKey, defaults }))
  return { kind: 'schedule', orderKey, entries }
}

/** The filler's number, which its messages always have; else the placer's. */
function orderKeyOf(message: Message, { orc, obr }: OrderGroup): string {
  const named = (field: number, obrField: number): string => {
    const segment = component(message, orc, field) === '' ? obr : orc
    const place = segment === orc ? field : obrField
    const [number, namespace] = [component(message, segment, place), component(message, segment, place, 2)]
    return number === '' ? '' : identifier(`${number}@${namespace}`, 400, `ORC-${field}`)
  }
  const filler = named(3, 3)
  if (filler !== '') return `filler ${filler}`
  const placer = named(2, 2)
  if (placer === '') throw new OrderProblem('101', 'ORC-3 or ORC-2: expected an order number')
  return `placer ${placer}`
}

const stepKey = (orderKey: string, stepId: string): string => `${orderKey}^${stepId}`

async function entryOf(
  message: Message,
  group: OrderGroup,
  ipc: Segment | undefined,
  context: { readonly orderKey: string; readonly defaults: OrderDefaults },
): Promise<OrderedEntry> {
  const { orc, obr } = group
  const { orderKey } = context
  const numbers = {
    placer: identifier(component(message, orc, 2) || component(message, obr, 2), 64, 'ORC-2'),
    filler: identifier(component(message, orc, 3) || component(message, obr, 3), 64, 'ORC-3'),
  }
  const short = [numbers.filler, numbers.placer].find(number => number !== '' && number.length <= 16)
  const accession = identifier(component(message, ipc, 1) || component(message, obr, 18), 16, 'OBR-18') || (short ?? '')
  const procedureId =
    identifier(component(message, ipc, 2) || component(message, obr, 19), 16, 'OBR-19') ||
    (short ?? shortId(`procedure|${orderKey}`))
  const stepId =
    identifier(component(message, ipc, 4) || component(message, obr, 20), 16, 'OBR-20') ||
    shortId(`step|${orderKey}|${procedureId}`)
  const [entry] = await worklistEntriesFromElements(
    [
      ...patientElements(message),
      { tag: 0x00080050, value: accession },
      { tag: 0x0020000d, value: studyUid(message, group, ipc, `order|${orderKey}|${procedureId}`) },
      { tag: 0x00401001, value: procedureId },
      ...single(0x00402016, numbers.placer),
      ...single(0x00402017, numbers.filler),
      ...procedureElements(message, group),
      { tag: 0x00400100, items: [stepElements(message, group, ipc, stepId, context.defaults)] },
    ],
    orderKey,
  )
  if (!entry) throw new OrderProblem('207', 'the order has no scheduled step')
  return { externalKey: stepKey(orderKey, stepId), entry }
}

function studyUid(message: Message, group: OrderGroup, ipc: Segment | undefined, seed: string): string {
  const zds = group.zds ?? findSegment(message, 'ZDS')
  const named = component(message, ipc, 3) || component(message, zds, 1)
  if (named !== '' && !isUid(named)) throw new OrderProblem('102', 'ZDS-1 or IPC-3: expected a UID')
  return named || derivedUid(seed)
}

function procedureElements(message: Message, { obr, tq1 }: OrderGroup): NewElement[] {
  const [service = ''] = repetitions(message, obr, 4)
  const [procedure = ''] = repetitions(message, obr, 44)
  const code = codeItem(message, procedure, 1) ?? codeItem(message, service, 1)
  const description = part(message, procedure, 2) || part(message, service, 2) || part(message, service, 1)
  const priority = component(message, tq1, 9) || component(message, obr, 27, 6) || component(message, obr, 5)
  return [
    ...single(0x00321032, personName(message, repetitions(message, obr, 16)[0] ?? '', 'XCN')),
    ...single(0x00321060, text(description, 64)),
    ...(code ? [{ tag: 0x00321064, items: [code] }] : []),
    ...single(0x00401002, text(component(message, obr, 31, 2) || component(message, obr, 31), 64)),
    ...single(0x00401003, priorities.get(priority.slice(0, 1).toUpperCase()) ?? ''),
    ...single(0x00401004, text(component(message, obr, 30), 64)),
    ...single(0x00380500, text(component(message, obr, 12, 2) || component(message, obr, 12), 64)),
    ...single(0x00102000, text(component(message, obr, 13), 64)),
  ]
}

function stepElements(
  message: Message,
  { orc, obr, tq1 }: OrderGroup,
  ipc: Segment | undefined,
  stepId: string,
  defaults: OrderDefaults,
): NewElement[] {
  const modality = (component(message, ipc, 5) || component(message, obr, 24)).toUpperCase()
  if (!/^[A-Z0-9_ ]{1,16}$/.test(modality))
    throw new OrderProblem('101', 'OBR-24 or IPC-5: expected a modality such as CT')
  const start =
    [
      component(message, tq1, 7),
      component(message, obr, 36),
      component(message, obr, 27, 4),
      component(message, orc, 7, 4),
    ].find(stamp => dateOf(stamp) !== '') ?? localStamp(defaults.now)
  const [service = ''] = repetitions(message, obr, 4)
  const [protocol = ''] = repetitions(message, ipc, 6)
  const code = codeItem(message, protocol, 1) ?? codeItem(message, service, 4) ?? codeItem(message, service, 1)
  const description = part(message, protocol, 2) || part(message, service, 5) || part(message, service, 2)
  return [
    { tag: 0x00080060, value: modality },
    {
      tag: 0x00400001,
      value: stationsOf([component(message, ipc, 9), component(message, orc, 18)], modality, defaults),
    },
    { tag: 0x00400002, value: dateOf(start) },
    { tag: 0x00400003, value: timeOf(start) },
    ...single(0x00400006, technician(message, obr)),
    ...single(0x00400007, text(description, 64)),
    ...(code ? [{ tag: 0x00400008, items: [code] }] : []),
    { tag: 0x00400009, value: stepId },
    ...single(0x00400010, text(component(message, ipc, 7), 16)),
    ...single(0x00400011, text(component(message, ipc, 8), 16)),
  ]
}

function stationsOf(named: readonly string[], modality: string, { stations }: OrderDefaults): string[] {
  const title = named.find(name => /^(?=.*[^ ])[ -[\]-~]{1,16}$/.test(name))
  if (title !== undefined) return [title]
  return Object.hasOwn(stations, modality) ? [...(stations[modality] ?? [])] : []
}

/** OBR-34 is NDL: a name in the subcomponents of its first component, behind an identifier. */
function technician(message: Message, obr: Segment | undefined): string {
  const [first = ''] = repetitions(message, obr, 34)
  const [family, given] = [2, 3].map(place => text(part(message, first, 1, place).replace(/[\^=]/g, ' '), 31))
  return [family, given].join('^').replace(/\^+$/, '')
}

/** The machine's clock as HL7 writes it: schedules are in the hospital's time. */
function localStamp(now: Date): string {
  const two = (number: number): string => String(number).padStart(2, '0')
  const date = `${now.getFullYear()}${two(now.getMonth() + 1)}${two(now.getDate())}`
  return `${date}${two(now.getHours())}${two(now.getMinutes())}${two(now.getSeconds())}`
}
