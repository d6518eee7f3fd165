import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import { commitment, shortAuthenticationString } from '../../peers/sas.ts'

const contribution = fc.record({
  cardSha256: fc.uint8Array({ minLength: 32, maxLength: 32 }).map(bytes => Buffer.from(bytes).toString('hex')),
  nonce: fc.uint8Array({ minLength: 32, maxLength: 32 }),
})

test('strings have their shape, leading zeros included', () => {
  fc.assert(
    fc.property(contribution, contribution, (a, b) => {
      assert.match(shortAuthenticationString('online', randomUUID(), a, b), /^\d{6}-\d{6}$/)
      assert.match(shortAuthenticationString('file', randomUUID(), a, b), /^(\d{6}-){4}\d{6}$/)
    }),
  )
})

test('the string depends on every input and on who is who', () => {
  const id = randomUUID()
  fc.assert(
    fc.property(contribution, contribution, contribution, (a, b, other) => {
      const own = shortAuthenticationString('file', id, a, b)

      assert.notEqual(shortAuthenticationString('file', randomUUID(), a, b), own)
      assert.notEqual(shortAuthenticationString('file', id, { ...a, nonce: other.nonce }, b), own)
      assert.notEqual(shortAuthenticationString('file', id, { ...a, cardSha256: other.cardSha256 }, b), own)
      assert.notEqual(shortAuthenticationString('file', id, a, { ...b, nonce: other.nonce }), own)
      assert.notEqual(shortAuthenticationString('file', id, b, a), own)
      assert.ok(!own.startsWith(shortAuthenticationString('online', id, a, b)))
      assert.notDeepEqual(commitment(id, a), commitment(id, b))
    }),
    { numRuns: 50 },
  )
})

test('parts of another length are a programming error, never another meaning', () => {
  const short = { cardSha256: '00'.repeat(32), nonce: new Uint8Array(31) }

  assert.throws(() => commitment(randomUUID(), short), RangeError)
  assert.throws(() => commitment('not-a-uuid', { ...short, nonce: new Uint8Array(32) }), RangeError)
})
