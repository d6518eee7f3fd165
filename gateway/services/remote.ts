/** Asks a registered node now: is it there, and what does it hold? */
import { authorize } from '../../policy/authorize.ts'
import {
  type AuditObject,
  beginTransferring,
  eventIds,
  instancesTransferred,
  type Participant,
} from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { entryOf } from '../dicom/dictionary.ts'
import type { DicomJson } from '../dicom/json.ts'
import type { NewElement } from '../dicom/part10-writer.ts'
import { parseTag, type Tag, tagOf } from '../dicom/tag.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { DicomNode, FindNode, LooseInstance, NodeOutcome, NodeQuery, NodeTarget } from './dicom-node.ts'
import type { RetrieveKeys } from './retrieve-plan.ts'

/** A query as a person or program writes it. */
export interface RemoteQuery {
  readonly level: RetrieveKeys['level']
  /** Matching keys by keyword or `GGGGEEEE`; an empty value asks for the attribute. */
  readonly query: Readonly<Record<string, string>>
  /** No more matches than this are read. */
  readonly limit: number
}

/** Matches of a query. */
export interface RemoteMatches {
  readonly matches: readonly DicomJson[]
  /** There are more than the limit. */
  readonly truncated: boolean
}

/** How a node is called, where that differs from its registration. */
export interface RemoteCall {
  /** Our AE title in the call. */
  readonly callingAe?: string | undefined
  /** How long we wait for its answers. */
  readonly timeoutMs?: number | undefined
}

/** A move between nodes. */
export interface RemoteMove {
  readonly level: RetrieveKeys['level']
  /** Unique keys of each thing that is to be moved. */
  readonly resources: readonly (readonly NewElement[])[]
  /** AE title of the receiver; ourselves when absent. */
  readonly destination?: string | undefined
}

/** Asks registered nodes, by their name or AE title. */
export interface Remote {
  /** @throws GatewayError NOT_FOUND, PEER_UNREACHABLE, ASSOCIATION_REFUSED, PEER_PROTOCOL */
  echo(
    principal: Principal,
    node: string | NodeTarget,
    signal: AbortSignal,
  ): Promise<NodeOutcome & { readonly tookMs: number }>
  /** @throws GatewayError also BAD_REQUEST for a key that is none, REMOTE_STATUS */
  find(principal: Principal, node: string | NodeTarget, query: RemoteQuery, signal: AbortSignal): Promise<RemoteMatches>
  /** Matches as they come, for keys that are ready to be sent. @throws GatewayError as `find` */
  ask(
    principal: Principal,
    name: string,
    query: NodeQuery & { readonly call?: RemoteCall },
    signal: AbortSignal,
  ): AsyncIterable<DicomJson>
  /**
   * Has a node send instances to ourselves, or to a registered modality inside of the hospital.
   *
   * @throws GatewayError FORBIDDEN for another receiver, REMOTE_STATUS when something was not sent
   */
  move(
    principal: Principal,
    name: string,
    move: RemoteMove & { readonly call?: RemoteCall },
    onProgress: (done: number, total: number) => void,
    signal: AbortSignal,
  ): Promise<void>
  /** Sends an instance that is in no store to a node inside of the hospital. @throws GatewayError FORBIDDEN, REMOTE_STATUS */
  send(principal: Principal, name: string, instance: RemoteInstance, signal: AbortSignal): Promise<void>
}

/** An instance that is in no store, with what the audit log says of it. */
export interface RemoteInstance extends LooseInstance {
  readonly studyInstanceUid: string
  readonly patientId: string
}

