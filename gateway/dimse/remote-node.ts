/** Other DICOM nodes, spoken to: echo, find, retrieve and store as the services want them. */
import { toJson } from '../dicom/json.ts'
import type { NewElement } from '../dicom/part10-writer.ts'
import { GatewayError } from '../errors.ts'
import type { DicomNode, NodeProgress, NodeResult, NodeTarget, RetrievePurpose } from '../services/dicom-node.ts'
import type { RetrieveKeys } from '../services/retrieve-plan.ts'
import { findScu } from './find-scu.ts'
import { getScu } from './get-scu.ts'
import { moveScu } from './move-scu.ts'
import type { Converter, StoreResult } from './outgoing.ts'
import type { OwnMoves } from './own-moves.ts'
import { levelNames, queryRetrieveSopClass } from './query-retrieve.ts'
import { Arrivals, outgoingOf } from './retrieve-service.ts'
import type { StoreService } from './scp.ts'
import { echoScu, storeScu } from './scu.ts'
import type { ScuTarget } from './scu-association.ts'
import { stopGrace } from './stop-grace.ts'
import { SubOperations } from './sub-operations.ts'
import { worklistSopClass } from './worklist.ts'

/** What it needs. */
export interface RemoteNodeOptions {
  /** The way into our store for what is fetched with a purpose. */
  readonly store: (purpose: RetrievePurpose) => StoreService
  readonly ownMoves: OwnMoves
  /** For what a node does not take as it is stored. */
  readonly converter?: (to: NodeTarget) => Converter | undefined
}

const specificCharacterSet = '00080005'

/** How long a node may take to end in order what was cancelled. */
const stopGraceMs = 5_000

/** Makes the services' view of other nodes. */
export function remoteNode({ store, ownMoves, converter }: RemoteNodeOptions): DicomNode {
  return {
    echo: (to, signal) => echoScu({ ...to, signal }),

    async *find(to, { level, keys }, signal) {
      using grace = stopGrace(signal, stopGraceMs)
      const request = { ...(level === 'worklist' ? worklistQuery(keys) : hierarchyQuery(level, keys)), cancel: signal }
      for await (const match of findScu({ ...to, signal: grace.hard }, request)) {
        const { terms } = match.charset
        yield { ...toJson(match), ...(terms.length > 0 && { [specificCharacterSet]: { vr: 'CS', Value: [...terms] } }) }
      }
    },

    async retrieve(from, { keys, method, purpose }, onProgress, signal) {
      using grace = stopGrace(signal, stopGraceMs)
      const target: ScuTarget = { ...from, signal: grace.hard }
      const request = {
        sopClassUid: queryRetrieveSopClass(keys.level === 'patient' ? 'patient-root' : 'study-root', method),
        identifier: identifierOf(keys),
        cancel: signal,
      }
      if (method === 'get') return await getScu(target, { ...request, store: store(purpose) }, onProgress)
      const messageId = ownMoves.begin(purpose)
      try {
        return await moveScu(target, { ...request, destination: from.callingAe, messageId }, onProgress)
      } finally {
        ownMoves.end(messageId)
      }
    },

    async move(from, { level, keys, destination }, onProgress, signal) {
      using grace = stopGrace(signal, stopGraceMs)
      const messageId = ownMoves.begin('manual')
      const request = {
        sopClassUid: queryRetrieveSopClass(level === 'patient' ? 'patient-root' : 'study-root', 'move'),
        identifier: atLevel(level, keys),
        cancel: signal,
        destination,
        messageId,
      }
      try {
        return await moveScu({ ...from, signal: grace.hard }, request, onProgress)
      } finally {
        ownMoves.end(messageId)
      }
    },

    async send(to, { source, datasetOffset, ...instance }, signal) {
      using grace = stopGrace(signal, stopGraceMs)
      let result: StoreResult = { kind: 'not-accepted' }
      await storeScu(
        { ...to, signal: grace.hard },
        [{ ...instance, open: () => ({ source, datasetOffset }) }],
        (_instance, outcome) => {
          result = outcome
        },
        { stop: signal, converter: converter?.(to) },
      )
      signal.throwIfAborted()
      return { status: statusOf(result) }
    },

    async store(to, { retrieve, plan, originator }, onProgress, signal) {
      using grace = stopGrace(signal, stopGraceMs)
      const account = new SubOperations(plan.instanceCount)
      const arrivals = new Arrivals()
      await storeScu(
        { ...to, signal: grace.hard },
        outgoingOf(retrieve, plan, signal),
        (instance, result) => {
          if (account.count(instance.sopInstanceUid, result)) arrivals.add(instance.study)
          onProgress(progressOf(account))
        },
        { stop: signal, converter: converter?.(to), originator },
      )
      signal.throwIfAborted()
      account.countRest()
      const { status, failedSopInstanceUids } = account.end()
      const result: NodeResult = { ...progressOf(account), status, failedSopInstanceUids }
      return { ...result, sent: arrivals.byStudy }
    },
  }
}

const atLevel = (level: RetrieveKeys['level'], keys: readonly NewElement[]): NewElement[] => [
  { tag: 0x00080052, value: levelNames[level] },
  ...keys,
]

function hierarchyQuery(level: RetrieveKeys['level'], keys: readonly NewElement[]) {
  const sopClassUid = queryRetrieveSopClass(level === 'patient' ? 'patient-root' : 'study-root', 'find')
  return { sopClassUid, identifier: atLevel(level, keys) }
}

const worklistQuery = (keys: readonly NewElement[]) => ({ sopClassUid: worklistSopClass, identifier: keys })

/** @throws GatewayError ASSOCIATION_REFUSED, and why the instance could not be read */
function statusOf(result: StoreResult): number {
  if (result.kind === 'responded') return result.status
  if (result.kind === 'unreadable') throw result.error
  throw new GatewayError('ASSOCIATION_REFUSED', 'the node takes no instance of this SOP class and transfer syntax')
}

const progressOf = ({ remaining, counts }: SubOperations): NodeProgress => ({ remaining, ...counts })

function identifierOf({
  level,
  patientId,
  issuer,
  studyUids,
  seriesUids,
  sopInstanceUids,
}: RetrieveKeys): NewElement[] {
  const given: readonly (readonly [tag: number, value: string | readonly string[] | undefined])[] = [
    [0x00080018, sopInstanceUids],
    [0x00080052, levelNames[level]],
    [0x00100020, patientId],
    [0x00100021, issuer],
    [0x0020000d, studyUids],
    [0x0020000e, seriesUids],
  ]
  return given.flatMap(([tag, value]) => (value === undefined ? [] : [{ tag, value }]))
}
