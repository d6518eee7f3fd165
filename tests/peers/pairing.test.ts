import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { decodeInvitation } from '../../peers/pairing-messages.ts'
import { pair, startSite, type TestSite } from '../support/site.ts'

const by = { principal: 'admin' }
const minuteMs = 60_000
const code =
  (expected: string, message = /./) =>
  (error: unknown) =>
    isGatewayError(error) && error.code === expected && message.test(error.message)

test('two sites pair online, see the same string, and are active after both have confirmed', async t => {
  const [a, b] = await Promise.all([startSite(t, { name: 'Hospital A' }), startSite(t, { name: 'Hospital B' })])

  const { file, id } = await a.pairing.invite(by)
  const joined = await b.pairing.accept(file, by)
  const atA = a.peers.bySiteId(b.keys.siteId)
  const atB = b.peers.get(joined.peerId)

  assert.match(joined.sas, /^\d{6}-\d{6}$/)
  assert.equal(atA?.sas, joined.sas)
  assert.equal(atA?.state, 'pending')
  assert.equal(atB?.state, 'pending')
  assert.equal(atA?.name, 'Hospital B')
  assert.equal(atA?.url, b.url)
  assert.deepEqual(Buffer.from(atB?.signingKey ?? []), Buffer.from(a.keys.signingKey))
  assert.deepEqual(Buffer.from(atA?.sealingKey ?? []), Buffer.from(b.keys.sealingKey))
  assert.equal((await b.pairing.status(joined.peerId)).state, 'pending')
  await a.peers.confirm(atA?.id ?? '', { ...by, sas: joined.sas })
  assert.equal((await b.pairing.status(joined.peerId)).state, 'active')
  await b.peers.confirm(joined.peerId, by)
  assert.equal(b.peers.get(joined.peerId)?.state, 'active')
  assert.deepEqual(
    (await a.pairing.find()).map(invitation => [invitation.id, invitation.state, invitation.peer]),
    [[id, 'redeemed', atA?.id]],
  )
})

test('an invitation is redeemed once: the same site gets its pairing again, another gets nothing', async t => {
  const [a, b, c] = await Promise.all(['A', 'B', 'C'].map(name => startSite(t, { name })))
  assert.ok(a && b && c)
  const { file } = await a.pairing.invite(by)
  const first = await b.pairing.accept(file, by)

  assert.deepEqual(await b.pairing.accept(file, by), first)
  const requests = a.requests.length
  await assert.rejects(c.pairing.accept(file, by), code('PEER_UNREACHABLE'))
  assert.equal(a.requests.length, requests, 'no byte of HTTP was read')
  assert.equal(a.peers.peers.length, 1)
})

test('an expired or cancelled invitation is refused at both ends', async t => {
  let now = Date.now()
  const clock = () => now
  const a = await startSite(t, { name: 'A', clock })
  const b = await startSite(t, { name: 'B', clock })
  const late = await a.pairing.invite({ ...by, lifetimeMs: 10 * minuteMs })
  const cancelled = await a.pairing.invite(by)
  await a.pairing.cancel(cancelled.id, by)

  await assert.rejects(b.pairing.accept(cancelled.file, by), code('PEER_UNREACHABLE'))
  now += 11 * minuteMs
  await assert.rejects(b.pairing.accept(late.file, by), code('PAIRING_EXPIRED'))
  assert.equal((await a.pairing.find()).find(({ id }) => id === late.id)?.state, 'expired')
  assert.deepEqual(a.requests, [])
})

test('the inviting site enforces the expiry by its own clock', async t => {
  let now = Date.now()
  const a = await startSite(t, { name: 'A', clock: () => now })
  const b = await startSite(t, { name: 'B' })
  const { file } = await a.pairing.invite({ ...by, lifetimeMs: minuteMs })

  now += 2 * minuteMs
  await assert.rejects(b.pairing.accept(file, by), code('PEER_UNREACHABLE'))
  assert.deepEqual(a.requests, [])
})

