import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { applicationActivity, instancesTransferred, securityAlert } from '../../gateway/audit/event.ts'
import { commitmentOf, sealEvent } from '../../gateway/audit/log.ts'

const at = new Date('2026-03-01T08:30:00.000Z')

test('a sealed event commits to its salt and its exact payload', () => {
  const sealed = sealEvent(applicationActivity({ what: 'start', participant: { userId: 'HANSE' }, at }))

  const expected = createHash('sha256')
    .update(Buffer.concat([sealed.salt, Buffer.from(sealed.payload)]))
    .digest()
  assert.equal(sealed.salt.length, 16)
  assert.deepEqual(sealed.commitment, expected)
  assert.deepEqual(commitmentOf(sealed.salt, sealed.payload), expected)
})

test('the same event sealed twice has two salts and so two commitments', () => {
  const event = applicationActivity({ what: 'stop', participant: { userId: 'HANSE' }, at })

  const [one, two] = [sealEvent(event), sealEvent(event)]

  assert.equal(one.payload, two.payload)
  assert.notDeepEqual(one.commitment, two.commitment)
})

test('a transfer event carries the codes and roles of PS3.15 A.5.3.7', () => {
  const sealed = sealEvent(
    instancesTransferred({
      action: 'C',
      source: { userId: 'site-a', address: '192.0.2.7' },
      destination: { userId: 'site-b' },
      requestor: { userId: 'rule:ct-to-b' },
      objects: [{ kind: 'study', studyInstanceUid: '1.2.3', instanceCount: 3 }],
      at,
    }),
  )

  assert.deepEqual(JSON.parse(sealed.payload), {
    event: '110104',
    action: 'C',
    outcome: 'success',
    at: '2026-03-01T08:30:00.000Z',
    participants: [
      { userId: 'site-a', address: '192.0.2.7', role: '110153' },
      { userId: 'site-b', role: '110152' },
      { userId: 'rule:ct-to-b', requestor: true },
    ],
    objects: [{ kind: 'study', studyInstanceUid: '1.2.3', instanceCount: 3 }],
  })
})

test('hostile values are bounded and stay storable as text', () => {
  const sealed = sealEvent(
    securityAlert({
      type: '110126',
      outcome: 'serious-failure',
      participants: [{ userId: `AE\u0000\ud800${'x'.repeat(5000)}` }],
    }),
  )

  assert.ok(sealed.payload.length < 2000)
  assert.ok(!sealed.payload.includes('\u0000'))
  assert.equal(Buffer.from(sealed.payload, 'utf8').toString('utf8'), sealed.payload)
})
