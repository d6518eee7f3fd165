import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sql } from 'kysely'
import type { Db, Tx } from '../../gateway/db/db.ts'
import { openDatabase } from '../../gateway/db/db.ts'
import { isUniqueViolation } from '../../gateway/db/failure.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { silent } from '../support/cluster.ts'
import { connectionOf, testDatabase } from '../support/database.ts'

test('whole numbers, bytes, days and instants come back as what they are', async t => {
  const db = await testDatabase(t)

  const { rows } = await sql`
    select ${2 ** 53 - 1}::bigint as big, ${Buffer.from([1, 2])}::bytea as bytes, array[1, null]::bigint[] as list,
      date '2024-02-29' as day, timestamptz '2024-02-29 12:00+02' as instant, array['a,b', 'c']::text[] as texts`.execute(
    db.kysely,
  )

  assert.deepEqual(rows, [
    {
      big: Number.MAX_SAFE_INTEGER,
      bytes: Buffer.from([1, 2]),
      list: [1, null],
      day: '2024-02-29',
      instant: new Date('2024-02-29T10:00:00Z'),
      texts: ['a,b', 'c'],
    },
  ])
})

test('a whole number beyond 2^53 is an error, not a near value', async t => {
  const db = await testDatabase(t)
  await assert.rejects(sql`select 9007199254740993::bigint`.execute(db.kysely), RangeError)
})

test('a transaction that ends in an error leaves nothing', async t => {
  const db = await testDatabase(t)

  await assert.rejects(
    db.inTransaction(async tx => {
      await insertSetting(tx, 'a')
      throw new Error('changed my mind')
    }),
    /changed my mind/,
  )

  assert.deepEqual(await settings(db), [])
})

test('a unique violation reaches the caller, who maps it', async t => {
  const db = await testDatabase(t)
  await insertSetting(db.kysely, 'a')

  await assert.rejects(insertSetting(db.kysely, 'a'), error => {
    assert.equal(isUniqueViolation(error), true)
    assert.equal(isUniqueViolation(error, 'settings_pkey'), true)
    assert.equal(isUniqueViolation(error, 'other'), false)
    return true
  })
})

test('of two transactions in a deadlock both end well', async t => {
  const db = await testDatabase(t)
  await insertSetting(db.kysely, 'a')
  await insertSetting(db.kysely, 'b')
  const touch = (tx: Tx, name: string) =>
    tx
      .updateTable('settings')
      .set(eb => ({ version: eb('version', '+', 1) }))
      .where('name', '=', name)
      .execute()
  const firstLocks = [Promise.withResolvers<void>(), Promise.withResolvers<void>()] as const
  const both = (mine: 0 | 1, first: string, second: string) =>
    db.inTransaction(async tx => {
      await touch(tx, first)
      firstLocks[mine].resolve()
      await firstLocks[mine === 0 ? 1 : 0].promise
      await touch(tx, second)
    })

  await Promise.all([both(0, 'a', 'b'), both(1, 'b', 'a')])

  const rows = await db.kysely.selectFrom('settings').select(['name', 'version']).orderBy('name').execute()
  assert.deepEqual(rows, [
    { name: 'a', version: 3 },
    { name: 'b', version: 3 },
  ])
})

test('a connection lost before COMMIT was sent: the transaction runs again, once in effect', async t => {
  const db = await testDatabase(t)
  let runs = 0

  await db.inTransaction(async tx => {
    runs += 1
    await insertSetting(tx, 'a')
    if (runs === 1) await terminate(db, tx)
    await insertSetting(tx, 'b')
  })

  assert.equal(runs, 2)
  assert.deepEqual(await settings(db), ['a', 'b'])
})

test('a connection lost at COMMIT is an unknown outcome, which only the caller can resolve', async t => {
  const db = await testDatabase(t)
  let runs = 0

  await assert.rejects(
    db.inTransaction(async tx => {
      runs += 1
      await terminate(db, tx)
    }),
    error => isGatewayError(error, 'DATABASE_UNAVAILABLE') && error.context['outcome'] === 'unknown',
  )

  assert.equal(runs, 1)
})

test('connections that broke while idle do not fail the next statements', async t => {
  const db = await testDatabase(t)
  await Promise.all([settings(db), settings(db), settings(db)])
  await db.pool.query(
    `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`,
  )

  await Promise.all(Array.from({ length: 6 }, () => db.inTransaction(tx => insertSetting(tx, crypto.randomUUID()))))

  assert.equal((await settings(db)).length, 6)
})

test('a server that stays away is DATABASE_UNAVAILABLE', async () => {
  const connection = { host: '/nonexistent', user: 'hanse', database: 'hanse' }
  await assert.rejects(openDatabase({ connection, patienceMs: 0, log: silent }), error =>
    isGatewayError(error, 'DATABASE_UNAVAILABLE'),
  )
})

test('what only reads is asked again when its connection is lost, but not in a transaction', async t => {
  const owner = await testDatabase(t)
  const db = await openDatabase({ connection: connectionOf(owner), log: silent })
  await sql`create sequence deaths`.execute(owner.kysely)
  // The first one to ask loses its connection; a sequence does not go back.
  const dying = sql<{ death: number }>`
    select case when nextval('deaths') % 2 = 1 then pg_terminate_backend(pg_backend_pid())::int else 7 end as death`

  assert.deepEqual((await dying.execute(db.kysely)).rows, [{ death: 7 }])
  await assert.rejects(
    db.kysely.transaction().execute(async tx => await dying.execute(tx)),
    error => isGatewayError(error, 'DATABASE_UNAVAILABLE'),
  )
  const dead = sql`select pg_terminate_backend(pg_backend_pid())`.execute(db.kysely)
  await assert.rejects(dead, error => isGatewayError(error, 'DATABASE_UNAVAILABLE'))

  await db.close()
})

test('a statement that takes too long is ended', async t => {
  const owner = await testDatabase(t)
  const db = await openDatabase({ connection: connectionOf(owner), statementTimeoutMs: 50, log: silent })

  await assert.rejects(sql`select pg_sleep(60)`.execute(db.kysely), /statement timeout/)

  await db.close()
})

test('a database that is not UTF-8 is refused', async t => {
  const owner = await testDatabase(t)
  const { database, ...rest } = connectionOf(owner)
  const url = `postgres://postgres@${encodeURIComponent(rest.host)}/${database}_latin`
  const admin = await openDatabase({ connection: { ...rest, user: 'postgres', database }, log: silent })
  await admin.pool.query(
    `create database ${database}_latin encoding 'SQL_ASCII' locale_provider libc locale 'C' template template0`,
  )

  await assert.rejects(openDatabase({ url, log: silent }), error => isGatewayError(error, 'CONFIG_INVALID'))

  await admin.pool.query(`drop database ${database}_latin with (force)`)
  await admin.close()
})

async function insertSetting(db: Db['kysely'] | Tx, name: string): Promise<void> {
  await db.insertInto('settings').values({ name, value: '{}' }).execute()
}

async function settings(db: Db): Promise<string[]> {
  const rows = await db.kysely.selectFrom('settings').select('name').orderBy('name').execute()
  return rows.map(row => row.name)
}

/** Ends the transaction's connection from outside, and waits until the server is done with it. */
async function terminate(db: Db, tx: Tx): Promise<void> {
  const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(tx)
  const pid = rows[0]?.pid
  await db.pool.query('select pg_terminate_backend($1, 5000)', [pid])
}