test('a second commitment on one invitation is refused and audited', async t => {
  const [a, b, c] = await Promise.all(['A', 'B', 'C'].map(name => startSite(t, { name })))
  assert.ok(a && b && c)
  const { file } = await a.pairing.invite(by)
  a.lose = (step, when) => step === 'reveal' && when === 'before'
  await assert.rejects(b.pairing.accept(file, by), code('PEER_UNREACHABLE'))

  await assert.rejects(c.pairing.accept(file, by), code('PAIRING_INVALID', /another exchange/))

  a.lose = undefined
  const { peerId } = await b.pairing.accept(file, by)
  assert.equal(b.peers.get(peerId)?.siteId, a.keys.siteId)
  assert.ok((await auditReasons(a)).includes('PAIRING_INVALID'))
})

for (const step of ['commit', 'reveal'] as const) {
  for (const when of ['before', 'after'] as const) {
    test(`an exchange goes on after a restart of both sites when the ${step} was lost ${when} it was answered`, async t => {
      const [a, b] = await Promise.all([startSite(t, { name: 'A' }), startSite(t, { name: 'B' })])
      const { file } = await a.pairing.invite(by)
      a.lose = (at, moment) => (at === step && moment === when) || at === 'status'
      await assert.rejects(b.pairing.accept(file, by), code('PEER_UNREACHABLE'))

      a.lose = undefined
      const restarted = b.restartPairing()
      const { peerId, sas } = await restarted.accept(file, by)

      assert.equal(a.peers.bySiteId(b.keys.siteId)?.sas, sas)
      assert.equal(b.peers.get(peerId)?.siteId, a.keys.siteId)
      assert.deepEqual(await restarted.accept(file, by), { peerId, sas })
    })
  }
}

test('sites pair by files when the joining site cannot reach the inviting one', async t => {
  const a = await startSite(t, { name: 'A', isReachable: false })
  const b = await startSite(t, { name: 'B', isReachable: false })

  const { file } = await a.pairing.invite(by)
  const answered = await b.pairing.answerByFile(file, by)
  const accepted = await a.pairing.acceptAnswer(answered.answer, by)
  const acknowledged = await b.pairing.readAcknowledgement(accepted.acknowledgement)

  assert.match(answered.sas, /^(\d{6}-){4}\d{6}$/)
  assert.equal(accepted.sas, answered.sas)
  assert.deepEqual(acknowledged, { peerId: answered.peerId, state: 'pending' })
  assert.equal(a.peers.bySiteId(b.keys.siteId)?.state, 'pending')
  assert.equal(b.peers.bySiteId(a.keys.siteId)?.state, 'pending')
  // Every step may be repeated.
  assert.deepEqual((await b.restartPairing().answerByFile(file, by)).answer, answered.answer)
  assert.equal((await a.pairing.acceptAnswer(answered.answer, by)).peerId, accepted.peerId)
})

test('an answer by file redeems the invitation: online it is refused after that, and a second answer too', async t => {
  const [a, b, c] = await Promise.all(['A', 'B', 'C'].map(name => startSite(t, { name })))
  assert.ok(a && b && c)
  const { file } = await a.pairing.invite(by)
  const answerOfC = (await c.pairing.answerByFile(file, by)).answer
  await a.pairing.acceptAnswer((await b.pairing.answerByFile(file, by)).answer, by)

  await assert.rejects(a.pairing.acceptAnswer(answerOfC, by), code('PAIRING_INVALID', /redeemed/))
  await assert.rejects(b.pairing.accept(file, by), code('PAIRING_INVALID', /by file/))
  await assert.rejects(a.pairing.acceptAnswer(file, by), code('PAIRING_INVALID'))
  await assert.rejects(b.pairing.readAcknowledgement(answerOfC), code('PAIRING_INVALID'))
})

