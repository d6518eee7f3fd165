import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { openPeering, type Peering } from '../../gateway/services/peering.ts'
import { startSite, type TestSite } from '../support/site.ts'

const admin = { id: 'local' }
const json = <T>(value: T): T => JSON.parse(JSON.stringify(value)) // as through the API
const peering = (site: TestSite): Peering => openPeering(site)

test('two administrators pair through JSON documents, online', async t => {
  const [a, b] = await Promise.all([startSite(t, { name: 'A' }), startSite(t, { name: 'B' })])
  const { invitation } = await peering(a).invite(admin, { validMs: 60_000, name: 'Partner' })

  const { peer, handover } = await peering(b).accept(admin, json(invitation), { offline: false })
  const [atA] = await peering(a).list()

  assert.equal(handover, undefined)
  assert.equal(atA?.name, 'Partner')
  assert.equal(atA?.state, 'pending')
  assert.equal(atA?.sas, peer.sas)
  await assert.rejects(peering(a).confirm(admin, atA?.id ?? '', '000000-000001'), error =>
    isGatewayError(error, 'PAIRING_INVALID'),
  )
  assert.equal((await peering(a).confirm(admin, atA?.id ?? '', peer.sas ?? '')).state, 'active')
  assert.equal((await peering(b).confirm(admin, peer.id, ` ${atA?.sas?.replace('-', ' ')} `)).state, 'active')
})

test('two administrators pair through JSON documents, by files', async t => {
  const [a, b] = await Promise.all([startSite(t, { name: 'A', isReachable: false }), startSite(t, { name: 'B' })])
  const { invitation } = await peering(a).invite(admin, { validMs: 60_000 })

  const answered = await peering(b).accept(admin, json(invitation), { offline: true, name: 'Hub' })
  const taken = await peering(a).take(admin, json(answered.handover ?? {}))
  const acknowledged = await peering(b).take(admin, json(taken.handover ?? {}))

  assert.equal(answered.peer.name, 'Hub')
  assert.equal(taken.peer.sas, answered.peer.sas)
  assert.equal(acknowledged.peer.id, answered.peer.id)
  assert.equal(acknowledged.handover, undefined)
  await assert.rejects(peering(a).take(admin, json(invitation)), error => isGatewayError(error, 'PAIRING_INVALID'))
})

test('a peer is changed and revoked', async t => {
  const [a, b] = await Promise.all([startSite(t, { name: 'A' }), startSite(t, { name: 'B' })])
  const { invitation } = await peering(a).invite(admin, { validMs: 60_000 })
  const { peer } = await peering(b).accept(admin, json(invitation), { offline: false })

  const changed = await peering(b).change(admin, peer.id, { name: 'Hospital A', url: null })
  const revoked = await peering(b).revoke(admin, peer.id, 'test')

  assert.equal(changed.name, 'Hospital A')
  assert.equal(changed.url, null)
  assert.equal(revoked.state, 'revoked')
  assert.ok(revoked.revokedAt)
})
