import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { createByteBudget } from '../../peers/byte-budget.ts'

const never = new AbortController().signal

test('what one peer holds is bounded, and given back once', async () => {
  const budget = createByteBudget({ totalBytes: 100, perPeerBytes: 60, waitMs: 10_000 })
  const order: string[] = []
  const release = await budget.take('a', 60, never)
  const second = budget.take('a', 10, never).then(() => order.push('a again'))
  await budget.take('b', 40, never).then(() => order.push('b'))

  release()
  release()

  await second
  assert.deepEqual(order, ['b', 'a again'])
  await assert.rejects(budget.take('c', 60, AbortSignal.abort()), error => isGatewayError(error, 'UNAVAILABLE'))
})

test('of those who wait, the peer that holds least is next', async () => {
  const budget = createByteBudget({ totalBytes: 100, perPeerBytes: 100, waitMs: 10_000 })
  const order: string[] = []
  const [first, , held] = [
    await budget.take('a', 40, never),
    await budget.take('a', 40, never),
    await budget.take('b', 20, never),
  ]
  const waiting = ['a', 'b', 'c'].map(peer => budget.take(peer, 20, never).then(() => order.push(peer)))

  held()
  first()
  await Promise.all(waiting)

  assert.deepEqual(order, ['b', 'c', 'a'])
})

test('who waits too long is told to come again', async () => {
  const budget = createByteBudget({ totalBytes: 10, perPeerBytes: 10, waitMs: 20 })
  await budget.take('a', 10, never)

  await assert.rejects(budget.take('b', 1, never), error => isGatewayError(error, 'UNAVAILABLE'))
})

test('credit is a fair share of the budget', async () => {
  const budget = createByteBudget({ totalBytes: 90, perPeerBytes: 60, waitMs: 20 })

  assert.equal(budget.credit('a'), 60)
  await budget.take('a', 10, never)
  await budget.take('b', 10, never)
  assert.equal(budget.credit('a'), 45)
  assert.equal(budget.credit('c'), 30)
})
