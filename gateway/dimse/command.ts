/**
 * Command sets, PS3.7 §6.3 and Annex E: group 0000 in Implicit VR Little Endian, read and written
 * without a dictionary. Reading one costs microseconds; dcmjs-dimse takes about 3 ms for each.
 */

import { GatewayError } from '../errors.ts'
import type { MoveOriginator } from '../services/dicom-node.ts'

/** Command fields, PS3.7 Table E.1-1; a response has bit 15 set. */
export const commandField = {
  storeRequest: 0x0001,
  storeResponse: 0x8001,
  getRequest: 0x0010,
  findRequest: 0x0020,
  moveRequest: 0x0021,
  echoRequest: 0x0030,
  echoResponse: 0x8030,
  eventReportRequest: 0x0100,
  getAttributesRequest: 0x0110,
  setRequest: 0x0120,
  actionRequest: 0x0130,
  createRequest: 0x0140,
  deleteRequest: 0x0150,
  cancelRequest: 0x0fff,
} as const

/** Value of Command Data Set Type (0000,0800) that says that no data set follows. */
export const noDataSet = 0x0101

/** The elements of a command set; those that were absent are undefined. */
export interface Command {
  readonly commandField: number
  readonly messageId: number | undefined
  readonly respondedMessageId: number | undefined
  readonly hasDataSet: boolean
  readonly status: number | undefined
  readonly errorComment: string | undefined
  /** Affected, else Requested SOP Class UID: no command has both (PS3.7 Table E.1-1). */
  readonly sopClassUid: string | undefined
  /** Affected, else Requested SOP Instance UID. */
  readonly sopInstanceUid: string | undefined
  readonly priority: number | undefined
  readonly moveDestination: string | undefined
  readonly originator: MoveOriginator | undefined
  readonly eventTypeId: number | undefined
  readonly actionTypeId: number | undefined
  readonly errorId: number | undefined
  readonly counts: SubOperationCounts
}

/** Sub-operations of a retrieval, PS3.7 §9.3.3.2 and §9.3.4.2; absent ones are undefined. */
export interface SubOperationCounts {
  readonly remaining: number | undefined
  readonly completed: number | undefined
  readonly failed: number | undefined
  readonly warning: number | undefined
}

/** The longest command set that is gathered; real ones have some hundred bytes. */
export const maxCommandBytes = 65_536

/**
 * Decodes a command set.
 *
 * @throws GatewayError BAD_REQUEST: not a list of group 0000 elements, an element twice, a number
 *   that is not two bytes, or no Command Field or Command Data Set Type (PS3.7 §9.3, §10.3)
 */
export function decodeCommand(bytes: Buffer): Command {
  const elements = readElements(bytes)
  const field = uint16(elements, 0x0100)
  const dataSetType = uint16(elements, 0x0800)
  if (field === undefined) throw malformed('command set has no command field')
  if (dataSetType === undefined) throw malformed('command set has no command data set type')
  return {
    commandField: field,
    messageId: uint16(elements, 0x0110),
    respondedMessageId: uint16(elements, 0x0120),
    hasDataSet: dataSetType !== noDataSet,
    status: uint16(elements, 0x0900),
    errorComment: text(elements, 0x0902),
    sopClassUid: text(elements, 0x0002) ?? text(elements, 0x0003),
    sopInstanceUid: text(elements, 0x1000) ?? text(elements, 0x1001),
    priority: uint16(elements, 0x0700),
    moveDestination: text(elements, 0x0600)?.trim(),
    originator: originatorOf(elements),
    eventTypeId: uint16(elements, 0x1002),
    actionTypeId: uint16(elements, 0x1008),
    errorId: uint16(elements, 0x0903),
    counts: {
      remaining: uint16(elements, 0x1020),
      completed: uint16(elements, 0x1021),
      failed: uint16(elements, 0x1022),
      warning: uint16(elements, 0x1023),
    },
  }
}

