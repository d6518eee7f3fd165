/** The gateway's PostgreSQL: one pool, typed by Kysely, with transactions that survive a restart of the server. */
import { setTimeout as delay } from 'node:timers/promises'
import { Kysely, PostgresDialect, type PostgresPoolClient, type RawBuilder, sql, type Transaction } from 'kysely'
import pg from 'pg'
import { GatewayError } from '../errors.ts'
import type { Log } from '../log.ts'
import { databaseError, failureKind } from './failure.ts'
import { HeldFailure, runHeld } from './held-statement.ts'
import { oldestMajor } from './postgres-binaries.ts'
import type { Schema } from './schema.ts'

/** An open transaction: functions that write take it, so that the caller owns the unit of work. */
export type Tx = Transaction<Schema>

declare const removing: unique symbol

/** A transaction in which instances may go: those who remember rows of instances are told. */
export type RemovingTx = Tx & { readonly [removing]: true }

/** An open database. */
export interface Db {
  readonly kysely: Kysely<Schema>
  /** For statements outside Kysely (LISTEN, COPY). Errors come as `pg` throws them. */
  readonly pool: pg.Pool
  /** What `pool` was made with, for a connection with other limits. */
  readonly poolConfig: pg.PoolConfig
  /**
   * Runs `fn` in a transaction, again after a serialization failure, a deadlock, or a connection
   * lost before COMMIT was sent; so `fn` must have no effects but those on `tx`.
   *
   * @throws GatewayError DATABASE_UNAVAILABLE (context `outcome: 'unknown'` when COMMIT got no
   *   answer), STORAGE_FULL; other errors of `fn` and of constraints as they are
   */
  inTransaction<T>(fn: (tx: Tx) => Promise<T>): Promise<T>
  /** The same, for what takes instances away or puts other bytes in their place. */
  removing<T>(fn: (tx: RemovingTx) => Promise<T>): Promise<T>
  /**
   * Changes with each `removing`, undefined while one runs. A row of an instance that was read under one number is good
   * as long as it is the same.
   */
  readonly removals: number | undefined
  /**
   * Runs one statement, often used, as a transaction that is committed when `ready` resolves and
   * rolled back when it rejects. Tried once.
   *
   * @throws what `ready` rejects with; GatewayError DATABASE_UNAVAILABLE (context `outcome: 'unknown'` when the
   *   commit got no answer), STORAGE_FULL; errors of constraints as they are
   */
  commitWhen<R>(ready: Promise<unknown>, statement: RawBuilder<R>): Promise<readonly R[]>
  close(): Promise<void>
}

/** Where the database is: the private cluster's connection, or the URL of a server. */
export type DatabaseTarget =
  | { readonly connection: { host: string; port?: number; user: string; database: string; password?: string } }
  | { readonly url: string; readonly password?: string }

const defaultPatienceMs = 15_000
const reruns = 5
/** Statements that a connection keeps prepared. */
const mostStatements = 500

/**
 * Connects and checks the server.
 *
 * @param poolSize  connections at most (default 10)
 * @param statementTimeoutMs  per statement (default 60 s)
 * @param patienceMs  how long work waits for a server that is being restarted (default 15 s)
 * @throws GatewayError DATABASE_UNAVAILABLE, DATABASE_MAJOR (too old), CONFIG_INVALID (not UTF-8)
 */
export async function openDatabase(
  options: DatabaseTarget & { poolSize?: number; statementTimeoutMs?: number; patienceMs?: number; log: Log },
): Promise<Db> {
  const { log, patienceMs = defaultPatienceMs } = options
  const poolConfig = configurePool(options)
  const pool = openPool(poolConfig, error => log.debug({ reason: error.message }, 'database connection lost'))
  const kysely = new Kysely<Schema>({ dialect: new PostgresDialect({ pool: patientPool(pool, patienceMs) }) })
  try {
    await checkServer(kysely, log)
  } catch (error) {
    await pool.end()
    throw error
  }
  const held = new StatementNames('held', 1)
  let [removals, running] = [0, 0]
  return {
    get removals() {
      return running === 0 ? removals : undefined
    },
    async removing(fn) {
      running += 1
      removals += 1
      try {
        return await inTransaction(kysely, patienceMs, tx => fn(tx as RemovingTx))
      } finally {
        running -= 1
      }
    },
    kysely,
    pool,
    poolConfig,
    commitWhen: async <R>(ready: Promise<unknown>, statement: RawBuilder<R>) => {
      const { sql: text, parameters: values } = statement.compile(kysely)
      const name = held.nameOf(text)
      if (name === undefined) throw new RangeError('too many different statements are run in this way')
      const client = await connect(pool, patienceMs)
      try {
        const rows = await runHeld<R>(client, { name, text, values }, ready)
        client.release()
        return rows
      } catch (error) {
        client.release(
          error instanceof HeldFailure && (error.stage === 'waiting' || failureKind(error.cause) === 'lost'),
        )
        throw heldError(error)
      }
    },
    inTransaction: fn => inTransaction(kysely, patienceMs, fn),
    close: async () => {
      if (!pool.ending) await pool.end()
    },
  }
}

