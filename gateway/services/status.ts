/** How the gateway is: for the API, `hanse status`, monitoring systems and metrics. */
import { sql } from 'kysely'
import type { Db } from '../db/db.ts'
import { isGatewayError } from '../errors.ts'
import type { FreeSpaceState } from '../store/free-space.ts'
import { loadCounts, type StoreCounts } from '../store/query.ts'
import { countTransfers, countUnarchived, type Direction } from './transfer-list.ts'

/** Something that needs a person, or that stops part of the work. */
export interface StatusProblem {
  /** Stable, for monitoring rules. */
  readonly code:
    | 'DATABASE_UNAVAILABLE'
    | 'STORAGE_LOW'
    | 'QUEUE_DISCONNECTED'
    | 'AUDIT_BEHIND'
    | 'TRANSFERS_HELD'
    | 'TRANSFERS_REFUSED'
    | 'IDENTITY_CHANGED'
    | 'NOT_READY'
  readonly message: string
}

export interface GatewayStatus {
  readonly site: { readonly name: string; readonly siteId: string; readonly aeTitle: string }
  readonly version: string
  readonly startedAt: Date
  readonly ready: boolean
  readonly listeners: { readonly http: string; readonly dicom: string; readonly federation: string }
  readonly counts: StoreCounts | null
  readonly storage: FreeSpaceState | null
  readonly queue: { readonly connected: boolean; readonly running: number }
  readonly peers: { readonly pending: number; readonly active: number; readonly revoked: number } | null
  readonly transfers: readonly { readonly direction: Direction; readonly state: string; readonly count: number }[]
  /** The active version; without two persons one alone writes and publishes. */
  readonly policy: { readonly version: number | null; readonly twoPersons: boolean }
  readonly held: {
    readonly conflicts: number
    readonly quarantine: number
    /** Transfers whose patient or study changed after they were decided. */
    readonly identityChanged: number
  } | null
  /** Studies that go to an archive which has not committed to them: they are safe in the gateway only. */
  readonly archive: { readonly inGatewayOnly: number } | null
  readonly audit: { readonly events: number; readonly unsequenced: number } | null
  readonly problems: readonly StatusProblem[]
}

export interface StatusSources {
  readonly db: Db
  readonly site: GatewayStatus['site']
  readonly version: string
  /** It takes a second person to publish a policy. */
  readonly twoPersons: boolean
  readonly startedAt: Date
  readonly isReady: () => Promise<boolean>
  readonly listeners: () => GatewayStatus['listeners']
  readonly storage: () => Promise<FreeSpaceState>
  readonly queue: () => GatewayStatus['queue']
}

/** More unsequenced events than this, and the oldest older than this, is a problem. */
const auditBehindMs = 60_000

/** Collects the status; a lost database is a problem in it, not an error. */
export async function loadStatus(sources: StatusSources): Promise<GatewayStatus> {
  const [ready, storage, rows] = await Promise.all([
    sources.isReady(),
    sources.storage().catch(() => null),
    loadRows(sources.db).catch((error: unknown) => {
      if (isGatewayError(error, 'DATABASE_UNAVAILABLE')) return null
      throw error
    }),
  ])
  const queue = sources.queue()
  const status = {
    site: sources.site,
    version: sources.version,
    startedAt: sources.startedAt,
    ready,
    listeners: sources.listeners(),
    counts: rows?.counts ?? null,
    storage,
    queue,
    peers: rows?.peers ?? null,
    transfers: rows?.transfers ?? [],
    policy: { version: rows?.policyVersion ?? null, twoPersons: sources.twoPersons },
    held: rows?.held ?? null,
    archive: rows && { inGatewayOnly: rows.unarchived },
    audit: rows ? { events: rows.audit.events, unsequenced: rows.audit.unsequenced } : null,
  }
  return { ...status, problems: problemsOf(status, rows?.audit.oldestMs ?? 0) }
}

