/**
 * Protocol data units of the DICOM upper layer, PS3.8 §9.3: types, the bounded decoders of
 * A-ASSOCIATE-RQ and -AC, and the few PDUs that we write ourselves.
 *
 * The association PDUs are decoded here and not by dcmjs-dimse because its reader does not skip
 * unknown items (PS3.8 §9.3.1: they shall be ignored), renumbers contexts whose ids are not
 * ascending and builds an entry for each of thousands of offers.
 */
import { GatewayError } from '../errors.ts'

/** PDU types, PS3.8 Tables 9-11 to 9-26. */
export const pduType = {
  associateRequest: 0x01,
  associateAccept: 0x02,
  associateReject: 0x03,
  data: 0x04,
  releaseRequest: 0x05,
  releaseResponse: 0x06,
  abort: 0x07,
} as const

/** Who aborts, PS3.8 Table 9-26. */
export const abortSource = { user: 0, provider: 2 } as const

/** Why the service provider aborts, PS3.8 Table 9-26. */
export const abortReason = {
  notSpecified: 0,
  unrecognizedPdu: 1,
  unexpectedPdu: 2,
  unrecognizedParameter: 4,
  unexpectedParameter: 5,
  invalidParameter: 6,
} as const

export type AbortReason = (typeof abortReason)[keyof typeof abortReason]

/** A breach of the protocol that ends the association by A-ABORT. `message` is for the log. */
export interface Violation {
  readonly reason: AbortReason
  readonly message: string
}

/** Application context of DICOM, PS3.8 Annex A.2.1. */
export const dicomApplicationContext = '1.2.840.10008.3.1.1.1'

/** One presentation context as proposed. `id` is any byte: an even one is a proposer's error. */
export interface ContextOffer {
  readonly id: number
  readonly abstractSyntaxUid: string
  readonly transferSyntaxUids: readonly string[]
}

/** SCP/SCU role selection of a SOP class, PS3.7 §D.3.3.4. */
export interface RoleSelection {
  readonly sopClassUid: string
  readonly scu: boolean
  readonly scp: boolean
}

/** What an A-ASSOCIATE-RQ says. `maxPduLength` 0 means unlimited (PS3.8 §D.1). */
export interface AssociateRequest {
  readonly protocolVersion: number
  readonly calledAe: string
  readonly callingAe: string
  readonly applicationContext: string
  readonly contexts: readonly ContextOffer[]
  readonly roles: readonly RoleSelection[]
  readonly maxPduLength: number
  readonly implementationClassUid: string
  readonly implementationVersion: string
}

/** One answered context; `result` 0 is acceptance (PS3.8 Table 9-18). */
export interface ContextAnswer {
  readonly id: number
  readonly result: number
  readonly transferSyntaxUid: string
}

/** What an A-ASSOCIATE-AC says, as far as a storage SCU needs it. */
export interface AssociateAccept {
  readonly contexts: readonly ContextAnswer[]
  readonly maxPduLength: number
}

const fixedFieldsBytes = 68
const aeTitleBytes = 16
const maxRoles = 1024

/**
 * Decodes the body (without the six header bytes) of an A-ASSOCIATE-RQ, PS3.8 §9.3.2.
 *
 * Of several contexts with one id the first counts: the standard forbids the rest, and an answer
 * could not tell them apart. So at most 256 contexts come out, however many are offered.
 *
 * @throws GatewayError BAD_REQUEST when a length contradicts the one around it
 */
