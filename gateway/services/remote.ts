/** Asks a registered node now: is it there, and what does it hold? */
import { authorize } from '../../policy/authorize.ts'
import { eventIds } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { entryOf } from '../dicom/dictionary.ts'
import type { DicomJson } from '../dicom/json.ts'
import type { NewElement } from '../dicom/part10-writer.ts'
import { parseTag, type Tag, tagOf } from '../dicom/tag.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { DicomNode, FindNode, NodeOutcome } from './dicom-node.ts'
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

/** Asks registered nodes, by their name or AE title. */
export interface Remote {
  /** @throws GatewayError NOT_FOUND, PEER_UNREACHABLE, ASSOCIATION_REFUSED, PEER_PROTOCOL */
  echo(principal: Principal, name: string, signal: AbortSignal): Promise<NodeOutcome & { readonly tookMs: number }>
  /** @throws GatewayError also BAD_REQUEST for a key that is none, REMOTE_STATUS */
  find(principal: Principal, name: string, query: RemoteQuery, signal: AbortSignal): Promise<RemoteMatches>
}

export function openRemote(options: {
  readonly db: Db
  readonly findNode: FindNode
  readonly node: DicomNode
}): Remote {
  const { db, findNode, node } = options
  return {
    async echo(principal, name, signal) {
      authorize(principal, 'modality.query')
      const begin = performance.now()
      const { status } = await node.echo(findNode(name), signal)
      return { status, tookMs: Math.round(performance.now() - begin) }
    },

    async find(principal, name, { level, query, limit }, signal) {
      authorize(principal, 'modality.query')
      const target = findNode(name)
      const keys = queryKeys(level, query)
      // PS3.15 A.5.3.10: the query itself is not recorded, its keys may be a patient's name.
      await db.inTransaction(tx =>
        appendAudit(tx, {
          event: eventIds.query,
          action: 'E',
          outcome: 'success',
          participants: [
            { userId: principal.id, requestor: true, ...(principal.address && { address: principal.address }) },
            { userId: target.calledAe, address: target.host },
          ],
          objects: [],
          detail: { level },
        }),
      )
      const matches: DicomJson[] = []
      for await (const match of node.find(target, { level, keys }, signal)) {
        if (matches.length === limit) return { matches, truncated: true }
        matches.push(match)
      }
      return { matches, truncated: false }
    },
  }
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
