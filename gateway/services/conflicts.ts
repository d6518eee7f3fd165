/**
 * Instances that arrived under a known SOP Instance UID with other bytes. They are held beside the
 * stored one until a person decides:
 *
 * - `keep`: the stored instance stays, the held bytes stay retrievable;
 * - `replace`: the held bytes become the instance, the bytes they replace are held in their place;
 * - `discard`: the stored instance stays, the held bytes may be swept.
 */

import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { instancesAccessed, requestorOf } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, RemovingTx } from '../db/db.ts'
import { readInstanceHeader } from '../dicom/instance-header.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { Blobs, OpenBlob } from '../store/blobs.ts'
import { insertInstances } from '../store/instances.ts'
import type { Origin } from '../store/origin.ts'
import { loadForReplacement, removeInstance } from '../store/remove.ts'

export type ConflictState = 'held' | 'kept' | 'replaced' | 'discarded'
export type Decision = 'keep' | 'replace' | 'discard'

/** One held object. */
export interface HeldConflict {
  readonly id: number
  readonly kind: 'conflict' | 'variant'
  readonly state: ConflictState
  readonly sopInstanceUid: string
  readonly sopClassUid: string
  readonly transferSyntaxUid: string
  /** SHA-256 of the held file, hex. */
  readonly fileSha256: string
  readonly sizeBytes: number
  readonly origin: Readonly<Record<string, unknown>>
  /** Orthanc id of the instance it conflicts with. */
  readonly instance: string | null
  /** SHA-256 of the file stored now, hex. */
  readonly storedSha256: string | null
  readonly createdAt: Date
  readonly decidedAt: Date | null
  readonly decidedBy: string | null
}

export interface Conflicts {
  /** Newest first; `before` is the id of the last one seen. */
  list(options: {
    readonly state?: ConflictState
    readonly before?: number
    readonly limit: number
  }): Promise<HeldConflict[]>
  /** @throws GatewayError NOT_FOUND */
  load(id: number): Promise<HeldConflict>
  /**
   * Opens the held bytes; audited. The caller closes.
   *
   * @throws GatewayError NOT_FOUND, also when they were discarded
   */
  open(principal: Principal, id: number): Promise<{ conflict: HeldConflict; blob: OpenBlob }>
  /**
   * Decides in one transaction with its audit event. The same decision again changes nothing.
   *
   * @throws GatewayError NOT_FOUND, STATE_CONFLICT when it was decided otherwise
   */
  decide(principal: Principal, id: number, decision: Decision): Promise<HeldConflict>
}

const stateOf: Record<Decision, ConflictState> = { keep: 'kept', replace: 'replaced', discard: 'discarded' }