export function decodeAssociateRequest(body: Buffer): AssociateRequest {
  if (body.length < fixedFieldsBytes) throw malformed('association request is shorter than its fixed fields')
  const contexts = new Map<number, ContextOffer>()
  const roles: RoleSelection[] = []
  let applicationContext = ''
  let maxPduLength = 0
  let implementationClassUid = ''
  let implementationVersion = ''
  for (const item of items(body.subarray(fixedFieldsBytes))) {
    if (item.type === 0x10) applicationContext = uid(item.value)
    else if (item.type === 0x20) {
      const offer = decodeOffer(item.value)
      if (!contexts.has(offer.id)) contexts.set(offer.id, offer)
    } else if (item.type === 0x50) {
      for (const user of items(item.value)) {
        if (user.type === 0x51) maxPduLength = uint32(user.value)
        else if (user.type === 0x52) implementationClassUid = uid(user.value)
        else if (user.type === 0x54 && roles.length < maxRoles) roles.push(decodeRole(user.value))
        else if (user.type === 0x55) implementationVersion = printable(user.value.subarray(0, 16))
      }
    }
  }
  return {
    protocolVersion: body.readUInt16BE(0),
    calledAe: printable(body.subarray(4, 4 + aeTitleBytes)),
    callingAe: printable(body.subarray(20, 20 + aeTitleBytes)),
    applicationContext,
    contexts: [...contexts.values()],
    roles,
    maxPduLength,
    implementationClassUid,
    implementationVersion,
  }
}

/**
 * Decodes the body of an A-ASSOCIATE-AC, PS3.8 §9.3.3.
 *
 * @throws GatewayError BAD_REQUEST when a length contradicts the one around it
 */
export function decodeAssociateAccept(body: Buffer): AssociateAccept {
  if (body.length < fixedFieldsBytes) throw malformed('association acceptance is shorter than its fixed fields')
  const contexts: ContextAnswer[] = []
  let maxPduLength = 0
  for (const item of items(body.subarray(fixedFieldsBytes))) {
    if (item.type === 0x21 && contexts.length < 256) contexts.push(decodeAnswer(item.value))
    if (item.type !== 0x50) continue
    for (const user of items(item.value)) if (user.type === 0x51) maxPduLength = uint32(user.value)
  }
  return { contexts, maxPduLength }
}

/** An A-ABORT PDU, PS3.8 §9.3.8. */
export function encodeAbort(source: number, reason: number): Buffer {
  return Buffer.from([pduType.abort, 0, 0, 0, 0, 4, 0, 0, source, reason])
}

/** An A-ASSOCIATE-RJ PDU, PS3.8 §9.3.4. */
export function encodeReject(rejection: Rejection): Buffer {
  return Buffer.from([pduType.associateReject, 0, 0, 0, 0, 4, 0, rejection.result, rejection.source, rejection.reason])
}

/** Result, source and reason of an A-ASSOCIATE-RJ, PS3.8 Table 9-21. */
export interface Rejection {
  readonly result: number
  readonly source: number
  readonly reason: number
}

/** The refusals that we send or recognise, PS3.8 Table 9-21. */
export const rejections = {
  applicationContext: { result: 1, source: 1, reason: 2 },
  callingAe: { result: 1, source: 1, reason: 3 },
  calledAe: { result: 1, source: 1, reason: 7 },
  protocolVersion: { result: 1, source: 2, reason: 2 },
  temporaryCongestion: { result: 2, source: 3, reason: 1 },
  localLimit: { result: 2, source: 3, reason: 2 },
} as const satisfies Record<string, Rejection>

/** Bytes of a P-DATA-TF header together with that of its one presentation data value. */
export const dataHeaderBytes = 12

/**
 * Header of a P-DATA-TF PDU that holds one presentation data value of `length` bytes, PS3.8 §9.3.5
 * and Annex E.2 (message control header).
 */
export function encodeDataHeader(
  contextId: number,
  flags: { command: boolean; last: boolean },
  length: number,
): Buffer {
  const header = Buffer.allocUnsafe(dataHeaderBytes)
  header[0] = pduType.data
  header[1] = 0
  header.writeUInt32BE(length + 6, 2)
  header.writeUInt32BE(length + 2, 6)
  header[10] = contextId
  header[11] = (flags.command ? 1 : 0) | (flags.last ? 2 : 0)
  return header
}

/**
 * A command set as P-DATA-TF PDUs in one buffer, so that it leaves in one write: a second small
 * segment would wait for the peer's delayed acknowledgement where it has Nagle's algorithm on.
 *
 * @param maxPduLength  the peer's limit, 0 for none
 */
export function encodeCommandPdus(contextId: number, command: Buffer, maxPduLength: number): Buffer {
  return encodeValuePdus(contextId, { command: true }, command, maxPduLength)
}

