/**
 * The one way in for instances: every adapter (C-STORE, REST, later STOW-RS) stages bytes here and
 * calls `store`. A returned result means durable: bytes first, then one transaction with hierarchy,
 * audit event and the study's due time (invariants 1 and 2).
 *
 * Receptions that finish while a transaction is under way are committed together by the next one:
 * a lone instance never waits, a busy gateway pays one commit for up to 64 instances.
 */

import type { AuditEvent } from '../audit/event.ts'
import { instancesTransferred } from '../audit/event.ts'
import { appendAudits, sealEvent } from '../audit/log.ts'
import type { Db, RemovingTx, Tx } from '../db/db.ts'
import { type InstanceHeader, readInstanceHeader } from '../dicom/instance-header.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import { arrivedAgain } from '../store/arrived-again.ts'
import type { Blobs, Staged, StagedFile } from '../store/blobs.ts'
import { holdConflict, type InstanceRef, insertInstances, insertUnknown, type NewInstance } from '../store/instances.ts'
import type { Origin } from '../store/origin.ts'
import { giveWay } from './overwriting.ts'

/** What a caller may tell about the instance it hands over; a difference is refused (DICOM PS3.4 B.2.3, 0xA900). */
export interface Expected {
  readonly sopClassUid: string
  readonly sopInstanceUid: string
  readonly transferSyntaxUid: string
  readonly studyInstanceUid: string
}

export type IngestResult =
  | { readonly kind: 'stored' | 'duplicate'; readonly instance: InstanceRef; readonly header: InstanceHeader }
  /** Other bytes under a known SOP Instance UID: kept as conflict number `held`, never overwritten. */
  | {
      readonly kind: 'conflict' | 'variant'
      readonly instance: InstanceRef
      readonly header: InstanceHeader
      readonly held: number
    }

export interface Ingest {
  /** Opens a staging file; refuses with STORAGE_FULL below the free-space watermark. */
  stage(expectedBytes?: number): Promise<Staged>
  /**
   * Makes a staged file an instance. Returns when bytes, rows and audit are durable.
   *
   * @throws GatewayError DICOM_UNREADABLE, DICOM_MISMATCH, STORAGE_FULL, STORAGE_IO, DATABASE_UNAVAILABLE;
   *   the staged file is gone then
   */
  store(staged: StagedFile, origin: Origin, expected?: Partial<Expected>): Promise<IngestResult>
  /** Waits for what is under way. */
  close(): Promise<void>
}

/** At most this many instances share a transaction: larger batches gain little and delay the first. */
const batchLimit = 64

interface Waiting {
  readonly item: NewInstance
  /** Resolves when the bytes are durable; the transaction that names them waits for it before it commits. */
  readonly durable: Promise<void>
  readonly resolve: (result: IngestResult) => void
  readonly reject: (error: unknown) => void
}

