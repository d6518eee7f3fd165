import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { openPolicies } from '../../gateway/services/policies.ts'
import { verify } from '../../peers/envelope.ts'
import { ensurePolicy, policyContext, policyStatement, profileOf } from '../../policy/versions.ts'
import { testDatabase } from '../support/database.ts'
import { testSite } from '../support/offers.ts'
import { caller } from '../support/principals.ts'

const alice = caller('token:alice')
const bob = caller('token:bob')
const signer = testSite(1)
const document = (title: string, change: object = {}) => ({
  format: 'hanse-policy-2',
  title,
  destinations: {},
  rules: [],
  ...change,
})
const refused = (code: Parameters<typeof isGatewayError>[1]) => (error: unknown) => isGatewayError(error, code)

async function open(t: TestContext, twoPersons = true) {
  const db = await testDatabase(t)
  await ensurePolicy(db, signer)
  return { db, policies: openPolicies({ db, signer, findModality: () => undefined, twoPersons }) }
}

test('a second person publishes a draft; none of its authors can', async t => {
  const { db, policies } = await open(t)
  const carol = caller('token:carol')
  const { id } = await policies.createDraft(alice, document('one'))
  await policies.changeDraft(bob, id, { raw: document('two'), revision: 1 })

  await assert.rejects(policies.publishDraft(alice, id), refused('FORBIDDEN'))
  await assert.rejects(policies.publishDraft(bob, id), refused('FORBIDDEN'))
  await assert.rejects(policies.publish(alice, document('three')), refused('FORBIDDEN'))
  const published = await policies.publishDraft(carol, id)

  assert.deepEqual(
    [published.version, published.document.title, published.author, published.publisher, published.twoPersons],
    [2, 'two', 'token:alice, token:bob', 'token:carol', true],
  )
  const draft = await policies.loadDraft(alice, id)
  assert.deepEqual([draft.state, draft.version], ['published', 2])
  await assert.rejects(policies.publishDraft(carol, id), refused('STATE_CONFLICT'))
  await assert.rejects(policies.changeDraft(alice, id, { raw: document('x'), revision: 2 }), refused('STATE_CONFLICT'))
  const { rows } = await db.pool.query(`select payload from audit_events where payload like '%policy-published%'`)
  assert.match(String(rows.at(-1)?.payload), /token:carol.*"twoPersons":true/)
})

test('a version carries the signature of the site over its digest, number and persons', async t => {
  const { policies } = await open(t)
  const { id } = await policies.createDraft(alice, document('signed'))

  const published = await policies.publishDraft(bob, id)

  const signature = published.signature ?? Buffer.alloc(64)
  assert.ok(verify(policyContext, signer.signingKey, policyStatement(published), signature))
  const other = policyStatement({ ...published, publisher: 'token:alice' })
  assert.ok(!verify(policyContext, signer.signingKey, other, signature))
})

test('a draft that was changed since it was looked at is not published', async t => {
  const { policies } = await open(t)
  const { id } = await policies.createDraft(alice, document('one'))
  await policies.changeDraft(alice, id, { raw: document('two'), revision: 1 })

  await assert.rejects(policies.changeDraft(alice, id, { raw: document('x'), revision: 1 }), refused('STATE_CONFLICT'))
  await assert.rejects(policies.publishDraft(bob, id, 1), refused('STATE_CONFLICT'))
  assert.equal((await policies.publishDraft(bob, id, 2)).document.title, 'two')
})

test('publishing turns names into site ids and writes profiles that come along into the version', async t => {
  const { db, policies } = await open(t, false)
  const siteId = 'ab'.repeat(16)
  await db.pool.query(
    `insert into peers (id, site_id, name, state, card, ca_certificate, ca_fingerprint, signing_key, sealing_key)
     values (gen_random_uuid(), $1, 'Hospital B', 'active', '', '', $2, $2, $2)`,
    [siteId, Buffer.alloc(32, 1)],
  )
  const to = (peer: string, profile: string) =>
    document('x', {
      destinations: { b: { peer } },
      rules: [{ id: 'r', when: { always: true }, send: { to: ['b'], purpose: 'x', profile } }],
    })

  await assert.rejects(policies.publish(alice, to('Nobody', 'trial')), /no paired site is called Nobody/)
  await assert.rejects(policies.publish(alice, to('Hospital B', 'as-is')), /is outside/)
  const published = await policies.publish(alice, to('Hospital B', 'trial'))

  assert.equal(published.document.destinations['b']?.peer, siteId)
  assert.deepEqual(
    published.document.profiles.map(({ name }) => name),
    ['trial'],
  )
  assert.equal((await profileOf(db.kysely, published.version, 'trial'))?.basis, 'consent')
  assert.equal(await profileOf(db.kysely, published.version, 'as-is'), undefined)
  await assert.rejects(profileOf(db.kysely, published.version, 'lung'), refused('POLICY_INVALID'))
})

test('a rollback brings an older document back under a new number, and its author cannot do it', async t => {
  const { policies } = await open(t)
  for (const title of ['one', 'two']) {
    const { id } = await policies.createDraft(alice, document(title))
    await policies.publishDraft(bob, id)
  }

  await assert.rejects(policies.rollback(alice, 2), refused('FORBIDDEN'))
  const back = await policies.rollback(bob, 2)

  assert.deepEqual([back.version, back.document.title, back.rollbackOf, back.author], [4, 'one', 2, 'token:alice'])
  const changes = await policies.diff(alice, 3, 'active')
  assert.deepEqual(changes, [{ path: 'title', kind: 'changed', before: 'two', after: 'one' }])
})