export function openConflicts(options: {
  readonly db: Db
  readonly blobs: Blobs
  /** When a study that a replacement changed counts as complete again; without it, it triggers no routing. */
  readonly dueAt?: (origin: Origin) => Date | undefined
  /** Issuers of patient IDs that are the site's own, as ingest has them. */
  readonly ownIssuers?: ReadonlySet<string>
}): Conflicts {
  const { db, blobs, dueAt = () => undefined } = options
  const ownIssuers = options.ownIssuers ?? new Set<string>()

  async function load(id: number): Promise<HeldConflict> {
    const [found] = await select(db, sql`where c.id = ${id}`, 1)
    if (!found) throw new GatewayError('NOT_FOUND', 'no such conflict')
    return found
  }

  async function openHeld(conflict: HeldConflict): Promise<OpenBlob> {
    if (conflict.state === 'discarded') throw new GatewayError('NOT_FOUND', 'the held bytes were discarded')
    return await blobs.open(Buffer.from(conflict.fileSha256, 'hex'))
  }

  return {
    async list({ state, before, limit }) {
      const byState = state ? sql`c.state = ${state}` : sql`true`
      const older = before === undefined ? sql`true` : sql`c.id < ${before}`
      return await select(db, sql`where ${byState} and ${older}`, limit)
    },

    load,

    async open(principal, id) {
      authorize(principal, 'conflict.read')
      const conflict = await load(id)
      const blob = await openHeld(conflict)
      try {
        await db.inTransaction(tx => appendAudit(tx, accessed(principal, conflict, 'R')))
      } catch (error) {
        await blob.close()
        throw error
      }
      return { conflict, blob }
    },

    async decide(principal, id, decision) {
      authorize(principal, 'conflict.decide')
      const conflict = await load(id)
      if (conflict.state === stateOf[decision]) return conflict
      if (conflict.state !== 'held') {
        throw new GatewayError('STATE_CONFLICT', `expected a held conflict, this one is ${conflict.state}`)
      }
      // Read before the transaction: it must not wait for the disk.
      const replacement = decision === 'replace' ? await readReplacement(conflict, openHeld) : undefined
      await db.removing(async tx => {
        if (replacement) await replace(tx, conflict, replacement)
        const { numUpdatedRows } = await tx
          .updateTable('conflicts')
          .set({ state: stateOf[decision], decided_at: new Date(), decided_by: principal.id })
          .where('id', '=', id)
          .where('state', '=', 'held')
          .executeTakeFirst()
        if (numUpdatedRows !== 1n) throw new GatewayError('STATE_CONFLICT', 'the conflict was decided meanwhile')
        await appendAudit(tx, accessed(principal, conflict, decision === 'replace' ? 'U' : 'D', decision))
      })
      return await load(id)
    },
  }

  /** As the import and ingest have it: patients of a peer stay its own, whoever lets its bytes in. */
  function issuerOf({ kind, principal, issuer: named }: Origin, issuer: string | undefined): string {
    if (kind === 'endpoint' && named !== undefined) return named
    if (kind === 'peer' || kind === 'endpoint') return principal
    return issuer !== undefined && !ownIssuers.has(issuer) ? issuer : ''
  }

  /** Puts the held bytes in the instance's place, and the instance's bytes into the conflict's row. */
  async function replace(tx: RemovingTx, conflict: HeldConflict, header: Header): Promise<void> {
    const old = await loadForReplacement(tx, conflict.sopInstanceUid)
    if (!old) throw new GatewayError('STATE_CONFLICT', 'the stored instance is gone')
    const held = await tx
      .selectFrom('conflicts')
      .select(['file_sha256', 'dataset_sha256', 'size_bytes', 'origin'])
      .where('id', '=', conflict.id)
      .where('state', '=', 'held')
      .forUpdate()
      .executeTakeFirst()
    if (!held) throw new GatewayError('STATE_CONFLICT', 'the conflict was decided meanwhile')
    await tx.updateTable('conflicts').set({ instance: null }).where('instance', '=', old.id).execute()
    await removeInstance(tx, old)
    const origin = originOf(conflict.origin)
    const [outcome] = await insertInstances(tx, [
      {
        header,
        issuer: issuerOf(origin, header.issuer),
        fileSha256: held.file_sha256,
        datasetSha256: held.dataset_sha256,
        sizeBytes: held.size_bytes,
        origin,
        dueAt: dueAt(origin),
      },
    ])
    if (outcome?.kind !== 'stored') throw new GatewayError('STATE_CONFLICT', 'the instance could not be replaced')
    await tx
      .updateTable('conflicts')
      .set({ instance: outcome.instance.id })
      .where('sop_instance_uid', '=', conflict.sopInstanceUid)
      .execute()
    await tx
      .updateTable('conflicts')
      .set({
        sop_class_uid: old.sopClassUid,
        transfer_syntax_uid: old.transferSyntaxUid,
        file_sha256: old.fileSha256,
        dataset_sha256: old.datasetSha256,
        size_bytes: old.sizeBytes,
        origin: JSON.stringify(old.origin),
      })
      .where('id', '=', conflict.id)
      .execute()
  }
}

type Header = Awaited<ReturnType<typeof readInstanceHeader>>

async function readReplacement(
  conflict: HeldConflict,
  open: (conflict: HeldConflict) => Promise<OpenBlob>,
): Promise<Header> {
  const blob = await open(conflict)
  try {
    return await readInstanceHeader(blob, { missingUids: 'derive' })
  } finally {
    await blob.close()
  }
}

const kinds = ['dimse', 'rest', 'peer', 'endpoint', 'cli'] as const

function originOf(raw: Readonly<Record<string, unknown>>): Origin {
  const kind = kinds.find(value => value === raw['kind']) ?? 'rest'
  return { ...raw, kind, principal: typeof raw['principal'] === 'string' ? raw['principal'] : 'unknown' }
}

function accessed(principal: Principal, conflict: HeldConflict, action: 'R' | 'U' | 'D', reason?: string) {
  return instancesAccessed({
    action,
    ...(reason !== undefined && { reason }),
    participants: [requestorOf(principal)],
    objects: [{ kind: 'instance', sopInstanceUid: conflict.sopInstanceUid, fileSha256: conflict.fileSha256 }],
    detail: { conflict: conflict.id },
  })
}

async function select(db: Db, where: ReturnType<typeof sql>, limit: number): Promise<HeldConflict[]> {
  const { rows } = await sql<HeldConflict>`
    select c.id, c.kind, c.state, c.sop_instance_uid as "sopInstanceUid", c.sop_class_uid as "sopClassUid",
           c.transfer_syntax_uid as "transferSyntaxUid", encode(c.file_sha256, 'hex') as "fileSha256",
           c.size_bytes as "sizeBytes", c.origin, i.orthanc_id as instance,
           encode(i.file_sha256, 'hex') as "storedSha256", c.created_at as "createdAt",
           c.decided_at as "decidedAt", c.decided_by as "decidedBy"
      from conflicts c left join instances i on i.id = c.instance
     ${where}
     order by c.id desc limit ${limit}
  `.execute(db.kysely)
  return rows
}
