import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { at, field, items } from '../../gateway/cli/answer.ts'
import { peerRoutes } from '../../gateway/http/api/peers.ts'
import { openMetrics } from '../../gateway/http/metrics.ts'
import { buildHttpServer } from '../../gateway/http/server.ts'
import { openLog } from '../../gateway/log.ts'
import { tokenDigest } from '../../gateway/store/tokens.ts'
import { openCard } from '../../peers/card.ts'
import { rights } from '../support/principals.ts'
import { type SiteOptions, startSite } from '../support/site.ts'

type Call = (method: 'GET' | 'POST' | 'PATCH', url: string, body?: object) => Promise<{ status: number; body: unknown }>

/** The HTTP routes of a site, as its administrator asks them. */
async function startAdmin(t: TestContext, options: SiteOptions): Promise<Call> {
  const site = await startSite(t, options)
  const app = await buildHttpServer({
    log: openLog({ level: 'silent' }),
    metrics: openMetrics(),
    auth: { adminTokenSha256: tokenDigest('none'), findToken: async () => undefined, rights, publicUrl: undefined },
    routes: scope => peerRoutes(scope, site),
  })
  t.after(() => app.close())
  return async (method, url, body) => {
    const answer = await app.inject({ method, url, headers: { host: 'localhost' }, ...(body && { payload: body }) })
    return { status: answer.statusCode, body: answer.json() }
  }
}

test('two administrators pair through JSON documents, online', async t => {
  const [a, b] = await Promise.all([startAdmin(t, { name: 'A' }), startAdmin(t, { name: 'B' })])
  const invited = await a('POST', '/peers/invitations', { name: 'Partner' })

  const joined = await b('POST', '/peers/accept', { invitation: at(invited.body, 'invitation') })
  const [atA] = items((await a('GET', '/peers')).body, 'peers')

  const sas = field(joined.body, 'peer', 'sas')
  assert.equal(at(joined.body, 'handover'), null)
  assert.deepEqual([at(atA, 'name'), at(atA, 'state'), at(atA, 'sas')], ['Partner', 'pending', sas])
  const wrong = await a('POST', `/peers/${field(atA, 'id')}/confirm`, { sas: '000000-000001' })
  assert.equal(at(wrong.body, 'code'), 'PAIRING_INVALID')
  const confirmed = await a('POST', `/peers/${field(atA, 'id')}/confirm`, { sas })
  assert.equal(at(confirmed.body, 'state'), 'active')
  const spaced = ` ${sas.replace('-', ' ')} `
  const atB = await b('POST', `/peers/${field(joined.body, 'peer', 'id')}/confirm`, { sas: spaced })
  assert.equal(at(atB.body, 'state'), 'active')
})

test('a site tells its own card, by which its deliveries are verified', async t => {
  const site = await startAdmin(t, { name: 'A' })

  const { status, body } = await site('GET', '/peers/card')

  assert.equal(status, 200)
  assert.equal(openCard(Buffer.from(JSON.stringify(body)), Date.now()).card.name, 'A')
})

test('two administrators pair through JSON documents, by files', async t => {
  const [a, b] = await Promise.all([startAdmin(t, { name: 'A', isReachable: false }), startAdmin(t, { name: 'B' })])
  const invitation = at((await a('POST', '/peers/invitations', {})).body, 'invitation')

  const answered = await b('POST', '/peers/accept', { invitation, offline: true, name: 'Hub' })
  const taken = await a('POST', '/peers/handovers', { handover: at(answered.body, 'handover') })
  const acknowledged = await b('POST', '/peers/handovers', { handover: at(taken.body, 'handover') })

  assert.equal(at(answered.body, 'peer', 'name'), 'Hub')
  assert.equal(at(taken.body, 'peer', 'sas'), at(answered.body, 'peer', 'sas'))
  assert.equal(at(acknowledged.body, 'peer', 'id'), at(answered.body, 'peer', 'id'))
  assert.equal(at(acknowledged.body, 'handover'), null)
  const nonsense = await a('POST', '/peers/handovers', { handover: invitation as object })
  assert.equal(at(nonsense.body, 'code'), 'PAIRING_INVALID')
})

test('a peer is changed and revoked', async t => {
  const [a, b] = await Promise.all([startAdmin(t, { name: 'A' }), startAdmin(t, { name: 'B' })])
  const invitation = at((await a('POST', '/peers/invitations', {})).body, 'invitation')
  const id = field((await b('POST', '/peers/accept', { invitation })).body, 'peer', 'id')

  const changed = await b('PATCH', `/peers/${id}`, { name: 'Hospital A', url: null })
  const revoked = await b('POST', `/peers/${id}/revoke`, { reason: 'test' })

  assert.deepEqual([at(changed.body, 'name'), at(changed.body, 'url')], ['Hospital A', null])
  assert.equal(at(revoked.body, 'state'), 'revoked')
  assert.ok(at(revoked.body, 'revokedAt'))
})
