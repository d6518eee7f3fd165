/**
 * Named points at which a running gateway stands still, so that it can be killed exactly there. Its
 * own PostgreSQL holds it, by a trigger that a superuser makes: the gateway has no code for this.
 */
import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import type { AdminClient, ProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'

/** A statement of the gateway: rows of `table` that come to fulfil `when` (SQL over `new`). */
export interface Point {
  readonly table: string
  readonly when?: string
}

export interface Hold {
  /** Waits until the gateway stands there. */
  reached(): Promise<void>
  /** The row that the gateway was about to write when it first stood there; only of `holdBefore`. */
  row(): Promise<Record<string, unknown>>
  /** Lets go. What an uncommitted transaction of a dead gateway still waits for is rolled back. */
  release(options?: { rollBack: boolean }): Promise<void>
}

const lock = 4711
const reachDeadlineMs = 120_000

/** Holds the gateway before it writes such a row: its transaction is open, nothing of it is committed. */
export async function holdBefore(gateway: ProcessGateway, point: Point): Promise<Hold> {
  const admin = await openAdmin(gateway)
  const mark = `crash_point_${randomBytes(4).toString('hex')} `
  await admin.query(`select pg_advisory_lock(${lock})`)
  await makeTrigger(admin, point, `raise log '${mark}%', to_jsonb(new); perform pg_advisory_xact_lock_shared(${lock});`)
  const waiting = `select pid from pg_locks where locktype = 'advisory' and objid = ${lock} and not granted`
  return {
    reached: () => untilAny(gateway, admin, waiting, point),
    async row() {
      const { logFile } = await gateway.cluster()
      const line = (await readFile(logFile, 'utf8')).split('\n').find(each => each.includes(mark)) ?? mark
      return JSON.parse(line.slice(line.indexOf(mark) + mark.length))
    },
    async release({ rollBack } = { rollBack: true }) {
      if (rollBack) await admin.query(`select pg_terminate_backend(pid, 10000) from (${waiting}) as held`)
      await admin.query(`select pg_advisory_unlock(${lock})`)
      await dropTrigger(admin, point)
      await admin.end()
    },
  }
}

/**
 * Holds the gateway after its transaction with such a row is committed and durable, before it is told:
 * the commit waits for a standby server that there is not.
 */
export async function holdAfterCommit(gateway: ProcessGateway, point: Point): Promise<Hold> {
  const admin = await openAdmin(gateway)
  // Only transactions with the row wait for it, all others as ever.
  await makeTrigger(admin, point, `perform set_config('synchronous_commit', 'on', true);`)
  await configure(admin, ["synchronous_commit = 'local'", "synchronous_standby_names = 'nobody'"])
  const waiting = `select pid from pg_stat_activity where wait_event = 'SyncRep'`
  return {
    reached: () => untilAny(gateway, admin, waiting, point),
    row: () => Promise.reject(new Error('only of holdBefore')),
    async release() {
      await configure(admin, ['synchronous_commit', 'synchronous_standby_names'])
      await until('the held commits are through', 30_000, async () => (await admin.query(waiting)).rows.length === 0)
      await dropTrigger(admin, point)
      await admin.end()
    },
  }
}

async function openAdmin(gateway: ProcessGateway): Promise<AdminClient> {
  const admin = await gateway.admin()
  await admin.query('set synchronous_commit = local')
  return admin
}

async function makeTrigger(admin: AdminClient, { table, when }: Point, body: string): Promise<void> {
  await admin.query(`
    create or replace function crash_point() returns trigger language plpgsql as $$ begin ${body} return new; end $$`)
  const condition = when === undefined ? '' : `when (${when})`
  await admin.query(`
    create trigger crash_point before insert or update on ${table}
       for each row ${condition} execute function crash_point()`)
}

async function dropTrigger(admin: AdminClient, { table }: Point): Promise<void> {
  await admin.query(`drop trigger crash_point on ${table}`)
  await admin.query('drop function crash_point()')
}

/** Sets (`name = value`) or resets (`name`) settings of the running server. */
async function configure(admin: AdminClient, settings: readonly string[]): Promise<void> {
  for (const setting of settings) {
    await admin.query(`alter system ${setting.includes('=') ? 'set' : 'reset'} ${setting}`)
  }
  const { rows } = await admin.query('select pg_conf_load_time() as before, pg_reload_conf()')
  await until('the server has read its settings', 30_000, async () => {
    const { rows: now } = await admin.query('select pg_conf_load_time() > $1 as loaded', [rows[0]?.before])
    return now[0]?.loaded === true
  })
}

async function untilAny(gateway: ProcessGateway, admin: AdminClient, query: string, point: Point): Promise<void> {
  const place = `${gateway.site} stands at ${point.table} ${point.when ?? ''}`
  await until(place, reachDeadlineMs, async () => (await admin.query(query)).rows.length > 0).catch(error => {
    throw new Error(`${String(error)}: ${gateway.output().slice(-2000)}`)
  })
}
