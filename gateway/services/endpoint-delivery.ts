/**
 * What goes to endpoints of third parties. The rows, the decision, the preparing and the states are those of transfers
 * to peers; the last step is another one: files are packed and put there, objects are sent by the endpoint's own
 * protocol. _planned → prepared → signed → delivered_, and _receipted_ or _refused_ when the recipient has answered.
 * Each step is a row before it counts, so a killed gateway goes on where it was.
 */
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { deliverFiles, removeDelivery } from '../../endpoints/delivery.ts'
import type { FileStore } from '../../endpoints/file-store.ts'
import { openFileStore } from '../../endpoints/open-place.ts'
import type { Place } from '../../endpoints/place.ts'
import { asIs } from '../../policy/document.ts'
import type { Db } from '../db/db.ts'
import { type ErrorCode, GatewayError, isGatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Log } from '../log.ts'
import { storeCertificate } from './certificates.ts'
import type { Commitments } from './commitment.ts'
import { isPlace } from './endpoint.ts'
import { type AcknowledgementParts, findAnswer } from './endpoint-answers.ts'
import { askEndpoint, commits, settleEndpoint } from './endpoint-commitment.ts'
import { type ObjectParts, sendObjects } from './endpoint-objects.ts'
import { type Bound, createEndpointOutcomes } from './endpoint-outcomes.ts'
import {
  certificateOf,
  loadPrepared,
  type PackagingParts,
  type Prepared,
  packDelivery,
  placeOf,
  recipientOf,
} from './endpoint-package.ts'
import {
  type DeliveryNames,
  findAbandoned,
  findDelivered,
  findFiles,
  findStaleParts,
  findUncommitted,
  findUnfinishedTransfers,
  forgetFiles,
  loadDelivery,
  markDelivered,
  markObject,
} from './endpoint-transfer-rows.ts'
import { nextOpening } from './endpoint-window.ts'
import type { Endpoints, OpenedEndpoint } from './endpoints.ts'
import type { Preparing } from './outbound-prepare.ts'
import { startProgress } from './outbound-progress.ts'
import { isInState, loadOutbound, lockState, type OutboundRow, writeState } from './outbound-rows.ts'
import { createPeerLanes } from './peer-lanes.ts'
import { addStep } from './transfer-steps.ts'

export interface EndpointDelivery {
  /** The job `deliver-endpoint`: carries one transfer on. Harmless at any time and any number of times. */
  run(id: string, signal: AbortSignal): Promise<void>
  /** Gives unfinished transfers a job: all of them at the start, now and then those that nothing has happened to. */
  recover(which: 'all' | 'stale'): Promise<void>
}

export interface EndpointDeliveryParts extends PackagingParts, ObjectParts, AcknowledgementParts {
  readonly db: Db
  readonly queue: Pick<Queue, 'enqueue'>
  readonly endpoints: Pick<Endpoints, 'open' | 'alarm'>
  readonly preparing: Preparing
  /** Asked of endpoints that prove what they have. */
  readonly commitments: Pick<Commitments, 'ask'>
  /** Why it may not go on: asked before each object and file. */
  readonly obstacle?: (transfer: string) => Promise<{ readonly code: ErrorCode; readonly message: string } | undefined>
  /** Where deliveries by hand are put. */
  readonly handDir: string
  readonly log: Log
  readonly clock?: () => Date
}

const followMs = { least: 60_000, most: 6 * 3_600_000 } as const
const stoppedMs = 15 * 60_000
/** The patient does not want it there. */
const isWithdrawn = ({ state, errorCode }: OutboundRow): boolean =>
  state === 'held' && (errorCode === 'CONSENT_MISSING' || errorCode === 'CONSENT_OBJECTED')

const moving = ['planned', 'prepared', 'signed'] as const

