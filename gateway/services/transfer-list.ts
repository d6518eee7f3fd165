/** What people read about transfers, both directions in one list: states, time lines, receipts. */
import { sql } from 'kysely'
import type { Db } from '../db/db.ts'
import { isObject } from '../decode.ts'
import { GatewayError } from '../errors.ts'

export type Direction = 'outbound' | 'inbound'

/** One transfer in a list. Fields that a direction does not have are null. */
export interface TransferSummary {
  readonly id: string
  readonly direction: Direction
  readonly state: string
  readonly peer: { readonly id: string; readonly name: string } | null
  /** Outbound: the destination the rule or person named. */
  readonly destination: string | null
  /** Outbound, on to an archive: the modality's symbolic name. */
  readonly modality: string | null
  /** Outbound, to a third party: the name of the endpoint. `delivered` is not acknowledged yet, `receipted` is. */
  readonly endpoint: string | null
  /**
   * Where the study is safe, as far as anybody here knows: `archive` once the hospital's archive has committed to
   * every instance, until then `gateway`. Null for what went to a peer, or has not come in.
   */
  readonly safeIn: 'gateway' | 'archive' | null
  readonly studyInstanceUid: string | null
  readonly purpose: string
  readonly priority: string | null
  readonly rule: string | null
  readonly policyVersion: number | null
  readonly profile: string | null
  readonly trigger: string | null
  readonly requestedBy: string | null
  readonly manifestId: string | null
  readonly objectCount: number
  readonly bytesTotal: number
  /** Acknowledged by the receiver (outbound), or received (inbound). */
  readonly bytesDone: number
  readonly bytesSent: number | null
  readonly attempts: number | null
  readonly errorCode: string | null
  readonly error: string | null
  readonly nextAttemptAt: Date | null
  readonly expiresAt: Date
  readonly createdAt: Date
  readonly updatedAt: Date
}

export interface TransferStep {
  readonly at: Date
  readonly step: string
  readonly detail: unknown
}

export interface ReceiptInfo {
  /** `issued` by us, or `received` from the peer. */
  readonly direction: 'issued' | 'received'
  readonly kind: string
  readonly sha256: string
  readonly createdAt: Date
  /** The signed statement, for reading; what was signed is the envelope. */
  readonly statement: unknown
}

export interface TransferDetail extends TransferSummary {
  readonly steps: readonly TransferStep[]
  readonly receipts: readonly ReceiptInfo[]
  readonly refusals: unknown
  /** Outbound, on to an archive: the first instances that it did not take, or not commit to. */
  readonly problems: readonly InstanceProblem[]
}

/** Why one instance is not in the archive. */
export interface InstanceProblem {
  readonly sopInstanceUid: string
  /** `STATUS_A700`, `NOT_ACCEPTED`, `NOT_COMMITTED_0112`, or an error code. */
  readonly problem: string
}

export interface TransferFilter {
  readonly direction?: Direction
  readonly states?: readonly string[]
  readonly peer?: string
  readonly studyInstanceUid?: string
}

/** A page, newest first; `next` is the cursor of the page after it. */
export interface TransferPage {
  readonly transfers: readonly TransferSummary[]
  readonly next: string | undefined
}

/** The most instances that are named one by one. */
const mostProblems = 1_000

interface ListRow extends Omit<TransferSummary, 'peer'> {
  readonly peerId: string | null
  readonly peerName: string | null
  readonly place: string
  readonly refusals?: unknown
}

const place = sql`to_char(t.created_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`

const outbound = sql`
  select t.id::text, 'outbound' as direction, t.state, t.peer::text as "peerId", p.name as "peerName", t.destination,
         t.modality, t.endpoint, case when t.state = 'archived' then 'archive' when t.modality is not null then 'gateway' end as "safeIn",
         t.study_instance_uid as "studyInstanceUid", t.purpose, t.priority, t.rule, t.policy_version as "policyVersion",
         t.profile, t.trigger, t.requested_by as "requestedBy", t.manifest_id as "manifestId",
         t.object_count as "objectCount", t.bytes_total as "bytesTotal", t.bytes_acknowledged as "bytesDone",
         t.bytes_sent as "bytesSent", t.attempts, t.error_code as "errorCode", t.error,
         t.next_attempt_at as "nextAttemptAt", t.expires_at as "expiresAt", t.created_at as "createdAt",
         t.updated_at as "updatedAt", ${place} as place, '[]'::jsonb as refusals
    from transfers t left join peers p on p.id = t.peer`

const inbound = sql`
  select t.id::text, 'inbound', t.state, t.peer::text, p.name, null, null, null,
         case when exists (select from receipts r where r.transfer = t.id and r.direction = 'issued' and r.kind = 'archived')
              then 'archive' when t.state = 'imported' then 'gateway' end, null, t.purpose, null, null, null::integer,
         null, null, null, t.manifest_id, t.object_count, t.bytes_total, t.bytes_received, null::bigint,
         null::integer, t.error_code, t.error, null::timestamptz, t.expires_at, t.created_at, t.updated_at,
         ${place}, t.refusals
    from inbound_transfers t join peers p on p.id = t.peer`

/**
 * One page of transfers.
 *
 * @throws GatewayError BAD_REQUEST for a cursor that is not one of ours
 */
