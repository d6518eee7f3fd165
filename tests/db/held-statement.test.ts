import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { sql } from 'kysely'
import type { Db } from '../../gateway/db/db.ts'
import { isUniqueViolation } from '../../gateway/db/failure.ts'
import { testDatabase } from '../support/database.ts'
import { until } from '../support/until.ts'

const insert = (name: string) =>
  sql<{
    name: string
    version: number
  }>`insert into settings (name, value) values (${name}, '1') returning name, version`

async function names(db: Db): Promise<string[]> {
  const rows = await db.kysely
    .selectFrom('settings')
    .select('name')
    .where('name', 'like', 'held-%')
    .orderBy('name')
    .execute()
  return rows.map(row => row.name)
}

/** Statements of this database that wait for their commit. */
async function waiting(db: Db): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    select count(*) from pg_locks where locktype = 'relation' and relation = 'settings'::regclass
      and mode = 'RowExclusiveLock' and database = (select oid from pg_database where datname = current_database())
  `.execute(db.kysely)
  return rows[0]?.count ?? 0
}

test('a statement is visible to others only when what it waited for has come', async t => {
  const db = await testDatabase(t)
  const { promise: ready, resolve } = Promise.withResolvers<void>()

  const running = db.commitWhen(ready, insert('held-1'))
  await until('the row is written', 30_000, async () => (await waiting(db)) === 1)
  assert.deepEqual(await names(db), [])
  resolve()

  assert.deepEqual(await running, [{ name: 'held-1', version: 1 }])
  assert.deepEqual(await names(db), ['held-1'])
  await db.commitWhen(Promise.resolve(), insert('held-2'))
  assert.deepEqual(await names(db), ['held-1', 'held-2'], 'the statement that is prepared by now runs as well')
})

test('when what it waited for fails, the statement has not happened', async t => {
  const db = await testDatabase(t)
  const failure = new Error('no room')

  await assert.rejects(
    db.commitWhen(
      delay(50).then(() => Promise.reject(failure)),
      insert('held-1'),
    ),
    failure,
  )

  await until('its transaction is gone', 30_000, async () => (await waiting(db)) === 0)
  assert.deepEqual(await names(db), [])
})

test('a statement that fails is rolled back, and its connection goes on', async t => {
  const db = await testDatabase(t)
  await db.commitWhen(Promise.resolve(), insert('held-1'))

  await assert.rejects(db.commitWhen(Promise.resolve(), insert('held-1')), isUniqueViolation)

  const many = Array.from({ length: 40 }, (_, index) => `held-${100 + index}`)
  await Promise.all(many.map(name => db.commitWhen(Promise.resolve(), insert(name))))
  assert.deepEqual(await names(db), ['held-1', ...many])
})

test('a connection lost while the statement waits is an error, and nothing was written', async t => {
  const db = await testDatabase(t)
  const { promise: ready, resolve } = Promise.withResolvers<void>()
  const running = db.commitWhen(ready, insert('held-1'))
  running.catch(() => undefined)
  await until('the row is written', 30_000, async () => (await waiting(db)) === 1)

  await sql`select pg_terminate_backend(pid) from pg_locks where relation = 'settings'::regclass and mode = 'RowExclusiveLock'
    and database = (select oid from pg_database where datname = current_database()) and pid <> pg_backend_pid()`.execute(
    db.kysely,
  )
  resolve()

  await assert.rejects(running, { code: 'DATABASE_UNAVAILABLE' })
  assert.deepEqual(await names(db), [])
})