/** A pool whose connections may break (server restarted) without taking the process with them. */
export function openPool(config: pg.PoolConfig, onLost: (error: Error) => void): pg.Pool {
  const pool = new pg.Pool(config)
  pool.on('error', onLost) // an idle one, which the pool has dropped already
  pool.on('connect', client => client.on('error', onLost)) // one in use, whose query fails too
  return pool
}

function configurePool(options: DatabaseTarget & { poolSize?: number; statementTimeoutMs?: number }): pg.PoolConfig {
  return {
    ...('url' in options ? { connectionString: options.url } : options.connection),
    ...('url' in options && options.password !== undefined ? { password: options.password } : {}),
    application_name: `hanse ${process.pid}`,
    max: options.poolSize ?? 10,
    connectionTimeoutMillis: 30_000,
    idleTimeoutMillis: 60_000,
    keepAlive: true,
    statement_timeout: options.statementTimeoutMs ?? 60_000,
    lock_timeout: 30_000,
    idle_in_transaction_session_timeout: 60_000,
    types: { getTypeParser },
  }
}

/** Whole numbers as numbers, calendar dates as text; the rest as `pg` reads it. Set per pool, not globally. */
function getTypeParser(oid: number, format?: 'text' | 'binary'): (value: string) => unknown {
  if (format !== 'binary') {
    if (oid === pg.types.builtins.INT8) return readInt8
    if (oid === int8Array) return readInt8Array
    if (oid === pg.types.builtins.DATE) return String
  }
  return pg.types.getTypeParser(oid, format === 'binary' ? 'binary' : 'text')
}

const int8Array = 1016

function readInt8(value: string): number {
  const number = Number(value)
  if (!Number.isSafeInteger(number))
    throw new RangeError(`expected a whole number up to 2^53, got ${value} from the database`)
  return number
}

function readInt8Array(value: string): readonly (number | null)[] {
  const inner = value.slice(1, -1)
  return inner === '' ? [] : inner.split(',').map(item => (item === 'NULL' ? null : readInt8(item)))
}

/** The pool as Kysely sees it: waits for a server that is away, and gives failures their code. */
function patientPool(pool: pg.Pool, patienceMs: number) {
  const wrapped = new WeakMap<pg.PoolClient, PostgresPoolClient>()
  const statements = new StatementNames('hanse', 2)
  return {
    options: pool.options,
    end: () => pool.end(),
    connect: async (): Promise<PostgresPoolClient> => {
      const client = await connect(pool, patienceMs)
      const known = wrapped.get(client)
      if (known) return known
      const made = translating(client, statements, statement => askAgain(pool, patienceMs, statement))
      wrapped.set(client, made)
      return made
    },
  }
}

interface Statement {
  readonly text: string
  readonly values: unknown[]
  readonly name?: string
}

/**
 * The client with errors translated; made once per client, because Kysely keeps state by identity. What only reads,
 * by itself, is asked once more of another connection when this one is lost: the server may have been restarted.
 */
function translating(
  client: pg.PoolClient,
  statements: StatementNames,
  askAnother: (statement: Statement) => Promise<pg.QueryResult>,
): PostgresPoolClient {
  let isInTransaction = false
  const query = async (text: string, values: readonly unknown[]) => {
    const name = statements.nameOf(text)
    const statement: Statement = { text, values: [...values], ...(name !== undefined && { name }) }
    if (/^(?:begin|start transaction)\b/i.test(text)) isInTransaction = true
    try {
      return await client.query(statement)
    } catch (error) {
      if (isInTransaction || failureKind(error) !== 'lost' || !/^\s*select\b/i.test(text)) throw databaseError(error)
      return await askAnother(statement).catch((second: unknown) => {
        throw databaseError(second)
      })
    } finally {
      if (/^(?:commit|rollback)$/i.test(text)) isInTransaction = false
    }
  }
  return Object.create(client, { query: { value: query } })
}

const readAttempts = 4

