import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sql } from 'kysely'
import { testDatabase } from '../support/database.ts'

test('a bigint column comes back as a number and bytea as a Buffer', async t => {
  const db = await testDatabase(t)

  const { rows } = await sql<{
    big: unknown
    bytes: unknown
    list: unknown
    day: unknown
  }>`select ${2 ** 53 - 1}::bigint as big, '\\x0102'::bytea as bytes, array[1, null]::bigint[] as list, date '2024-02-29' as day`.execute(
    db.kysely,
  )

  assert.deepEqual(rows, [
    { big: Number.MAX_SAFE_INTEGER, bytes: Buffer.from([1, 2]), list: [1, null], day: '2024-02-29' },
  ])
})