function problemsOf(status: Omit<GatewayStatus, 'problems'>, oldestUnsequencedMs: number): StatusProblem[] {
  const { storage, counts, queue, transfers, ready } = status
  const problems: StatusProblem[] = []
  if (!counts) problems.push({ code: 'DATABASE_UNAVAILABLE', message: 'the database does not answer' })
  if (storage?.refusing) {
    const message = `${storage.freeBytes} bytes are free, below the watermark: nothing is received until room is made`
    problems.push({ code: 'STORAGE_LOW', message })
  }
  if (!queue.connected) problems.push({ code: 'QUEUE_DISCONNECTED', message: 'the job queue has no database session' })
  if (oldestUnsequencedMs > auditBehindMs) {
    problems.push({ code: 'AUDIT_BEHIND', message: 'audit events wait for the sequencer for more than a minute' })
  }
  const count = (state: string): number =>
    transfers.filter(entry => entry.state === state).reduce((sum, entry) => sum + entry.count, 0)
  if (count('held') > 0)
    problems.push({ code: 'TRANSFERS_HELD', message: `${count('held')} transfers wait for a person` })
  if (count('refused') > 0) {
    problems.push({ code: 'TRANSFERS_REFUSED', message: `${count('refused')} transfers were refused` })
  }
  if ((status.held?.identityChanged ?? 0) > 0) {
    const message = `of ${status.held?.identityChanged} held transfers patient or study have changed: look before retrying`
    problems.push({ code: 'IDENTITY_CHANGED', message })
  }
  if (!ready && problems.length === 0)
    problems.push({ code: 'NOT_READY', message: 'a part of the gateway does not run' })
  return problems
}

interface Rows {
  readonly counts: StoreCounts
  readonly peers: { pending: number; active: number; revoked: number }
  readonly transfers: readonly { direction: Direction; state: string; count: number }[]
  readonly held: { conflicts: number; quarantine: number; identityChanged: number }
  readonly unarchived: number
  readonly policyVersion: number | null
  readonly audit: { events: number; unsequenced: number; oldestMs: number }
}

async function loadRows(db: Db): Promise<Rows> {
  const [counts, transfers, unarchived, { rows }] = await Promise.all([
    loadCounts(db),
    countTransfers(db),
    countUnarchived(db),
    sql<{
      pending: number
      active: number
      revoked: number
      conflicts: number
      quarantine: number
      identityChanged: number
      policyVersion: number | null
      sequenced: number
      unsequenced: number
      oldestMs: number
    }>`
      select (select count(*) from peers where state = 'pending') as pending,
             (select count(*) from peers where state = 'active') as active,
             (select count(*) from peers where state = 'revoked') as revoked,
             (select count(*) from conflicts where state = 'held') as conflicts,
             (select count(*) from quarantine where state = 'held') as quarantine,
             (select count(*) from transfers where state = 'held' and error_code = 'IDENTITY_CHANGED') as "identityChanged",
             (select version from policy_active) as "policyVersion",
             (select size from audit_tree) as sequenced,
             late.unsequenced, late."oldestMs"
        from (select count(*) as unsequenced,
                     coalesce(extract(epoch from now() - min(e.at)) * 1000, 0)::bigint as "oldestMs"
                from audit_events e
               where e.id > coalesce((select event from audit_leaves order by leaf_index desc limit 1), 0)
                 and not exists (select 1 from audit_leaves l where l.event = e.id)) as late
    `.execute(db.kysely),
  ])
  const row = rows[0]
  if (!row) throw new Error('expected one row of counters')
  const {
    pending,
    active,
    revoked,
    conflicts,
    quarantine,
    identityChanged,
    policyVersion,
    sequenced,
    unsequenced,
    oldestMs,
  } = row
  return {
    counts,
    transfers,
    peers: { pending, active, revoked },
    held: { conflicts, quarantine, identityChanged },
    unarchived,
    policyVersion,
    audit: { events: sequenced + unsequenced, unsequenced, oldestMs },
  }
}
