import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { createRefusalLimit } from '../../peers/refusal-limit.ts'

test('a peer that is refused too often is not listened to until its minute is over, others are', () => {
  let now = 1_000_000
  const limit = createRefusalLimit(3, () => now)
  const isOver = (error: unknown): boolean => isGatewayError(error, 'TOO_MANY_REQUESTS')

  for (let count = 0; count < 3; count++) {
    limit.check('a')
    limit.count('a')
  }

  assert.throws(() => limit.check('a'), isOver)
  limit.check('b')
  now += 59_000
  assert.throws(() => limit.check('a'), isOver)
  now += 1_000
  limit.check('a')
})