export function openIngest(options: {
  readonly db: Db
  readonly blobs: Blobs
  /** When a study counts as complete after an arrival from this origin; undefined: it triggers no routing. */
  readonly dueAt: (origin: Origin) => Date | undefined
  /** Issuers of patient IDs that are the site's own: `''` is always. */
  readonly ownIssuers?: ReadonlySet<string>
  /** What users and modalities send under a known UID replaces what is stored, instead of being held as a conflict. */
  readonly overwrites?: boolean
}): Ingest {
  const { db, blobs, dueAt, overwrites = false } = options
  const ownIssuers = options.ownIssuers ?? new Set<string>()
  let waiting: Waiting[] = []
  let pump: Promise<void> | undefined

  async function drain(): Promise<void> {
    // One turn of the event loop lets receptions that finished together share the first batch.
    await Promise.resolve()
    while (waiting.length > 0) {
      const batch = takeBatch()
      await settle(batch)
    }
    pump = undefined
  }

  /** The next instances with pairwise different SOP Instance UIDs: a repeated one sees the first as stored. */
  function takeBatch(): Waiting[] {
    const batch: Waiting[] = []
    const later: Waiting[] = []
    const uids = new Set<string>()
    for (const entry of waiting) {
      const uid = entry.item.header.sopInstanceUid
      if (batch.length >= batchLimit || uids.has(uid)) later.push(entry)
      else {
        uids.add(uid)
        batch.push(entry)
      }
    }
    waiting = later
    return batch
  }

  async function settle(batch: readonly Waiting[]): Promise<void> {
    try {
      const results = await commit(batch)
      batch.forEach((entry, index) => {
        const result = results[index]
        if (result) entry.resolve(result)
        else entry.reject(new GatewayError('UNAVAILABLE', 'no outcome was recorded for the instance'))
      })
    } catch (error) {
      // One bad object must not fail its batch: try each alone. A lost database fails all of them.
      if (batch.length > 1 && !isGatewayError(error, 'DATABASE_UNAVAILABLE')) {
        for (const entry of batch) await settle([entry])
      } else for (const entry of batch) entry.reject(error)
    }
  }

  /**
   * One transaction, whose rows are written while the bytes become durable and committed when they are
   * (invariant 1); repeated when another writer inserted one of the instances meanwhile.
   */
  async function commit(batch: readonly Waiting[]): Promise<IngestResult[]> {
    const items = batch.map(entry => entry.item)
    const durable = Promise.all(batch.map(entry => entry.durable))
    durable.catch(() => undefined) // it is awaited below, or the transaction failed before that
    const stored = items.map(() => 'stored' as const)
    const events = auditOf(items, stored).map(event => sealEvent(event))
    // Whatever stopped the short way, the long one tells or repeats: nothing was written, or it shows as duplicate.
    const refs = await insertUnknown(db, items, events, durable).catch(() => undefined)
    if (refs) {
      return items.map((item, index) => ({ kind: 'stored', instance: need(refs[index]), header: item.header }))
    }
    const long = async (tx: Tx, removing?: RemovingTx): Promise<IngestResult[]> => {
      const results = await write(tx, items, removing)
      await durable
      return results
    }
    for (let attempt = 1; ; attempt++) {
      try {
        return await (overwrites ? db.removing(tx => long(tx, tx)) : db.inTransaction(tx => long(tx)))
      } catch (error) {
        if (attempt >= 5 || !isGatewayError(error, 'STATE_CONFLICT')) throw error
      }
    }
  }

  const toInstance = (header: InstanceHeader, staged: StagedFile, origin: Origin): NewInstance => ({
    header,
    issuer: origin.issuer ?? (header.issuer && !ownIssuers.has(header.issuer) ? header.issuer : ''),
    fileSha256: staged.fileSha256,
    datasetSha256: staged.datasetSha256 ?? staged.fileSha256,
    sizeBytes: staged.sizeBytes,
    origin,
    dueAt: dueAt(origin),
  })

  return {
    stage: (expectedBytes = 0) => blobs.stage({ expectedBytes }),

    async store(staged, origin, expected) {
      let header: InstanceHeader
      try {
        header = await readHeader(staged, expected)
      } catch (error) {
        await staged.discard()
        throw error
      }
      const durable = blobs.place(staged)
      const isDurable = durable.then(
        () => true,
        () => false,
      )
      try {
        return await new Promise<IngestResult>((resolve, reject) => {
          waiting.push({ item: toInstance(header, staged, origin), durable, resolve, reject })
          pump ??= drain()
        })
      } finally {
        // What could not be placed has been released already.
        if (await isDurable) blobs.release(staged.fileSha256)
      }
    },

    async close() {
      await pump
    },
  }
}

function need<T>(value: T | undefined): T {
  if (value === undefined) throw new GatewayError('UNAVAILABLE', 'no outcome was recorded for the instance')
  return value
}

