/** The rows of inbound transfers: each statement with one intent. */
import { type Kysely, sql } from 'kysely'
import { Bitmap, type LeafRun } from '../../peers/bitmap.ts'
import { leafBytes } from '../../peers/leaves.ts'
import type { ObjectRefusal } from '../../peers/receipt.ts'
import type { Tx } from '../db/db.ts'
import type { InboundState, Schema } from '../db/schema.ts'

type Executor = Kysely<Schema> | Tx

/** An inbound transfer without its manifest's bytes. */
export interface InboundRow {
  readonly id: string
  readonly manifestId: string
  readonly state: InboundState
  readonly peer: { readonly id: string; readonly siteId: string; readonly name: string; readonly isActive: boolean }
  readonly objectCount: number
  readonly leafCount: number
  readonly bytesTotal: number
  readonly bytesReceived: number
  readonly received: Bitmap
  readonly refusalCount: number
  readonly errorCode: string | undefined
  readonly expiresAt: Date
  /** Why policy shows it to nobody before a person has released it. */
  readonly holdReason: string | undefined
}

interface RawRow {
  id: string
  manifest_id: string
  state: InboundState
  peer: string
  site_id: string
  peer_name: string
  peer_state: string
  object_count: number
  leaf_count: number
  bytes_total: number
  bytes_received: number
  received: Buffer
  refusal_count: number
  error_code: string | null
  expires_at: Date
  hold_reason: string | null
}

const columns = sql`
  t.id, t.manifest_id, t.state, t.peer, p.site_id, p.name as peer_name, p.state as peer_state, t.object_count,
  t.leaf_count, t.bytes_total, t.bytes_received, t.received, jsonb_array_length(t.refusals) as refusal_count,
  t.error_code, t.expires_at, t.hold_reason`

const readRow = (raw: RawRow): InboundRow => ({
  id: raw.id,
  manifestId: raw.manifest_id,
  state: raw.state,
  peer: { id: raw.peer, siteId: raw.site_id, name: raw.peer_name, isActive: raw.peer_state === 'active' },
  objectCount: raw.object_count,
  leafCount: raw.leaf_count,
  bytesTotal: raw.bytes_total,
  bytesReceived: raw.bytes_received,
  received: new Bitmap(raw.leaf_count, new Uint8Array(raw.received)),
  refusalCount: raw.refusal_count,
  errorCode: raw.error_code ?? undefined,
  expiresAt: raw.expires_at,
  holdReason: raw.hold_reason ?? undefined,
})

/** The transfer of a peer's manifest; another peer's is not found. */
export async function loadOffered(db: Executor, peer: string, manifestId: string): Promise<InboundRow | undefined> {
  const { rows } = await sql<RawRow>`
    select ${columns} from inbound_transfers t join peers p on p.id = t.peer
     where t.peer = ${peer} and t.manifest_id = ${manifestId}`.execute(db)
  return rows[0] && readRow(rows[0])
}

export async function loadInbound(db: Executor, id: string): Promise<InboundRow | undefined> {
  const { rows } = await sql<RawRow>`
    select ${columns} from inbound_transfers t join peers p on p.id = t.peer where t.id = ${id}`.execute(db)
  return rows[0] && readRow(rows[0])
}

/** Locks the row until the transaction ends: changes of state happen one after the other. */
export async function lockInbound(tx: Tx, id: string): Promise<InboundRow | undefined> {
  const { rows } = await sql<RawRow>`
    select ${columns} from inbound_transfers t join peers p on p.id = t.peer where t.id = ${id} for update of t`.execute(
    tx,
  )
  return rows[0] && readRow(rows[0])
}

/** The offer as it came: envelope and pages. */
export async function loadOfferBytes(db: Executor, id: string): Promise<Uint8Array | undefined> {
  const row = await db.selectFrom('inbound_transfers').select('manifest').where('id', '=', id).executeTakeFirst()
  return row?.manifest
}

/** Inserts an accepted offer; false when this peer's manifest is there already. */
export async function insertInbound(
  tx: Tx,
  row: {
    id: string
    peer: string
    manifestId: string
    manifest: Uint8Array
    purpose: string
    objectCount: number
    leafCount: number
    bytesTotal: number
    expiresAt: Date
    /** What the policy decided, and in which version. */
    decided: { readonly rule: string; readonly policyVersion: number; readonly holdReason: string | undefined }
  },
): Promise<boolean> {
  const received = Buffer.from(new Bitmap(row.leafCount).bytes)
  const { rows } = await sql`
    insert into inbound_transfers
           (id, peer, manifest_id, manifest, state, purpose, object_count, leaf_count, bytes_total, received, expires_at,
            rule, policy_version, hold_reason)
    values (${row.id}, ${row.peer}, ${row.manifestId}, ${Buffer.from(row.manifest)}, 'receiving', ${row.purpose},
            ${row.objectCount}, ${row.leafCount}, ${row.bytesTotal}, ${received}, ${row.expiresAt},
            ${row.decided.rule}, ${row.decided.policyVersion}, ${row.decided.holdReason ?? null})
    on conflict (peer, manifest_id) do nothing returning 1`.execute(tx)
  return rows.length > 0
}