/** Other connections of the pool may be dead, too, and not know it yet. */
async function askAgain(pool: pg.Pool, patienceMs: number, statement: Statement): Promise<pg.QueryResult> {
  for (let attempt = 1; ; attempt += 1) {
    const client = await connect(pool, patienceMs)
    try {
      const result = await client.query(statement)
      client.release()
      return result
    } catch (error) {
      const isLost = failureKind(error) === 'lost'
      client.release(isLost)
      if (!isLost || attempt === readAttempts) throw error
    }
  }
}

/**
 * Names for statements that come again, so that a connection plans them once: PostgreSQL's share of an
 * ingested CT fell from 1.95 to 1.05 ms CPU. Bounded, because texts with lists of any length are many.
 */
class StatementNames {
  readonly #names = new Map<string, string>()
  readonly #seen = new Set<string>()
  readonly #prefix: string
  readonly #fromSight: number

  constructor(prefix: string, fromSight: 1 | 2) {
    this.#prefix = prefix
    this.#fromSight = fromSight
  }

  /** A name from the first or second time on; undefined before, and when there are enough. */
  nameOf(text: string): string | undefined {
    const known = this.#names.get(text)
    if (known !== undefined) return known
    if (this.#fromSight > 1 && !this.#seen.has(text)) {
      if (this.#seen.size >= mostStatements) this.#seen.clear()
      this.#seen.add(text)
      return undefined
    }
    if (this.#names.size >= mostStatements) return undefined
    const name = `${this.#prefix}_${this.#names.size + 1}`
    this.#names.set(text, name)
    return name
  }
}

async function connect(pool: pg.Pool, patienceMs: number): Promise<pg.PoolClient> {
  const deadline = Date.now() + patienceMs
  for (let waitMs = 20; ; waitMs = Math.min(waitMs * 2, 500)) {
    try {
      return await pool.connect()
    } catch (error) {
      if (failureKind(error) !== 'lost' || Date.now() > deadline) throw databaseError(error)
      await delay(waitMs)
    }
  }
}

async function inTransaction<T>(kysely: Kysely<Schema>, patienceMs: number, fn: (tx: Tx) => Promise<T>): Promise<T> {
  const deadline = Date.now() + patienceMs
  for (let attempt = 1; ; attempt += 1) {
    let committing = false
    try {
      return await kysely.transaction().execute(async tx => {
        const result = await fn(tx)
        committing = true
        return result
      })
    } catch (error) {
      const kind = failureKind(error)
      const again = (kind === 'rerun' && attempt < reruns) || (kind === 'lost' && !committing && Date.now() < deadline)
      if (!again) throw kind === 'lost' && committing ? unknownOutcome(error) : databaseError(error)
      await delay(Math.random() * 10 * 2 ** Math.min(attempt, 6))
    }
  }
}

/** The error behind a statement whose commit waited. */
function heldError(error: unknown): unknown {
  if (!(error instanceof HeldFailure)) return databaseError(error)
  const { stage, cause } = error
  if (stage === 'waiting') return cause
  return stage === 'committing' && failureKind(cause) === 'lost' ? unknownOutcome(cause) : databaseError(cause)
}

function unknownOutcome(cause: unknown): GatewayError {
  return new GatewayError('DATABASE_UNAVAILABLE', 'the database did not answer a commit', {
    cause,
    context: { outcome: 'unknown' },
  })
}

async function checkServer(kysely: Kysely<Schema>, log: Log): Promise<void> {
  const setting = (name: string) => kysely.fn<string>('current_setting', [sql.lit(name)])
  const found = await kysely
    .selectNoFrom([
      setting('server_version_num').as('version'),
      setting('server_encoding').as('encoding'),
      setting('synchronous_commit').as('synchronousCommit'),
      setting('fsync').as('fsync'),
    ])
    .executeTakeFirstOrThrow()
  const major = Math.floor(Number(found.version) / 10_000)
  if (major < oldestMajor) {
    throw new GatewayError('DATABASE_MAJOR', `expected PostgreSQL ${oldestMajor} or newer, the server is ${major}`)
  }
  if (found.encoding !== 'UTF8') {
    throw new GatewayError('CONFIG_INVALID', `expected a database with encoding UTF8, got ${found.encoding}`)
  }
  if (found.fsync !== 'on' || found.synchronousCommit === 'off') {
    log.warn(
      { fsync: found.fsync, synchronousCommit: found.synchronousCommit },
      'the database server does not make commits durable: a power cut may lose acknowledged instances',
    )
  }
}