/** What a response says about its request. `comment` becomes Error Comment (0000,0902), at most 64 characters. */
export interface ResponseFields {
  readonly commandField: number
  readonly messageId: number
  readonly sopClassUid?: string | undefined
  readonly sopInstanceUid?: string | undefined
  readonly status: number
  readonly comment?: string | undefined
  /** A data set follows. */
  readonly hasDataSet?: boolean | undefined
  readonly errorId?: number | undefined
  readonly eventTypeId?: number | undefined
  readonly actionTypeId?: number | undefined
  readonly counts?: Partial<SubOperationCounts> | undefined
}

/** Encodes a response, PS3.7 §9.3 (DIMSE-C) and §10.3 (DIMSE-N); elements ascend. */
export function encodeResponse(fields: ResponseFields): Buffer {
  const { counts = {} } = fields
  return encodeElements([
    fields.sopClassUid === undefined ? undefined : ui(0x0002, fields.sopClassUid),
    us(0x0100, fields.commandField),
    us(0x0120, fields.messageId),
    us(0x0800, fields.hasDataSet ? 0x0000 : noDataSet),
    us(0x0900, fields.status),
    fields.comment === undefined ? undefined : lo(0x0902, fields.comment),
    fields.errorId === undefined ? undefined : us(0x0903, fields.errorId),
    fields.sopInstanceUid === undefined ? undefined : ui(0x1000, fields.sopInstanceUid),
    fields.eventTypeId === undefined ? undefined : us(0x1002, fields.eventTypeId),
    fields.actionTypeId === undefined ? undefined : us(0x1008, fields.actionTypeId),
    counts.remaining === undefined ? undefined : us(0x1020, counts.remaining),
    counts.completed === undefined ? undefined : us(0x1021, counts.completed),
    counts.failed === undefined ? undefined : us(0x1022, counts.failed),
    counts.warning === undefined ? undefined : us(0x1023, counts.warning),
  ])
}

/** Encodes a C-ECHO-RQ, PS3.7 §9.3.5.1. */
export function encodeEchoRequest(messageId: number, sopClassUid: string): Buffer {
  return encodeElements([
    ui(0x0002, sopClassUid),
    us(0x0100, commandField.echoRequest),
    us(0x0110, messageId),
    us(0x0800, noDataSet),
  ])
}

/** What a C-STORE-RQ says. */
export interface StoreFields {
  readonly sopClassUid: string
  readonly sopInstanceUid: string
  /** 0 medium, 1 high, 2 low; medium unless given. */
  readonly priority?: number | undefined
  readonly originator?: MoveOriginator | undefined
}

/** Encodes a C-STORE-RQ, PS3.7 §9.3.1.1. */
export function encodeStoreRequest(messageId: number, fields: StoreFields): Buffer {
  const { sopClassUid, sopInstanceUid, priority = 0, originator } = fields
  return encodeElements([
    ui(0x0002, sopClassUid),
    us(0x0100, commandField.storeRequest),
    us(0x0110, messageId),
    us(0x0700, priority),
    us(0x0800, 0x0000),
    ui(0x1000, sopInstanceUid),
    originator && { element: 0x1030, value: padded(originator.aeTitle, ' ') },
    originator && us(0x1031, originator.messageId),
  ])
}

type Elements = ReadonlyMap<number, Buffer>

function readElements(bytes: Buffer): Elements {
  const elements = new Map<number, Buffer>()
  let offset = 0
  while (offset < bytes.length) {
    if (bytes.length - offset < 8) throw malformed('command set ends inside an element header')
    if (bytes.readUInt16LE(offset) !== 0) throw malformed('command set has an element outside of group 0000')
    const element = bytes.readUInt16LE(offset + 2)
    const end = offset + 8 + bytes.readUInt32LE(offset + 4)
    if (end > bytes.length) throw malformed('command element is longer than its command set')
    if (elements.has(element)) throw malformed('command set has an element twice')
    elements.set(element, bytes.subarray(offset + 8, end))
    offset = end
  }
  return elements
}

function originatorOf(elements: Elements): MoveOriginator | undefined {
  const aeTitle = text(elements, 0x1030)?.trim()
  return aeTitle === undefined ? undefined : { aeTitle, messageId: uint16(elements, 0x1031) ?? 0 }
}

