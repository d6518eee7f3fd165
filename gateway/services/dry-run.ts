/**
 * What a policy would do: a document is run against the studies of the last days, next to the active version, and nothing
 * is sent. It decides by the same functions as routing, a few hundred studies at a time, so that ten thousand take minutes
 * and a restart goes on where it was.
 */
import { createHash, randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { canonicalJson, decodePolicy, type PolicyDocument } from '../../policy/document.ts'
import { loadActivePolicy, loadPolicy } from '../../policy/versions.ts'
import { eventTypes, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import type { DryRunOutcome, DryRunState, Row } from '../db/schema.ts'
import { isObject } from '../decode.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Principal } from '../principal.ts'
import { compareBatch, type Judged } from './dry-run-batch.ts'
import type { Policies, PolicyName } from './policies.ts'
import type { FindArchive } from './route-target.ts'

/** How many pairs of study and destination come out how. `gained` and `lost`: would go, and does not now; or the reverse. */
export type DryRunCounts = Readonly<Record<DryRunOutcome | 'gained' | 'lost', number>>

export interface DryRun {
  readonly id: string
  readonly state: DryRunState
  readonly days: number
  /** The version it is compared with. */
  readonly baseline: number | undefined
  readonly requestedBy: string
  readonly studies: number
  readonly studiesDone: number
  readonly counts: DryRunCounts
  readonly error: string | undefined
  readonly createdAt: Date
  readonly updatedAt: Date
}

export interface DryRunResult extends Judged {
  readonly study: number
  readonly studyInstanceUid: string
}

/** Which results are wanted. */
export interface ResultFilter {
  readonly outcome?: DryRunOutcome
  readonly change?: 'gained' | 'lost'
}

export interface DryRuns {
  /** @throws GatewayError POLICY_INVALID, NOT_FOUND, TOO_MANY_REQUESTS while others wait */
  start(principal: Principal, wish: { what: { raw: unknown } | { name: PolicyName }; days: number }): Promise<DryRun>
  /** @throws GatewayError NOT_FOUND */
  load(principal: Principal, id: string): Promise<DryRun>
  list(principal: Principal, limit: number): Promise<readonly DryRun[]>
  /** A page, in the order of studies; `next` is the cursor of the one after it. @throws GatewayError NOT_FOUND, BAD_REQUEST */
  results(
    principal: Principal,
    id: string,
    page: ResultFilter & { limit: number; cursor?: string },
  ): Promise<{ readonly results: readonly DryRunResult[]; readonly next: string | undefined }>
  /** @throws GatewayError NOT_FOUND, STATE_CONFLICT when it has ended */
  cancel(principal: Principal, id: string): Promise<DryRun>
  /** The job `dry-run`. */
  run(id: string, signal: AbortSignal): Promise<void>
}

const studiesPerBatch = 500
const mostWaiting = 5
/** Older ones go when a new one begins. */
const mostKept = 50
const dayMs = 86_400_000

/** Opens the service. */
export function openDryRuns(options: {
  db: Db
  queue: Pick<Queue, 'enqueue'>
  policies: Pick<Policies, 'documentOf'>
  findArchive: FindArchive
}): DryRuns {
  const { db, queue, policies, findArchive } = options

  const find = async (id: string): Promise<Row<'dry_runs'>> => {
    const row = await db.kysely.selectFrom('dry_runs').selectAll().where('id', '=', id).executeTakeFirst()
    return row ?? notFound()
  }

  return {
    async start(principal, { what, days }) {
      authorize(principal, 'policy.dry-run')
      const document = 'raw' in what ? decodePolicy(what.raw) : await policies.documentOf(principal, what.name)
      const id = randomUUID()
      const until = new Date()
      const since = new Date(until.getTime() - days * dayMs)
      await db.inTransaction(async tx => {
        const { rows } = await sql<{ waiting: number }>`
          select count(*)::int as waiting from dry_runs where state in ('waiting', 'running')`.execute(tx)
        if ((rows[0]?.waiting ?? 0) >= mostWaiting)
          throw new GatewayError(
            'TOO_MANY_REQUESTS',
            `${mostWaiting} dry runs are waiting already: cancel one, or wait`,
          )
        await sql`
          delete from dry_runs where state in ('done', 'cancelled', 'failed') and id not in (
            select id from dry_runs order by created_at desc, id limit ${mostKept - 1})`.execute(tx)
        const active = await loadActivePolicy(tx)
        const found = await sql<{ count: number }>`
          select count(*)::int as count from studies where created_at between ${since} and ${until}`.execute(tx)
        const row = {
          id,
          document: canonicalJson(document),
          draft: null,
          baseline: active?.version ?? null,
          days,
          since,
          until,
        }
        await tx
          .insertInto('dry_runs')
          .values({ ...row, at: until, requested_by: principal.id, studies: found.rows[0]?.count ?? 0, error: null })
          .execute()
        await queue.enqueue(tx, 'dry-run', { run: id }, { singletonKey: id })
        await appendAudit(
          tx,
          securityAlert({
            type: eventTypes.accessControlDecision,
            participants: [{ userId: principal.id, requestor: true }],
            objects: active ? [{ kind: 'policy', version: active.version, sha256: active.sha256 }] : [],
            reason: 'policy-dry-run',
            detail: { run: id, days, documentSha256: createHash('sha256').update(row.document).digest('hex') },
          }),
        )
      })
      return toRun(await find(id))
    },
    async load(principal, id) {
      authorize(principal, 'policy.dry-run')
      return toRun(await find(id))
    },
    async list(principal, limit) {
      authorize(principal, 'policy.dry-run')
      const query = db.kysely.selectFrom('dry_runs').selectAll().orderBy('created_at', 'desc').orderBy('id')
      return (await query.limit(limit).execute()).map(toRun)
    },
    async results(principal, id, { outcome, change, limit, cursor }) {
      authorize(principal, 'policy.dry-run')
      await find(id)
      const after = cursor === undefined ? undefined : readCursor(cursor)
      const rows = await db.kysely
        .selectFrom('dry_run_results')
        .selectAll()
        .where('run', '=', id)
        .$if(outcome !== undefined, query => query.where('outcome', '=', outcome ?? 'none'))
        .$if(change === 'gained', query => query.where('outcome', '=', 'go').where('before', '<>', 'go'))
        .$if(change === 'lost', query => query.where('outcome', '<>', 'go').where('before', '=', 'go'))
        .$if(after !== undefined, query =>
          query.where(
            sql<boolean>`(study, origin, destination) > (${after?.study ?? 0}, ${after?.origin ?? ''}, ${after?.destination ?? ''})`,
          ),
        )
        .orderBy('study')
        .orderBy('origin')
        .orderBy('destination')
        .limit(limit + 1)
        .execute()
      const page = rows.slice(0, limit)
      const last = page.at(-1)
      return {
        results: page.map(toResult),
        next: rows.length > limit && last ? writeCursor(last) : undefined,
      }
    },
    async cancel(principal, id) {
      authorize(principal, 'policy.dry-run')
      const { numUpdatedRows } = await db.kysely
        .updateTable('dry_runs')
        .set({ state: 'cancelled', updated_at: sql<Date>`now()` })
        .where('id', '=', id)
        .where('state', 'in', ['waiting', 'running'])
        .executeTakeFirst()
      const row = await find(id)
      if (numUpdatedRows === 0n) throw new GatewayError('STATE_CONFLICT', `the dry run is ${row.state}`)
      return toRun(row)
    },
    async run(id, signal) {
      const row = await db.kysely.selectFrom('dry_runs').selectAll().where('id', '=', id).executeTakeFirst()
      if (!row || (row.state !== 'waiting' && row.state !== 'running')) return
      try {
        const draft = decodePolicy(row.document)
        const baseline = row.baseline === null ? undefined : (await loadPolicy(db.kysely, row.baseline))?.document
        while (await batch(id, { draft, baseline })) signal.throwIfAborted()
      } catch (error) {
        // What no repetition helps ends it; the rest is tried again by the queue.
        if (!isGatewayError(error) || error.meaning.retry === 'yes') throw error
        await db.kysely
          .updateTable('dry_runs')
          .set({ state: 'failed', error: error.message, updated_at: sql<Date>`now()` })
          .where('id', '=', id)
          .where('state', 'in', ['waiting', 'running'])
          .execute()
      }
    },
  }

  /** The next studies; false when there are none, or the run was cancelled. All of it is one transaction, or nothing. */
  async function batch(
    id: string,
    documents: { draft: PolicyDocument; baseline: PolicyDocument | undefined },
  ): Promise<boolean> {
    return await db.inTransaction(async tx => {
      const row = await tx.selectFrom('dry_runs').selectAll().where('id', '=', id).forUpdate().executeTakeFirst()
      if (!row || (row.state !== 'waiting' && row.state !== 'running')) return false
      const { rows } = await sql<{ id: number }>`
        select id from studies where id > ${row.last_study} and created_at between ${row.since} and ${row.until}
         order by id limit ${studiesPerBatch}`.execute(tx)
      const studies = rows.map(study => study.id)
      const results = await compareBatch(tx, { ...documents, studies, at: row.at, findArchive })
      await sql`
        insert into dry_run_results
               (run, study, study_instance_uid, origin, destination, outcome, rule, reason, purpose, profile, before, before_rule)
        select ${id}::uuid, r.study, r."studyInstanceUid", r.origin, r.destination, r.outcome, r.rule, r.reason, r.purpose,
               r.profile, r.before, r."beforeRule"
          from jsonb_to_recordset(${JSON.stringify(results)}::jsonb) as r (study bigint, "studyInstanceUid" text, origin text,
               destination text, outcome text, rule text, reason text, purpose text, profile text, before text,
               "beforeRule" text)`.execute(tx)
      const isDone = studies.length < studiesPerBatch
      await tx
        .updateTable('dry_runs')
        .set({
          state: isDone ? 'done' : 'running',
          last_study: studies.at(-1) ?? row.last_study,
          studies_done: row.studies_done + studies.length,
          counts: JSON.stringify(count(readCounts(row.counts), results)),
          updated_at: sql<Date>`now()`,
        })
        .where('id', '=', id)
        .execute()
      return !isDone
    })
  }
}

const countNames = ['go', 'held', 'denied', 'none', 'gained', 'lost'] as const

function readCounts(raw: unknown): DryRunCounts {
  const value = (name: string): number => {
    const found = isObject(raw) ? raw[name] : undefined
    return typeof found === 'number' ? found : 0
  }
  const [go, held, denied, none, gained, lost] = countNames.map(value)
  return { go: go ?? 0, held: held ?? 0, denied: denied ?? 0, none: none ?? 0, gained: gained ?? 0, lost: lost ?? 0 }
}

function count(before: DryRunCounts, results: readonly Judged[]): DryRunCounts {
  const counts = { ...before }
  for (const { outcome, before: now } of results) {
    counts[outcome]++
    if (outcome === 'go' && now !== 'go') counts.gained++
    if (outcome !== 'go' && now === 'go') counts.lost++
  }
  return counts
}

interface Cursor {
  readonly study: number
  readonly origin: string
  readonly destination: string
}

const writeCursor = ({ study, origin, destination }: Cursor): string =>
  Buffer.from(JSON.stringify([study, origin, destination])).toString('base64url')

/** @throws GatewayError BAD_REQUEST */
function readCursor(text: string): Cursor {
  try {
    const parsed: unknown = JSON.parse(Buffer.from(text, 'base64url').toString())
    const [study, origin, destination] = Array.isArray(parsed) ? parsed : []
    if (Number.isSafeInteger(study) && typeof origin === 'string' && typeof destination === 'string')
      return { study: Number(study), origin, destination }
  } catch {
    // What is no JSON is no cursor of ours either.
  }
  throw new GatewayError('BAD_REQUEST', 'cursor: expected `next` of the page before')
}

function notFound(): never {
  throw new GatewayError('NOT_FOUND', 'no such dry run')
}

const toRun = (row: Row<'dry_runs'>): DryRun => ({
  id: row.id,
  state: row.state,
  days: row.days,
  baseline: row.baseline ?? undefined,
  requestedBy: row.requested_by,
  studies: row.studies,
  studiesDone: row.studies_done,
  counts: readCounts(row.counts),
  error: row.error ?? undefined,
  createdAt: row.created_at,
  updatedAt: row.updated_at,
})

const toResult = (row: Row<'dry_run_results'>): DryRunResult => ({
  study: row.study,
  studyInstanceUid: row.study_instance_uid,
  origin: row.origin,
  destination: row.destination,
  outcome: row.outcome,
  rule: row.rule,
  reason: row.reason,
  purpose: row.purpose,
  profile: row.profile,
  before: row.before,
  beforeRule: row.before_rule,
})
