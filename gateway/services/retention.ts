/**
 * How long studies are kept, by where they came from and what for. Without a rule a study is kept for good. Nothing goes
 * that a transfer still has to send, that waits for a decision, that is protected or under a legal hold, or, unless the
 * rule says otherwise, that an archive has not committed to.
 */
import { type RawBuilder, sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { eventTypes, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import { decode, describe, integer, list, object, oneOf, optional, text } from '../decode.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { Log } from '../log.ts'
import { onBehalfOf, type Principal } from '../principal.ts'
import type { Removal } from './removal.ts'

const rules = list(
  object({
    /** Stands in the audit log as the one who deleted. */
    name: text({ min: 1, max: 64, pattern: /^[\w.-]+$/, expected: 'a name of letters, digits, ".", "_" and "-"' }),
    /** How the study came; any way when absent. */
    origin: optional(oneOf('dimse', 'rest', 'peer', 'endpoint', 'cli')),
    /** What for: the purpose of the transfer that brought it, `manual` or `prefetch`; any when absent. */
    purpose: optional(text({ min: 1, max: 64 })),
    /** Days after the last change of the study. */
    days: integer({ min: 1, max: 36_500 }),
    /** `archived`: only when an archive has committed to every instance; `nothing`: in any case. */
    needs: optional(oneOf('archived', 'nothing'), 'archived'),
  }),
  { max: 100 },
)

/** The rules in force; the first that fits a study decides. */
export interface RetentionRules {
  readonly version: number
  readonly rules: readonly RetentionRule[]
}

export interface RetentionRule {
  readonly name: string
  readonly origin?: string | undefined
  readonly purpose?: string | undefined
  readonly days: number
  readonly needs?: string | undefined
}

/** What the rules will make of the disk, if things go on as in the last week. */
export interface RetentionForecast {
  readonly freeBytes: number
  /** Received per day, mean of the last seven days. */
  readonly arrivingBytesPerDay: number
  /** Studies and bytes that may go now, within 7 and within 30 days. */
  readonly due: readonly { readonly withinDays: number; readonly studies: number; readonly sizeBytes: number }[]
  /** Null when more goes than comes. */
  readonly daysUntilFull: number | null
}

export interface Retention {
  load(principal: Principal): Promise<RetentionRules>
  /** Replaces the rules. @throws GatewayError BAD_REQUEST */
  put(principal: Principal, raw: unknown): Promise<RetentionRules>
  forecast(principal: Principal): Promise<RetentionForecast>
  /** Deletes what the rules let go; each study is an audit event by `retention:<rule>`. Returns how many studies went. */
  apply(signal: AbortSignal): Promise<number>
}

const setting = 'retention'
const pageRows = 50

export function openRetention(options: {
  readonly db: Db
  readonly removal: Removal
  readonly freeBytes: () => Promise<number>
  readonly log: Log
}): Retention {
  const { db, removal, freeBytes } = options
  const log = options.log.child({ part: 'retention' })

  const load = async (executor: Tx | Db['kysely']): Promise<RetentionRules> => {
    const row = await executor
      .selectFrom('settings')
      .select(['value', 'version'])
      .where('name', '=', setting)
      .executeTakeFirst()
    const decoded = decode(rules, row?.value ?? [])
    if (!decoded.ok) log.error({ setting }, 'the stored rules are damaged, nothing is deleted by them')
    return { version: row?.version ?? 0, rules: decoded.ok ? decoded.value : [] }
  }

  return {
    async load(principal) {
      authorize(principal, 'retention.read')
      return await load(db.kysely)
    },

    async put(principal, raw) {
      authorize(principal, 'retention.manage')
      const decoded = decode(rules, raw)
      if (!decoded.ok) throw new GatewayError('BAD_REQUEST', describe(decoded.problems))
      return await db.inTransaction(async tx => {
        await sql`
          insert into settings (name, value) values (${setting}, ${JSON.stringify(decoded.value)}::jsonb)
          on conflict (name) do update set value = excluded.value, version = settings.version + 1, updated_at = now()
        `.execute(tx)
        await appendAudit(
          tx,
          securityAlert({
            type: eventTypes.securityConfiguration,
            participants: [{ userId: principal.id, requestor: true }],
            objects: [{ kind: 'setting', name: setting }],
            reason: 'retention-rules-changed',
          }),
        )
        return await load(tx)
      })
    },

    async forecast(principal) {
      authorize(principal, 'retention.read')
      const { rules: known } = await load(db.kysely)
      const due = []
      for (const withinDays of [0, 7, 30]) {
        const { rows } = await sql<{ studies: number; sizeBytes: number }>`
          select count(*)::integer as studies, coalesce(sum(size_bytes), 0)::bigint as "sizeBytes"
            from (${expired(known, { withinDays })}) e
        `.execute(db.kysely)
        due.push({ withinDays, studies: rows[0]?.studies ?? 0, sizeBytes: rows[0]?.sizeBytes ?? 0 })
      }
      const { rows } = await sql<{ sizeBytes: number }>`
        select (coalesce(sum(size_bytes), 0) / 7)::bigint as "sizeBytes" from instances
         where created_at > now() - interval '7 days'
      `.execute(db.kysely)
      const arrivingBytesPerDay = rows[0]?.sizeBytes ?? 0
      const growth = arrivingBytesPerDay - (due.at(-1)?.sizeBytes ?? 0) / 30
      const free = await freeBytes()
      return { freeBytes: free, arrivingBytesPerDay, due, daysUntilFull: growth > 0 ? Math.floor(free / growth) : null }
    },

    async apply(signal) {
      const { rules: known } = await load(db.kysely)
      let removed = 0
      if (known.length === 0) return removed
      for (let after = 0; ; ) {
        const { rows } = await sql<ExpiredStudy>`
          ${expired(known, { after })} order by s.id limit ${pageRows}
        `.execute(db.kysely)
        for (const { id, orthancId, rule } of rows) {
          signal.throwIfAborted()
          after = id
          // Asked again below the locks: something may have arrived since.
          const still = async (tx: Tx): Promise<boolean> =>
            (await sql`${expired(known, { only: id })}`.execute(tx)).rows.length > 0
          try {
            const gone = await removal.remove(onBehalfOf(`retention:${rule}`), 'study', orthancId, 'retention', still)
            if (gone.resources.length > 0) removed++
          } catch (error) {
            if (!isGatewayError(error, 'STATE_CONFLICT')) throw error
          }
        }
        if (rows.length < pageRows) break
      }
      if (removed > 0) log.info({ studies: removed }, 'deleted studies whose time is over')
      return removed
    },
  }
}

interface ExpiredStudy {
  readonly id: number
  readonly orthancId: string
  readonly sizeBytes: number
  readonly rule: string
}

/** Studies that may go: now, or, `withinDays` given, then. */
function expired(
  known: readonly RetentionRule[],
  { after = 0, only, withinDays = 0 }: { after?: number; only?: number; withinDays?: number },
): RawBuilder<ExpiredStudy> {
  const placed = JSON.stringify(known.map((rule, place) => ({ ...rule, place })))
  return sql<ExpiredStudy>`
    select s.id, s.orthanc_id as "orthancId", s.size_bytes, s.size_bytes as "sizeBytes", r.name as rule
      from studies s
      join patients p on p.id = s.patient
      left join inbound_transfers n on n.id::text = s.origin ->> 'transferId'
      join lateral (
        select rule.* from jsonb_to_recordset(${placed}::jsonb)
            as rule(place integer, name text, origin text, purpose text, days integer, needs text)
         where (rule.origin is null or rule.origin = s.origin ->> 'kind')
           and (rule.purpose is null or rule.purpose = coalesce(n.purpose, s.origin ->> 'purpose'))
         order by rule.place limit 1
      ) r on s.updated_at < now() - make_interval(days => r.days - ${withinDays}::integer)
     where s.id > ${after} and (${only ?? null}::bigint is null or s.id = ${only ?? null}::bigint)
       and s.due_at is null and not p.is_protected
       and not exists (select from legal_holds h where h.released_at is null
         and ((h.issuer = p.issuer and h.patient_id = p.patient_id) or h.study_instance_uid = s.study_instance_uid))
       and not exists (select from transfers t where t.study = s.id
         and t.state in ('planned', 'prepared', 'signed', 'sent', 'held'))
       and not exists (select from conflicts k join instances i on i.id = k.instance join series c on c.id = i.series
         where c.study = s.id and k.state = 'held')
       and (r.needs = 'nothing' or not exists (
         select from series c join instances i on i.series = c.id
          where c.study = s.id and not exists (
            select from transfer_items m join transfers t on t.id = m.transfer
             where t.study = s.id and m.sop_instance_uid = i.sop_instance_uid and m.file_sha256 = i.file_sha256
               and m.archived_at is not null)))`
}
