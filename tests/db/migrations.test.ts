import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { openDatabase } from '../../gateway/db/db.ts'
import { migrate } from '../../gateway/db/migrations.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { onEnd } from '../support/cleanup.ts'
import { silent } from '../support/cluster.ts'
import { connectionOf, testDatabase } from '../support/database.ts'

test('of two starters at once the second waits, and each migration runs once', async t => {
  const first = await testDatabase(t)
  await first.pool.query('drop schema public cascade')
  await first.pool.query('create schema public')
  const second = await openDatabase({ connection: connectionOf(first), log: silent })
  onEnd(t, () => second.close())

  const ran = await Promise.all([migrate(first), migrate(second)])

  assert.equal(Math.min(...ran.map(names => names.length)), 0)
  assert.equal(ran.flat().length, new Set(ran.flat()).size)
  assert.equal(ran.flat().length > 0, true)
  assert.deepEqual(await migrate(first), [])
})

test('a database of a newer release is refused', async t => {
  const db = await testDatabase(t)
  await db.pool.query(`insert into kysely_migration (name, timestamp) values ('9999-later', '2030-01-01')`)

  await assert.rejects(migrate(db), error => {
    assert.equal(isGatewayError(error, 'STATE_CONFLICT'), true)
    assert.match(String(error), /9999-later/)
    return true
  })
})

test('the types name exactly the tables and columns of the migrations', async t => {
  const db = await testDatabase(t)
  const source = await readFile(new URL('../../gateway/db/schema.ts', import.meta.url), 'utf8')
  const fieldsOf = (name: string): string[] => {
    const body = new RegExp(`export interface ${name} \\{([^}]*)\\}`).exec(source)?.[1] ?? ''
    return [...body.matchAll(/^ {2}(\w+): (.*)$/gm)].map(([, field = '', type = '']) => `${field} ${type}`)
  }
  const typed = fieldsOf('Schema').flatMap(entry => {
    const [table = '', type = ''] = entry.split(' ')
    return fieldsOf(type).map(field => `${table}.${field.split(' ')[0]} ${isNullable(field) ? 'null' : 'not null'}`)
  })

  const { rows } = await db.pool.query<{ name: string }>(`
    select table_name || '.' || column_name || case is_nullable when 'YES' then ' null' else ' not null' end as name
    from information_schema.columns
    where table_schema = 'public' and table_name not like 'kysely%'`)

  assert.deepEqual(typed.sort(), rows.map(row => row.name).sort())
})

function isNullable(field: string): boolean {
  return /\| null\b/.test(field)
}

test('the audit log is append-only for the gateway itself, but a record can be erased', async t => {
  const db = await testDatabase(t)
  const commitment = Buffer.alloc(32)
  await db.kysely.insertInto('audit_events').values({ salt: commitment, payload: '{}', commitment }).execute()
  await db.kysely.insertInto('audit_leaves').values({ leaf_index: 0, event: 1, commitment }).execute()

  await db.pool.query('update audit_events set salt = null, payload = null')

  for (const statement of [
    'delete from audit_events',
    `update audit_events set at = now()`,
    'truncate audit_events',
    'delete from audit_leaves',
    'update audit_leaves set leaf_index = 7',
    'delete from audit_checkpoints',
  ]) {
    await assert.rejects(db.pool.query(statement), { code: '42501' })
  }
})