test('who swaps the card on the way shows in the short authentication string', async t => {
  const [a, b, mallory] = await Promise.all(['A', 'B', 'A'].map(name => startSite(t, { name })))
  assert.ok(a && b && mallory)
  // Mallory keeps A's invitation, and hands B one of her own under A's name.
  const invitation = await a.pairing.invite(by)
  const forged = await mallory.pairing.invite(by)

  const atB = await b.pairing.accept(forged.file, by)
  const atMallory = await mallory.pairing.accept(invitation.file, by)
  const atA = a.peers.bySiteId(mallory.keys.siteId)

  assert.equal(atA?.sas, atMallory.sas)
  assert.notEqual(atB.sas, atA?.sas)
  await assert.rejects(a.peers.confirm(atA?.id ?? '', { ...by, sas: atB.sas }), code('PAIRING_INVALID', /differ/))
  assert.equal(a.peers.get(atA?.id ?? '')?.state, 'pending')
})

test('a site is not paired with itself, nor twice, and is again after a revocation', async t => {
  const [a, b] = await Promise.all([startSite(t, { name: 'A' }), startSite(t, { name: 'B' })])
  await assert.rejects(a.pairing.accept((await a.pairing.invite(by)).file, by), code('PAIRING_INVALID', /our own/))
  const { joined, inviter } = await pair(a, b)
  await assert.rejects(
    b.pairing.accept((await a.pairing.invite(by)).file, by),
    code('PAIRING_INVALID', /revoke it first/),
  )

  await a.peers.revoke(joined.id, by)
  await b.peers.revoke(inviter.id, by)
  const again = await pair(a, b)

  assert.notEqual(again.joined.id, joined.id)
  assert.equal(again.joined.name, 'B')
  assert.equal((await a.peers.find()).length, 2)
})

test('a peer that calls itself like another one gets a name of its own', async t => {
  const [a, b, c] = await Promise.all(['A', 'B', 'B'].map(name => startSite(t, { name })))
  assert.ok(a && b && c)

  await pair(a, b)
  await pair(a, c)

  assert.equal(a.peers.bySiteId(b.keys.siteId)?.name, 'B')
  assert.equal(a.peers.bySiteId(c.keys.siteId)?.name, `B ${c.keys.siteId.slice(0, 4)}`)
})

test('clocks that differ by four minutes pair; by six the drift is named', async t => {
  const a = await startSite(t, { name: 'Hospital A' })
  const ahead = await startSite(t, { name: 'B', clock: () => Date.now() + 4 * minuteMs })
  const behind = await startSite(t, { name: 'C', clock: () => Date.now() - 4 * minuteMs })
  const wrong = await startSite(t, { name: 'D', clock: () => Date.now() + 6.5 * minuteMs })

  await pair(a, ahead)
  await pair(behind, a)
  await assert.rejects(
    wrong.pairing.accept((await a.pairing.invite(by)).file, by),
    code('PEER_CLOCK_DRIFT', /the clock of Hospital A is [67] minutes behind this site’s/),
  )
})

test('everything about an invitation is audited', async t => {
  const [a, b] = await Promise.all([startSite(t, { name: 'A' }), startSite(t, { name: 'B' })])

  const { joined } = await pair(a, b)
  await a.peers.revoke(joined.id, by)

  assert.deepEqual(await auditReasons(a), [
    'invitation-created',
    'pairing-started',
    'peer-added',
    'peer-confirmed',
    'peer-revoked',
  ])
  assert.deepEqual(await auditReasons(b), ['peer-added', 'peer-confirmed'])
})

test('the database holds no private key and no nonce that would still help a thief', async t => {
  const [a, b] = await Promise.all([startSite(t, { name: 'A' }), startSite(t, { name: 'B' })])
  const { file } = await a.pairing.invite(by)
  const { online } = decodeInvitation(file, Date.now())
  await b.pairing.accept(file, by)

  for (const site of [a, b]) {
    const rows = await site.db.kysely.selectFrom('invitations').selectAll().execute()
    assert.ok(!JSON.stringify(rows).includes('PRIVATE KEY'))
    assert.equal(rows.length, 1)
  }
  assert.ok(online?.credential.key.includes('PRIVATE KEY'))
  assert.equal(createHash('sha256').update(file).digest().length, 32)
})

async function auditReasons(site: TestSite): Promise<readonly string[]> {
  const rows = await site.db.kysely.selectFrom('audit_events').select('payload').orderBy('id').execute()
  return rows.map(({ payload }) => String(JSON.parse(payload ?? '{}').reason))
}
