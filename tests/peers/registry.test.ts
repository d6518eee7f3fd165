import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { appendAudit } from '../../gateway/audit/log.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { openCard, signCard } from '../../peers/card.ts'
import { openPeers } from '../../peers/registry.ts'
import { testDatabase } from '../support/database.ts'
import { pair, silent, startSite, testKeys } from '../support/site.ts'

const by = { principal: 'admin' }
const code = (expected: string) => (error: unknown) => isGatewayError(error) && error.code === expected

test('a peer is found by id, name, site id and CA fingerprint, and after a restart', async t => {
  const [a, b] = await Promise.all([startSite(t, { name: 'A' }), startSite(t, { name: 'B' })])
  const { joined } = await pair(a, b)

  const restarted = await openPeers({ db: a.db, appendAudit, log: silent })
  t.after(() => restarted.close())

  for (const found of [
    restarted.get(joined.id),
    restarted.byName('B'),
    restarted.bySiteId(b.keys.siteId),
    restarted.byFingerprint(joined.caFingerprint),
    await restarted.load(joined.id),
  ]) {
    assert.equal(found?.id, joined.id)
    assert.equal(found?.state, 'active')
  }
})

test('confirming and revoking twice change nothing the second time, and a revoked peer stays revoked', async t => {
  const [a, b] = await Promise.all([startSite(t, { name: 'A' }), startSite(t, { name: 'B' })])
  const { joined } = await pair(a, b)
  let changes = 0
  a.peers.onChange(() => {
    changes += 1
  })

  const confirmedAgain = await a.peers.confirm(joined.id, by)
  const revoked = await a.peers.revoke(joined.id, { ...by, reason: 'contract ended' })
  const revokedAgain = await a.peers.revoke(joined.id, by)

  assert.deepEqual(confirmedAgain.confirmedAt, joined.confirmedAt)
  assert.deepEqual(revokedAgain.revokedAt, revoked.revokedAt)
  assert.equal(a.peers.get(joined.id), undefined)
  assert.equal((await a.peers.load(joined.id)).state, 'revoked')
  await assert.rejects(a.peers.confirm(joined.id, by), code('STATE_CONFLICT'))
  assert.ok(changes > 0)
})

test('a peer is renamed and moved, not to another one’s name nor to what is no origin', async t => {
  const [a, b, c] = await Promise.all(['A', 'B', 'C'].map(name => startSite(t, { name })))
  assert.ok(a && b && c)
  const { joined } = await pair(a, b)
  await pair(a, c)

  await a.peers.rename(joined.id, 'Hospital B (radiology)', by)
  await a.peers.changeUrl(joined.id, 'https://new.example:9443', by)

  assert.equal(a.peers.byName('Hospital B (radiology)')?.url, 'https://new.example:9443')
  await assert.rejects(a.peers.rename(joined.id, 'C', by), code('STATE_CONFLICT'))
  await assert.rejects(a.peers.rename(joined.id, '', by), code('BAD_REQUEST'))
  await assert.rejects(a.peers.changeUrl(joined.id, 'http://x', by), code('BAD_REQUEST'))
  await assert.rejects(a.peers.confirm(randomUUID(), by), code('NOT_FOUND'))
  await assert.rejects(a.peers.load('no-uuid'), code('NOT_FOUND'))
})

test('a change is not made when its audit event cannot be written', async t => {
  const [a, b] = await Promise.all([startSite(t, { name: 'A' }), startSite(t, { name: 'B' })])
  const { joined } = await pair(a, b)
  const broken = await openPeers({
    db: a.db,
    appendAudit: async () => {
      throw new Error('audit is broken')
    },
    log: silent,
  })
  t.after(() => broken.close())

  await assert.rejects(broken.revoke(joined.id, by), /audit is broken/)

  assert.equal((await a.peers.load(joined.id)).state, 'active')
})

test('two pinned authorities never have one subject', async t => {
  const db = await testDatabase(t)
  const peers = await openPeers({ db, appendAudit, log: silent })
  t.after(() => peers.close())
  const keys = await testKeys(t, 'A')
  const card = signCard(keys, { name: 'A', urls: [], created: Date.now() })
  const add = (name: string) =>
    db.inTransaction(tx => peers.add(tx, { id: randomUUID(), card, sas: '', name }, 'admin'))

  await add('first')

  await assert.rejects(add('second'), code('PAIRING_INVALID'))
})

test('no peer is called by a site id: policies name peers by either', async t => {
  const [a, b] = await Promise.all([startSite(t, { name: 'A' }), startSite(t, { name: 'B' })])
  const { joined } = await pair(a, b)
  const other = 'ab'.repeat(16)

  await assert.rejects(a.peers.rename(joined.id, other, by), code('BAD_REQUEST'))
  const { bytes } = signCard(b.keys, { name: 'B', urls: [], created: Date.now() })
  await a.peers.revoke(joined.id, by)
  const added = a.db.inTransaction(tx =>
    a.peers.add(tx, { id: randomUUID(), card: openCard(bytes, Date.now()), sas: '1', name: other }, 'admin'),
  )
  await assert.rejects(added, code('BAD_REQUEST'))
})