/** A small data set, such as an identifier, as P-DATA-TF PDUs in one buffer; see `encodeCommandPdus`. */
export function encodeDatasetPdus(contextId: number, dataset: Uint8Array, maxPduLength: number): Buffer {
  return encodeValuePdus(contextId, { command: false }, dataset, maxPduLength)
}

function encodeValuePdus(
  contextId: number,
  { command }: { command: boolean },
  value: Uint8Array,
  maxPduLength: number,
): Buffer {
  const room = fragmentBytes(maxPduLength)
  const parts: Uint8Array[] = []
  let offset = 0
  do {
    const part = value.subarray(offset, offset + room)
    offset += part.length
    parts.push(encodeDataHeader(contextId, { command, last: offset >= value.length }, part.length), part)
  } while (offset < value.length)
  return Buffer.concat(parts)
}

const largestFragmentBytes = 1_048_576

/** Data bytes of one PDU under the peer's limit; even, as PS3.8 Annex E.1 wants. */
export function fragmentBytes(maxPduLength: number): number {
  const room = maxPduLength === 0 ? largestFragmentBytes : Math.min(maxPduLength - 6, largestFragmentBytes)
  return Math.max(room - (room % 2), 2)
}

interface Item {
  readonly type: number
  readonly value: Buffer
}

function* items(bytes: Buffer): Generator<Item> {
  let offset = 0
  while (offset < bytes.length) {
    if (bytes.length - offset < 4) throw malformed('association item has a cut header')
    const length = bytes.readUInt16BE(offset + 2)
    const end = offset + 4 + length
    if (end > bytes.length) throw malformed('association item is longer than what holds it')
    yield { type: bytes.readUInt8(offset), value: bytes.subarray(offset + 4, end) }
    offset = end
  }
}

function decodeOffer(value: Buffer): ContextOffer {
  if (value.length < 4) throw malformed('presentation context item is too short')
  let abstractSyntaxUid = ''
  const transferSyntaxUids: string[] = []
  for (const item of items(value.subarray(4))) {
    if (item.type === 0x30) abstractSyntaxUid = uid(item.value)
    else if (item.type === 0x40) transferSyntaxUids.push(uid(item.value))
  }
  return { id: value.readUInt8(0), abstractSyntaxUid, transferSyntaxUids }
}

function decodeAnswer(value: Buffer): ContextAnswer {
  if (value.length < 4) throw malformed('presentation context item is too short')
  let transferSyntaxUid = ''
  const result = value.readUInt8(2)
  // The sub-item of a refused context is not significant and may be missing or anything (PS3.8 Table 9-18).
  if (result === 0)
    for (const item of items(value.subarray(4))) if (item.type === 0x40) transferSyntaxUid = uid(item.value)
  return { id: value.readUInt8(0), result, transferSyntaxUid }
}

function decodeRole(value: Buffer): RoleSelection {
  const length = value.length < 2 ? 0 : value.readUInt16BE(0)
  if (value.length < length + 4) throw malformed('role selection item is too short')
  return {
    sopClassUid: uid(value.subarray(2, 2 + length)),
    scu: value[2 + length] === 1,
    scp: value[3 + length] === 1,
  }
}

function uint32(value: Buffer): number {
  if (value.length !== 4) throw malformed('maximum length item is not four bytes')
  return value.readUInt32BE(0)
}

/** Trims the padding that peers use, among it the zero byte of the UI value representation. */
function uid(value: Buffer): string {
  return value
    .subarray(0, 65)
    .toString('latin1')
    .replace(/[\0 ]+$/, '')
    .replace(/^ +/, '')
}

/** Characters outside the default repertoire become '?': titles go to logs and terminals. */
function printable(value: Buffer): string {
  return value
    .toString('latin1')
    .replace(/[\0 ]+$/, '')
    .replace(/^ +/, '')
    .replace(/[^\x20-\x7e]/g, '?')
}

function malformed(message: string): GatewayError {
  return new GatewayError('BAD_REQUEST', message)
}