export function openRemote(options: {
  readonly db: Db
  readonly findNode: FindNode
  readonly node: DicomNode
  /** Our AE title, under which nodes know us as a receiver. */
  readonly aeTitle: string
}): Remote {
  const { db, findNode, node, aeTitle } = options
  const called = (to: string | NodeTarget, { callingAe, timeoutMs }: RemoteCall = {}): NodeTarget => ({
    ...(typeof to === 'string' ? findNode(to) : to),
    ...(callingAe !== undefined && { callingAe }),
    ...(timeoutMs !== undefined && { timeoutMs }),
  })
  /** @throws GatewayError FORBIDDEN: who is outside gets something by a transfer, and who is unknown may be outside */
  const receiver = (title: string): Participant => {
    if (title === aeTitle) return { userId: title }
    const found = tryFind(findNode, title)
    if (found === undefined || found.isOutside) {
      throw new GatewayError('FORBIDDEN', 'the target must be ourselves or a registered modality of the hospital')
    }
    return { userId: found.calledAe, address: found.host }
  }

  async function* ask(
    principal: Principal,
    name: string | NodeTarget,
    { level, keys, call }: NodeQuery & { readonly call?: RemoteCall },
    signal: AbortSignal,
  ): AsyncGenerator<DicomJson, void, void> {
    authorize(principal, 'modality.query')
    const target = called(name, call)
    // PS3.15 A.5.3.10: the query itself is not recorded, its keys may be a patient's name.
    await db.inTransaction(tx =>
      appendAudit(tx, {
        event: eventIds.query,
        action: 'E',
        outcome: 'success',
        participants: [
          { ...participant(principal), requestor: true },
          { userId: target.calledAe, address: target.host },
        ],
        objects: [],
        detail: { level },
      }),
    )
    yield* node.find(target, { level, keys }, signal)
  }

  return {
    ask,

    async echo(principal, to, signal) {
      authorize(principal, 'modality.query')
      const begin = performance.now()
      const { status } = await node.echo(called(to), signal)
      return { status, tookMs: Math.round(performance.now() - begin) }
    },

    async find(principal, name, { level, query, limit }, signal) {
      authorize(principal, 'modality.query')
      const keys = queryKeys(level, query)
      const matches: DicomJson[] = []
      for await (const match of ask(principal, name, { level, keys }, signal)) {
        if (matches.length === limit) return { matches, truncated: true }
        const { '00080005': _, ...unicode } = match
        matches.push(unicode)
      }
      return { matches, truncated: false }
    },

    async move(principal, name, { level, resources, destination = aeTitle, call }, onProgress, signal) {
      authorize(principal, 'modality.retrieve')
      const target = called(name, call)
      const to = receiver(destination)
      const requestor = participant(principal)
      for (const [place, keys] of resources.entries()) {
        await db.inTransaction(tx =>
          appendAudit(
            tx,
            beginTransferring({
              source: { userId: target.calledAe, address: target.host },
              destination: to,
              requestor,
              objects: objectsOf(keys),
            }),
          ),
        )
        const { status } = await node.move(target, { level, keys, destination }, () => undefined, signal)
        if (status !== 0) throw remoteStatus('move', status)
        onProgress(place + 1, resources.length)
      }
    },

    async send(principal, name, instance, signal) {
      authorize(principal, 'study.send')
      const target = findNode(name)
      if (target.isOutside) {
        throw new GatewayError('FORBIDDEN', `${target.name} is outside of the hospital: nothing is sent there directly`)
      }
      const parties = {
        source: { userId: 'gateway' },
        destination: { userId: target.calledAe, address: target.host },
        requestor: participant(principal),
        objects: [
          { kind: 'patient' as const, patientId: instance.patientId },
          { kind: 'study' as const, studyInstanceUid: instance.studyInstanceUid, instanceCount: 1 },
        ],
      }
      await db.inTransaction(tx => appendAudit(tx, beginTransferring(parties)))
      let isTaken = false
      try {
        const { status } = await node.send(target, instance, signal)
        // Warnings of PS3.4 Table B.2-1 mean that it is stored.
        isTaken = status === 0 || status >>> 12 === 0xb
        if (!isTaken) throw remoteStatus('store', status)
      } finally {
        const outcome = isTaken ? 'success' : 'serious-failure'
        await db.inTransaction(tx => appendAudit(tx, instancesTransferred({ ...parties, action: 'R', outcome })))
      }
    },
  }
}