/** Opens the service; `run` is to be registered as the lane's handler. */
export function openEndpointDelivery(parts: EndpointDeliveryParts): EndpointDelivery {
  const { db, queue, endpoints, preparing, clock = () => new Date() } = parts
  const log = parts.log.child({ part: 'endpoints' })
  const outcomes = createEndpointOutcomes({ db, queue, from: parts.keys.siteId, clock, log })
  const lanes = createPeerLanes({ parallel: 4, perPeer: 2, now: () => clock().getTime() })
  const enqueue = (id: string): Promise<void> =>
    db.inTransaction(tx => queue.enqueue(tx, 'deliver-endpoint', { transfer: id }, { singletonKey: id }))

  const mayGo = async (row: OutboundRow): Promise<boolean> =>
    (await parts.obstacle?.(row.id)) === undefined && (await isInState(db.kysely, row.id, moving))

  /** Where files go: the endpoint's own place, or a folder of ours that a person takes them from. */
  const placeOfEndpoint = async ({ endpoint }: OpenedEndpoint, id: string): Promise<Place> => {
    if (isPlace(endpoint.settings)) return endpoint.settings
    const root = join(parts.handDir, id)
    await mkdir(root, { recursive: true, mode: 0o700 })
    return { kind: 'folder', root, can: undefined }
  }

  const carryFiles = async (bound: Bound, opened: OpenedEndpoint, prepared: Prepared, signal: AbortSignal) => {
    const { row } = bound
    const { endpoint, secrets } = opened
    const { folder, files } = await packDelivery(parts, { row, endpoint, prepared }, signal)
    const place = await placeOfEndpoint(opened, row.id)
    const done = await findDelivered(db.kysely, row.id)
    const progress = startProgress(db, row.id)
    try {
      const result = await deliverFiles(
        (during: AbortSignal): Promise<FileStore> => openFileStore(place, secrets, during),
        folder,
        files,
        endpoint.rules,
        {
          isDone: name => done.has(placeOf(folder, name)),
          onDone: file => markDelivered(db.kysely, row.id, placeOf(folder, file.name), file.size),
          onSent: progress.sent,
          mayContinue: async () => nextOpening(endpoint.rules.window, clock()) === undefined && (await mayGo(row)),
        },
        signal,
      )
      if (result === 'stopped') return await stopped(bound, opened)
    } finally {
      await progress.stop()
    }
    const detail =
      endpoint.kind === 'hand' ? { files: files.length, path: join(parts.handDir, row.id) } : { files: files.length }
    await outcomes.delivered(bound, detail, endpoint.acknowledgement && new Date(clock().getTime() + followMs.least))
  }

  const carryObjects = async (bound: Bound, opened: OpenedEndpoint, prepared: Prepared, signal: AbortSignal) => {
    const { row } = bound
    const certificate = await certificateOf(parts, row, opened.endpoint)
    await db.inTransaction(async tx => {
      if ((await lockState(tx, row.id)) !== 'prepared') return
      await storeCertificate(tx, row.id, 'issued', certificate)
      await writeState(tx, row.id, 'signed')
    })
    const missing = prepared.objects.filter(({ isDelivered }) => !isDelivered)
    const problems: string[] = []
    let taken = prepared.objects.length - missing.length
    await sendObjects(
      parts,
      opened,
      missing,
      {
        onResult: async (object, problem) => {
          if (problem === null) taken += 1
          else problems.push(problem)
          await markObject(db.kysely, row.id, object, problem)
        },
        mayContinue: async () => nextOpening(opened.endpoint.rules.window, clock()) === undefined && (await mayGo(row)),
      },
      signal,
    )
    if (problems.length > 0) {
      const names = [...new Set(problems)].sort().join(', ').slice(0, 200)
      throw new GatewayError(
        'ENDPOINT_REJECTED',
        `${problems.length} of ${missing.length} instances were not taken: ${names}`,
      )
    }
    if (taken < prepared.objects.length) return await stopped(bound, opened)
    const asked = commits(opened.endpoint) ? await findUncommitted(db.kysely, row.id, prepared.objects) : []
    await outcomes.delivered(bound, { instances: taken }, undefined, async tx => {
      if (asked.length > 0) await askEndpoint(tx, parts.commitments, bound, asked)
    })
  }

  /** Not allowed any more, or not at this time of day. */
  const stopped = async (bound: Bound, { endpoint }: OpenedEndpoint): Promise<void> => {
    const obstacle = await parts.obstacle?.(bound.row.id)
    if (obstacle) {
      await outcomes.failed(bound, new GatewayError(obstacle.code, obstacle.message), false)
      return await enqueue(bound.row.id) // what is there is removed
    }
    const opening = nextOpening(endpoint.rules.window, clock())
    if (opening && (await mayGo(bound.row))) await outcomes.postponed(bound, opening)
    else await enqueue(bound.row.id) // cancelled or held meanwhile: what is there is removed
  }

  const carry = async (
    bound: Bound,
    names: DeliveryNames,
    opened: OpenedEndpoint,
    signal: AbortSignal,
  ): Promise<void> => {
    const { row, to } = bound
    if (row.profile === asIs)
      throw new GatewayError('POLICY_DENIED', 'nothing goes to an endpoint as it is: name a de-identification profile')
    const obstacle = await parts.obstacle?.(row.id)
    if (obstacle) throw new GatewayError(obstacle.code, obstacle.message)
    if (!(await preparing.prepare(row, { siteId: recipientOf(to, names) }, signal))) return
    const ready = await loadOutbound(db.kysely, row.id)
    if (!ready || !moving.some(state => state === ready.state)) return
    const prepared = await loadPrepared(parts, ready, names)
    const next = { row: { ...ready, state: 'signed' as const }, to }
    if (isPlace(opened.endpoint.settings) || opened.endpoint.kind === 'hand')
      await carryFiles(next, opened, prepared, signal)
    else await carryObjects(next, opened, prepared, signal)
  }

  const attempt = async (
    bound: Bound,
    names: DeliveryNames,
    opened: OpenedEndpoint,
    signal: AbortSignal,
  ): Promise<void> => {
    const { row, to } = bound
    try {
      if (row.state === 'delivered') await follow(bound, opened, names, signal)
      else await carry(bound, names, opened, signal)
      lanes.succeed(to)
    } catch (error) {
      if (signal.aborted || isGatewayError(error, 'DATABASE_UNAVAILABLE')) throw error
      if (isGatewayError(error, 'ENDPOINT_UNREACHABLE')) lanes.fail(to, error)
      // Whoever it is there now, or whatever was wrong with the login: it is not tried over and over.
      if (isGatewayError(error, 'ENDPOINT_HOST_KEY') || isGatewayError(error, 'ENDPOINT_LOGIN')) {
        await endpoints.alarm(to, error.code, error.message)
        return await outcomes.postponed(bound, new Date(clock().getTime() + stoppedMs), error)
      }
      if (row.state === 'delivered') return await outcomes.unanswered(bound, followAt(row, opened))
      const now = await loadOutbound(db.kysely, row.id)
      await outcomes.failed(bound, error, (now?.bytesAcknowledged ?? 0) > row.bytesAcknowledged)
    }
  }

  /** How often the answer is looked for: as rarely as it is late; undefined when that is over. */
  const followAt = (row: OutboundRow, { endpoint }: OpenedEndpoint): Date | undefined => {
    const { acknowledgement } = endpoint
    const now = clock().getTime()
    const age = now - row.manifestCreated.getTime()
    if (!acknowledgement || age > acknowledgement.forDays * 24 * 3_600_000) return undefined
    return new Date(now + Math.min(followMs.most, Math.max(followMs.least, age / 10)))
  }

  const follow = async (
    bound: Bound,
    opened: OpenedEndpoint,
    names: DeliveryNames,
    signal: AbortSignal,
  ): Promise<void> => {
    if (commits(opened.endpoint)) return await settleEndpoint(db, outcomes, bound)
    const said = await findAnswer(parts, opened, { transfer: bound.row.id, subject: names.subject }, signal)
    if (!said) return await outcomes.unanswered(bound, followAt(bound.row, opened))
    await db.inTransaction(async tx => {
      if ((await lockState(tx, bound.row.id)) === 'delivered') await outcomes.acknowledged(tx, bound, said)
    })
    log.info({ transfer: bound.row.id, endpoint: bound.to, outcome: said.outcome }, 'the recipient has answered')
  }

  /** What a delivery that will not go on has left there: nothing of it stays half visible. */
  const discard = async ({ row, to }: Bound, which: 'all' | 'parts', signal: AbortSignal): Promise<void> => {
    const files = which === 'all' ? await findFiles(db.kysely, row.id) : await findStaleParts(db.kysely, row.id)
    if (files.length === 0) return
    const opened = await endpoints.open(to)
    const place = await placeOfEndpoint(opened, row.id)
    await removeDelivery(during => openFileStore(place, opened.secrets, during), '', files, which, signal)
    if (which === 'parts') return await forgetFiles(db.kysely, row.id, files)
    if (opened.endpoint.kind === 'hand') await rm(join(parts.handDir, row.id), { recursive: true, force: true })
    await db.inTransaction(async tx => {
      await tx.deleteFrom('transfer_files').where('transfer', '=', row.id).execute()
      await addStep(tx, row.id, 'removed-there', { files: files.length })
    })
  }

  return {
    async run(id, signal) {
      const row = await loadOutbound(db.kysely, id)
      const delivery = row && (await loadDelivery(db.kysely, id))
      if (!row || !delivery) return
      const bound = { row, to: delivery.endpoint }
      if (row.state === 'cancelled' || row.state === 'expired' || isWithdrawn(row)) {
        await discard(bound, 'all', signal)
        await preparing.cleanUp(id)
        return
      }
      // What a person has not decided about in a day leaves nothing half written there; whole files stay.
      if (row.state === 'held' || row.state === 'refused') return await discard(bound, 'parts', signal)
      if (!row.isDue || !(row.state === 'delivered' || moving.some(state => state === row.state))) return
      let opened: OpenedEndpoint
      try {
        opened = await endpoints.open(delivery.endpoint)
      } catch (error) {
        return await outcomes.failed(bound, error, false)
      }
      const { endpoint } = opened
      if (endpoint.state !== 'active') {
        const until = new Date(clock().getTime() + stoppedMs)
        if (row.state === 'delivered') return await outcomes.unanswered(bound, until)
        const why = endpoint.state === 'stopped' ? endpoint.reason : 'a person has to confirm its host key first'
        return await outcomes.postponed(
          bound,
          until,
          new GatewayError('ENDPOINT_STOPPED', `the endpoint is ${endpoint.state}: ${why}`),
        )
      }
      const opening = row.state === 'delivered' ? undefined : nextOpening(endpoint.rules.window, clock())
      if (opening) return await outcomes.postponed(bound, opening)
      const admission = lanes.enter({ id, peer: endpoint.name, priority: row.priority })
      if (admission.kind === 'parked') return
      if (admission.kind === 'closed') {
        const until = new Date(admission.until + Math.random() * 1_000)
        return await (row.state === 'delivered'
          ? outcomes.unanswered(bound, until)
          : outcomes.postponed(bound, until, admission.reason))
      }
      try {
        await attempt(bound, delivery.names, opened, signal)
        await preparing.cleanUp(id)
      } finally {
        for (const parked of lanes.leave({ id, peer: endpoint.name })) if (!signal.aborted) await enqueue(parked)
      }
    },
    async recover(which) {
      const ids = await findUnfinishedTransfers(db.kysely, which)
      for (const id of [...ids, ...(await findAbandoned(db.kysely))]) await enqueue(id)
    },
  }
}