function uint16(elements: Elements, element: number): number | undefined {
  const value = elements.get(element)
  if (value === undefined || value.length === 0) return undefined
  if (value.length !== 2) throw malformed('command set has a number that is not two bytes')
  return value.readUInt16LE(0)
}

function text(elements: Elements, element: number): string | undefined {
  const value = elements.get(element)
  if (value === undefined || value.length === 0) return undefined
  return value.toString('latin1').replace(/[\0 ]+$/, '')
}

interface Element {
  readonly element: number
  readonly value: Buffer
}

function encodeElements(elements: readonly (Element | undefined)[]): Buffer {
  let length = 0
  for (const each of elements) if (each) length += 8 + each.value.length
  const out = Buffer.alloc(12 + length)
  out.writeUInt32LE(4, 4)
  out.writeUInt32LE(length, 8)
  let offset = 12
  for (const each of elements) {
    if (!each) continue
    out.writeUInt16LE(each.element, offset + 2)
    out.writeUInt32LE(each.value.length, offset + 4)
    each.value.copy(out, offset + 8)
    offset += 8 + each.value.length
  }
  return out
}

function us(element: number, value: number): Element {
  const bytes = Buffer.allocUnsafe(2)
  bytes.writeUInt16LE(value)
  return { element, value: bytes }
}

function ui(element: number, value: string): Element {
  return { element, value: padded(value, '\0') }
}

function lo(element: number, value: string): Element {
  return { element, value: padded(value.replace(/[^\x20-\x7e]|\\/g, '?').slice(0, 64), ' ') }
}

function padded(value: string, pad: string): Buffer {
  return Buffer.from(value.length % 2 === 0 ? value : value + pad, 'latin1')
}

function malformed(message: string): GatewayError {
  return new GatewayError('BAD_REQUEST', message)
}

/** Encodes a C-CANCEL-RQ, PS3.7 §9.3.2.3. */
export function encodeCancelRequest(messageId: number): Buffer {
  return encodeElements([us(0x0100, commandField.cancelRequest), us(0x0120, messageId), us(0x0800, noDataSet)])
}

/** Encodes a C-FIND-RQ or C-GET-RQ, PS3.7 §9.3.2.1, §9.3.3.1. */
export function encodeQueryRequest(field: number, messageId: number, sopClassUid: string, priority = 0): Buffer {
  return encodeElements([
    ui(0x0002, sopClassUid),
    us(0x0100, field),
    us(0x0110, messageId),
    us(0x0700, priority),
    us(0x0800, 0x0000),
  ])
}

/** Encodes a C-MOVE-RQ, PS3.7 §9.3.4.1. */
export function encodeMoveRequest(messageId: number, sopClassUid: string, destination: string, priority = 0): Buffer {
  return encodeElements([
    ui(0x0002, sopClassUid),
    us(0x0100, commandField.moveRequest),
    us(0x0110, messageId),
    { element: 0x0600, value: padded(destination, ' ') },
    us(0x0700, priority),
    us(0x0800, 0x0000),
  ])
}

/** Encodes an N-ACTION-RQ with action information, PS3.7 §10.1.4.1. */
export function encodeActionRequest(
  messageId: number,
  fields: { readonly sopClassUid: string; readonly sopInstanceUid: string; readonly actionTypeId: number },
): Buffer {
  return encodeElements([
    ui(0x0003, fields.sopClassUid),
    us(0x0100, commandField.actionRequest),
    us(0x0110, messageId),
    us(0x0800, 0x0000),
    ui(0x1001, fields.sopInstanceUid),
    us(0x1008, fields.actionTypeId),
  ])
}

/** Encodes an N-EVENT-REPORT-RQ with event information, PS3.7 §10.1.1.1. */
export function encodeEventReportRequest(
  messageId: number,
  fields: { readonly sopClassUid: string; readonly sopInstanceUid: string; readonly eventTypeId: number },
): Buffer {
  return encodeElements([
    ui(0x0002, fields.sopClassUid),
    us(0x0100, commandField.eventReportRequest),
    us(0x0110, messageId),
    us(0x0800, 0x0000),
    ui(0x1000, fields.sopInstanceUid),
    us(0x1002, fields.eventTypeId),
  ])
}