const participant = ({ id, address }: Principal): Participant => ({
  userId: id,
  ...(address !== undefined && { address }),
})

function tryFind(findNode: FindNode, title: string): NodeTarget | undefined {
  try {
    return findNode(title)
  } catch (error) {
    if (isGatewayError(error, 'NOT_FOUND') || isGatewayError(error, 'STATE_CONFLICT')) return undefined
    throw error
  }
}

function remoteStatus(what: string, status: number): GatewayError {
  const hex = status.toString(16).toUpperCase().padStart(4, '0')
  return new GatewayError('REMOTE_STATUS', `the node ended the ${what} with status ${hex}`, {
    context: { status: hex },
  })
}

const isText = (value: unknown): value is string => typeof value === 'string'

/** What a move is about, for the audit log. */
function objectsOf(keys: readonly NewElement[]): AuditObject[] {
  const texts = (tag: Tag): string[] =>
    keys.flatMap(key => (key.tag === tag && 'value' in key ? [key.value].flat().filter(isText) : []))
  return [
    ...texts(0x00100020).map(patientId => ({ kind: 'patient' as const, patientId })),
    ...texts(0x0020000d).map(studyInstanceUid => ({ kind: 'study' as const, studyInstanceUid })),
  ]
}

/** What is asked for at each level without being named. */
const returned: Readonly<Record<RetrieveKeys['level'], readonly string[]>> = {
  patient: ['PatientID', 'IssuerOfPatientID', 'PatientName', 'PatientBirthDate', 'PatientSex'],
  study: [
    ...['PatientID', 'IssuerOfPatientID', 'PatientName', 'PatientBirthDate', 'PatientSex', 'StudyInstanceUID'],
    ...['StudyDate', 'StudyTime', 'AccessionNumber', 'StudyDescription', 'ModalitiesInStudy'],
    ...['NumberOfStudyRelatedSeries', 'NumberOfStudyRelatedInstances'],
  ],
  series: [
    ...['StudyInstanceUID', 'SeriesInstanceUID', 'Modality', 'SeriesNumber', 'SeriesDescription', 'BodyPartExamined'],
    'NumberOfSeriesRelatedInstances',
  ],
  instance: ['StudyInstanceUID', 'SeriesInstanceUID', 'SOPInstanceUID', 'SOPClassUID', 'InstanceNumber'],
}

/**
 * The identifier of a query: the given keys, and the usual ones of its level to be returned.
 *
 * @throws GatewayError BAD_REQUEST for a key that is no attribute, and for a value where only a return key is possible
 */
export function queryKeys(level: RetrieveKeys['level'], query: Readonly<Record<string, string>>): NewElement[] {
  const values = new Map<Tag, string>()
  for (const keyword of returned[level]) values.set(tagNamed(keyword), '')
  for (const [name, value] of Object.entries(query)) values.set(tagNamed(name), value)
  const elements = [...values].map(([tag, value]) => queryKey(tag, value))
  // The default repertoire needs no Specific Character Set, and every node knows it (PS3.5 §6.1.2.1).
  const isAscii = [...values.values()].every(value => /^[\x20-\x7e]*$/.test(value))
  return isAscii ? elements : [{ tag: 0x00080005, value: 'ISO_IR 192' }, ...elements]
}

function tagNamed(name: string): Tag {
  const tag = /^[0-9A-Fa-f]{8}$/.test(name) ? parseTag(name) : tagOf(name)
  if (tag === undefined || tag >>> 16 <= 0x0002)
    throw new GatewayError('BAD_REQUEST', `no attribute is called ${name.slice(0, 64)}`)
  return tag
}

function queryKey(tag: Tag, value: string): NewElement {
  if (entryOf(tag)?.vrs[0] === 'SQ') {
    if (value !== '') throw new GatewayError('BAD_REQUEST', 'a sequence can only be asked for, not matched')
    return { tag, items: [] }
  }
  if (value === '') return { tag, value: new Uint8Array() }
  return { tag, value: value.split('\\') }
}