/** Writes rows, held conflicts and audit events of one batch. */
async function write(tx: Tx, items: readonly NewInstance[], removing: RemovingTx | undefined): Promise<IngestResult[]> {
  const outcomes = await insertInstances(tx, items)
  const results: IngestResult[] = []
  for (const [index, item] of items.entries()) {
    const { kind, instance } = need(outcomes[index])
    const isOther = kind === 'conflict' || kind === 'variant'
    if (isOther && removing && isFromHere(item.origin) && (await giveWay(removing, instance, item.origin))) {
      const [replaced] = await insertInstances(tx, [item])
      results.push({ kind: 'stored', instance: need(replaced).instance, header: item.header })
    } else if (isOther) {
      const held = await holdConflict(tx, item, instance, kind)
      results.push({ kind, instance, header: item.header, held })
    } else results.push({ kind, instance, header: item.header })
  }
  if (removing) await arrivedAgain(tx, againOf(items, results))
  await appendAudits(
    tx,
    auditOf(
      items,
      results.map(result => result.kind),
    ),
  )
  return results
}

/** What users and modalities sent once more, as it is stored. */
const againOf = (items: readonly NewInstance[], results: readonly IngestResult[]) =>
  items.flatMap(({ origin, dueAt }, index) => {
    const { kind, instance } = need(results[index])
    return kind === 'duplicate' && isFromHere(origin) ? [{ instance: instance.id, dueAt }] : []
  })

/** What peers send, or was taken over, is never let overwrite. */
const isFromHere = ({ kind, purpose }: Origin): boolean =>
  (kind === 'rest' || kind === 'dimse') && purpose === undefined

/** One event per study, sender and outcome in the batch, not per instance (DICOM PS3.15 A.5.3.7). */
function auditOf(items: readonly NewInstance[], kinds: readonly IngestResult['kind'][]): AuditEvent[] {
  const groups = new Map<string, { first: NewInstance; kind: IngestResult['kind']; members: NewInstance[] }>()
  for (const [index, item] of items.entries()) {
    const kind = kinds[index]
    if (!kind) continue
    const { origin, header } = item
    const key = [
      kind,
      origin.kind,
      origin.principal,
      origin.remoteAddress,
      header.studyInstanceUid,
      item.issuer,
      header.patientId,
    ]
    const group = groups.get(key.join('\n')) ?? { first: item, kind, members: [] }
    group.members.push(item)
    groups.set(key.join('\n'), group)
  }
  return [...groups.values()].map(({ first: { origin, header, issuer }, kind, members }) =>
    instancesTransferred({
      // C: not held before; R: held already; a conflict is kept beside what was held.
      action: kind === 'stored' ? 'C' : 'R',
      outcome: kind === 'stored' || kind === 'duplicate' ? 'success' : 'minor-failure',
      reason: kind,
      source: {
        userId: origin.principal,
        ...(origin.remoteAddress !== undefined && { address: origin.remoteAddress }),
      },
      destination: { userId: origin.calledAe ?? 'gateway' },
      objects: [
        { kind: 'patient', patientId: header.patientId, issuer },
        {
          kind: 'study',
          studyInstanceUid: header.studyInstanceUid,
          sopClassUids: [...new Set(members.map(member => member.header.sopClassUid))],
          instanceCount: members.length,
        },
        ...(kind === 'stored' || kind === 'duplicate'
          ? []
          : members.map(member => ({
              kind: 'instance' as const,
              sopInstanceUid: member.header.sopInstanceUid,
              fileSha256: member.fileSha256.toString('hex'),
            }))),
      ],
    }),
  )
}

/** Reads the header of a staged file; what the caller announced must be what the data set says. */
async function readHeader(staged: StagedFile, expected: Partial<Expected> | undefined): Promise<InstanceHeader> {
  const header = await readInstanceHeader(staged, { missingUids: 'derive' })
  if (!expected) return header
  for (const field of ['sopClassUid', 'sopInstanceUid', 'transferSyntaxUid', 'studyInstanceUid'] as const) {
    if (expected[field] !== undefined && header[field] !== expected[field]) {
      throw new GatewayError('DICOM_MISMATCH', `${field} of the data set is not the one announced`, {
        context: {
          expected: expected[field],
          seen: header[field],
          sopClassUid: header.sopClassUid,
          sopInstanceUid: header.sopInstanceUid,
        },
      })
    }
  }
  return header
}
