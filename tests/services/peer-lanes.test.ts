import assert from 'node:assert/strict'
import { test } from 'node:test'
import { GatewayError } from '../../gateway/errors.ts'
import { pauseMs } from '../../gateway/services/outbound-outcomes.ts'
import { createPeerLanes } from '../../gateway/services/peer-lanes.ts'

const transfer = (id: string, peer: string, priority = 'normal') => ({ id, peer, priority })

const reason = new GatewayError('PEER_UNREACHABLE', 'no route')

function lanes(options: { parallel?: number; perPeer?: number } = {}) {
  const clock = { now: 0 }
  const made = createPeerLanes({ parallel: 4, perPeer: 2, now: () => clock.now, random: () => 1, ...options })
  return { ...made, clock }
}

test('a peer has its own places, and one that is full does not keep others out', () => {
  const { enter } = lanes()

  const kinds = ['1', '2', '3'].map(id => enter(transfer(id, 'b')).kind)

  assert.deepEqual(kinds, ['run', 'run', 'parked'])
  assert.equal(enter(transfer('4', 'c')).kind, 'run')
})

test('a place that becomes free goes to the peer that was served longest ago, its most urgent first', () => {
  const { enter, leave } = lanes({ parallel: 1 })
  enter(transfer('b1', 'b'))
  for (const id of ['b2', 'b3']) enter(transfer(id, 'b'))
  enter(transfer('c1', 'c', 'bulk'))
  enter(transfer('c2', 'c', 'urgent'))

  const first = leave(transfer('b1', 'b'))
  assert.deepEqual(first, ['c2'])
  assert.equal(enter(transfer('c2', 'c')).kind, 'run')
  assert.deepEqual(leave(transfer('c2', 'c')), ['b2'])
})

test('a peer that fails is closed for a growing while, then one transfer finds out', () => {
  const { enter, leave, fail, succeed, clock } = lanes()
  enter(transfer('1', 'b'))
  enter(transfer('2', 'b'))
  enter(transfer('3', 'b'))

  const until = fail('b', reason)
  assert.equal(until, 1_000)
  assert.deepEqual(leave(transfer('1', 'b')), ['3'], 'parked ones hear that it is closed')
  assert.deepEqual(enter(transfer('3', 'b')), { kind: 'closed', until, reason })
  leave(transfer('2', 'b'))
  clock.now = until
  assert.equal(enter(transfer('3', 'b')).kind, 'run')
  assert.equal(enter(transfer('1', 'b')).kind, 'parked')
  assert.equal(fail('b', reason), until + 2_000)
  for (let failures = 0; failures < 20; failures++) fail('b', reason)
  assert.ok(fail('b', reason) <= clock.now + 60_000)

  succeed('b')
  leave(transfer('3', 'b'))
  assert.equal(enter(transfer('1', 'b')).kind, 'run')
  assert.equal(enter(transfer('2', 'b')).kind, 'run')
})

test('pauses double with some chance in them, up to fifteen minutes', () => {
  assert.equal(
    pauseMs(0, () => 0),
    500,
  )
  assert.equal(
    pauseMs(3, () => 1),
    8_000,
  )
  for (let attempts = 10; attempts < 2_000; attempts += 199) {
    const pause = pauseMs(attempts)
    assert.ok(pause >= 450_000 && pause <= 900_000)
  }
})
