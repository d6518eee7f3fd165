import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decode, describe, describeExpected, integer, object, record, text } from '../../gateway/decode.ts'
import { errorLine, GatewayError, outwardMessage } from '../../gateway/errors.ts'
import { testDatabase } from '../support/database.ts'

test('an error of the database reaches the log without the values that its message quotes', async t => {
  const db = await testDatabase(t)
  const failed = await db.pool.query('select $1::integer', ['TEST^SECRET']).catch((error: unknown) => error)
  assert.ok(failed instanceof Error)
  assert.match(failed.message, /SECRET/)

  const line = errorLine(new GatewayError('UNAVAILABLE', 'internal error', { cause: failed }))

  assert.doesNotMatch(line, /SECRET/)
  assert.match(line, /^UNAVAILABLE: 22P02 /)
})

test('an error tells other machines nothing about the database', () => {
  const error = new GatewayError('DATABASE_UNAVAILABLE', 'no database: password failed for user "x" on 10.0.0.5')

  assert.doesNotMatch(outwardMessage(error), /10\.0\.0\.5|user/)
  assert.equal(outwardMessage(new GatewayError('NOT_FOUND', 'no such peer')), 'no such peer')
})

test('what others sent is not repeated in an error about it, what the administrator wrote is', () => {
  const result = decode(object({ name: text({ max: 3 }), count: integer() }), {
    name: 'TEST^SECRET',
    count: 'TEST^SECRET',
  })
  assert.ok(!result.ok)

  assert.doesNotMatch(describeExpected(result.problems), /SECRET/)
  assert.match(describeExpected(result.problems), /^name: expected a string; count: expected a whole number/)
  assert.match(describe(result.problems), /got "TEST\^SECRET"/)
})

test('a key __proto__ is a key', () => {
  const result = decode(record(text()), JSON.parse('{"__proto__":"x","a":"b"}'))
  assert.ok(result.ok)

  assert.deepEqual(Object.keys(result.value).sort(), ['__proto__', 'a'])
  assert.equal(Object.getPrototypeOf(result.value), Object.prototype)
})
