import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { signOffer } from '../../peers/offer.ts'
import { auditOf, makePeers, peerOf, startFederationSite } from '../support/federation.ts'
import { testManifest } from '../support/offers.ts'

test('what a revoked peer had begun to send ends and gives its room back', async t => {
  const [a, b] = await Promise.all([startFederationSite(t, { name: 'A' }), startFederationSite(t, { name: 'B' })])
  const { ofB } = await makePeers(a, b)
  const times = { created: new Date(), expires: new Date(Date.now() + 3_600_000) }
  const offer = signOffer(testManifest(a.keys.siteId, b.keys.siteId, 2, times), a.keys)
  assert.equal((await b.inbound.offer(peerOf(b, a), offer.bytes)).state, 'receiving')

  await b.inbound.sweep()
  const before = await b.db.kysely.selectFrom('inbound_transfers').select('state').executeTakeFirstOrThrow()
  await b.peers.revoke(ofB.id, { principal: 'admin' })
  await b.inbound.sweep()

  const after = await b.db.kysely
    .selectFrom('inbound_transfers')
    .select(['state', 'error_code'])
    .executeTakeFirstOrThrow()
  assert.equal(before.state, 'receiving')
  assert.deepEqual(after, { state: 'expired', error_code: 'PEER_REVOKED' })
  assert.deepEqual(await readdir(join(b.dataDir, 'inbound')), [])
  assert.ok((await auditOf(b)).some(event => event.reason === 'PEER_REVOKED'))
})