/**
 * Sets the bits of a durable range (at most eight leaves, so at most two bytes) in one statement.
 *
 * The row is locked before the old bits are read, so ranges that finish at the same moment add up.
 *
 * @returns false when the transfer takes no ranges any more
 */
export async function markReceived(db: Executor, id: string, run: LeafRun): Promise<boolean> {
  const first = run.from >> 3
  const last = run.to >> 3
  let low = 0
  let high = 0
  for (let leaf = run.from; leaf <= run.to; leaf++) {
    if (leaf >> 3 === first) low |= 1 << (leaf & 7)
    else high |= 1 << (leaf & 7)
  }
  const { rows } = await sql`
    with old as (
      select id, received from inbound_transfers where id = ${id} and state = 'receiving' for update
    ), low as (
      select id, set_byte(received, ${first}, get_byte(received, ${first}) | ${low}) as received from old
    ), new as (
      select id, set_byte(received, ${last}, get_byte(received, ${last}) | ${high}) as received from low
    )
    update inbound_transfers t
       set received = new.received, updated_at = now(),
           bytes_received = bit_count(new.received) * ${leafBytes}::bigint
             - case when get_bit(new.received, t.leaf_count - 1) = 1
                    then t.leaf_count * ${leafBytes}::bigint - t.bytes_total else 0 end
      from new where t.id = new.id
    returning 1`.execute(db)
  return rows.length > 0
}

/** Forgets leaves, so that the sender sends them again. */
export async function writeReceived(tx: Tx, id: string, received: Bitmap, bytesReceived: number): Promise<void> {
  await sql`
    update inbound_transfers set received = ${Buffer.from(received.bytes)}, bytes_received = ${bytesReceived}
     where id = ${id}`.execute(tx)
}

/** Writes a new state, with what is wrong or without. The caller holds the row's lock. */
export async function setState(
  tx: Tx,
  id: string,
  state: InboundState,
  trouble: { code: string; message: string; refusals?: readonly ObjectRefusal[] } | undefined = undefined,
): Promise<void> {
  await sql`
    update inbound_transfers
       set state = ${state}, error_code = ${trouble?.code ?? null}, error = ${trouble?.message ?? null},
           refusals = ${JSON.stringify(trouble?.refusals ?? [])}::jsonb, updated_at = now()
     where id = ${id}`.execute(tx)
}

/** Bytes promised to open transfers and not yet here. */
export async function outstandingBytes(db: Executor): Promise<number> {
  const { rows } = await sql<{ bytes: number }>`
    select coalesce(sum(bytes_total - bytes_received), 0)::bigint as bytes
      from inbound_transfers where state = 'receiving'`.execute(db)
  return rows[0]?.bytes ?? 0
}

/** Open transfers of one peer. */
export async function countReceiving(db: Executor, peer: string): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    select count(*) as count from inbound_transfers where state = 'receiving' and peer = ${peer}`.execute(db)
  return rows[0]?.count ?? 0
}

/** Transfers that still receive although their manifest ended before `before`, or their peer was revoked. */
export async function findOverdue(db: Executor, before: Date): Promise<{ id: string; isRevoked: boolean }[]> {
  const { rows } = await sql<{ id: string; isRevoked: boolean }>`
    select t.id, p.state = 'revoked' as "isRevoked" from inbound_transfers t join peers p on p.id = t.peer
     where t.state = 'receiving' and (t.expires_at < ${before} or p.state = 'revoked') limit 100`.execute(db)
  return rows
}

/** Of these manifests, the ones whose bytes are still wanted on disk. */
export async function findStaged(db: Executor, manifestIds: readonly string[]): Promise<Set<string>> {
  if (manifestIds.length === 0) return new Set()
  const rows = await db
    .selectFrom('inbound_transfers')
    .select('manifest_id')
    .where('manifest_id', 'in', [...manifestIds])
    .where('state', 'in', ['receiving', 'committing', 'held'])
    .execute()
  return new Set(rows.map(row => row.manifest_id))
}

/** A person has let it in: policy holds it no longer. */
export async function clearHold(tx: Tx, id: string): Promise<void> {
  await tx.updateTable('inbound_transfers').set({ hold_reason: null }).where('id', '=', id).execute()
}