export async function listTransfers(
  db: Db,
  filter: TransferFilter,
  page: { readonly cursor?: string; readonly limit: number },
): Promise<TransferPage> {
  const after = page.cursor === undefined ? undefined : readCursor(page.cursor)
  const where = (direction: Direction) => {
    const parts = [sql`${filter.direction === undefined || filter.direction === direction}::boolean`]
    if (filter.states?.length) parts.push(sql`t.state = any(${filter.states}::text[])`)
    if (filter.peer !== undefined) parts.push(sql`t.peer::text = ${filter.peer}`)
    if (filter.studyInstanceUid !== undefined) {
      parts.push(direction === 'outbound' ? sql`t.study_instance_uid = ${filter.studyInstanceUid}` : sql`false`)
    }
    if (after) parts.push(sql`(t.created_at, t.id) < (${after.at}::timestamptz, ${after.id}::uuid)`)
    return sql.join(parts, sql` and `)
  }
  const order = sql`order by t.created_at desc, t.id desc limit ${page.limit + 1}`
  const { rows } = await sql<ListRow>`
    select * from (
      (${outbound} where ${where('outbound')} ${order})
      union all
      (${inbound} where ${where('inbound')} ${order})
    ) as listed
    order by place desc, id desc limit ${page.limit + 1}
  `.execute(db.kysely)
  const shown = rows.slice(0, page.limit)
  const last = shown.at(-1)
  const next = rows.length > shown.length && last ? `${last.place}_${last.id}` : undefined
  return { transfers: shown.map(summary), next }
}

/** @throws GatewayError NOT_FOUND */
export async function loadTransfer(db: Db, id: string): Promise<TransferDetail> {
  const { rows } = await sql<ListRow>`
    (${outbound} where t.id = ${id}::uuid) union all (${inbound} where t.id = ${id}::uuid)
  `.execute(db.kysely)
  const row = rows[0]
  if (!row) throw new GatewayError('NOT_FOUND', 'no such transfer')
  const steps = await db.kysely
    .selectFrom('transfer_steps')
    .select(['at', 'step', 'detail'])
    .where('transfer', '=', id)
    .orderBy('id')
    .execute()
  const problems = await db.kysely
    .selectFrom('transfer_items')
    .select(['sop_instance_uid as sopInstanceUid', 'problem'])
    .where('transfer', '=', id)
    .where('problem', 'is not', null)
    .orderBy('ordinal')
    .limit(mostProblems)
    .execute()
  const receipts = await db.kysely
    .selectFrom('receipts')
    .select(['direction', 'kind', 'sha256', 'created_at', 'envelope'])
    .where('transfer', '=', id)
    .orderBy('id')
    .execute()
  return {
    ...summary(row),
    refusals: row.refusals ?? [],
    problems: problems.map(({ sopInstanceUid, problem }) => ({ sopInstanceUid, problem: problem ?? '' })),
    steps,
    receipts: receipts.map(({ direction, kind, sha256, created_at, envelope }) => ({
      direction: direction === 'issued' ? 'issued' : 'received',
      kind,
      sha256: sha256.toString('hex'),
      createdAt: created_at,
      statement: statementOf(envelope),
    })),
  }
}

/** The exact signed envelope of a receipt. @throws GatewayError NOT_FOUND */
export async function loadReceipt(db: Db, id: string, kind: string): Promise<Buffer> {
  const row = await db.kysely
    .selectFrom('receipts')
    .select('envelope')
    .where('transfer', '=', id)
    .where('kind', '=', kind)
    .orderBy('id')
    .executeTakeFirst()
  if (!row) throw new GatewayError('NOT_FOUND', 'no such receipt')
  return row.envelope
}

/** How many transfers stand in each state. */
export async function countTransfers(db: Db): Promise<{ direction: Direction; state: string; count: number }[]> {
  const { rows } = await sql<{ direction: Direction; state: string; count: number }>`
    select 'outbound' as direction, state, count(*) as count from transfers group by state
    union all
    select 'inbound', state, count(*) from inbound_transfers group by state
    order by 1, 2
  `.execute(db.kysely)
  return rows
}

/** How many studies are on their way to an archive that has not committed to them: they are safe here only. */
export async function countUnarchived(db: Db): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    select count(distinct study_instance_uid)::integer as count from transfers
     where modality is not null and state in ('planned', 'sent', 'delivered', 'held', 'expired')`.execute(db.kysely)
  return rows[0]?.count ?? 0
}

function summary(row: ListRow): TransferSummary {
  const { peerId, peerName, place: _, refusals: __, ...rest } = row
  return { ...rest, peer: peerId === null ? null : { id: peerId, name: peerName ?? '' } }
}

function readCursor(cursor: string): { at: string; id: string } {
  const match = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)_([0-9a-f-]{36})$/.exec(cursor)
  if (!match?.[1] || !match[2]) throw new GatewayError('BAD_REQUEST', 'expected a cursor of an earlier page')
  return { at: match[1], id: match[2] }
}

/** The payload of a DSSE envelope, where it is readable. */
function statementOf(envelope: Buffer): unknown {
  try {
    const parsed: unknown = JSON.parse(envelope.toString('utf8'))
    const payload = isObject(parsed) ? parsed['payload'] : undefined
    return typeof payload === 'string' ? JSON.parse(Buffer.from(payload, 'base64').toString('utf8')) : null
  } catch {
    return null
  }
}
