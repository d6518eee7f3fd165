import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ensurePolicy, listPolicies, loadActivePolicy, loadPolicy, publishPolicy } from '../../policy/versions.ts'
import { testDatabase } from '../support/database.ts'

const document = (title: string) => ({ format: 'hanse-policy-1', title, destinations: {}, rules: [] })

test('a new site has a first policy under which nothing leaves', async t => {
  const db = await testDatabase(t)

  await ensurePolicy(db)
  await ensurePolicy(db)

  const active = await loadActivePolicy(db.kysely)
  assert.equal(active?.version, 1)
  assert.deepEqual(active?.document.rules, [])
})

test('publishing makes an immutable numbered version, active at once and audited in the same transaction', async t => {
  const db = await testDatabase(t)
  const first = await publishPolicy(db, document('one'), 'alice')
  const again = await publishPolicy(db, document('one'), 'bob')
  const second = await publishPolicy(db, document('two'), 'bob')
  const rollback = await publishPolicy(db, document('one'), 'bob')

  assert.deepEqual([first.version, again.version, second.version, rollback.version], [1, 1, 2, 3])
  assert.equal(rollback.sha256, first.sha256)
  assert.equal((await loadActivePolicy(db.kysely))?.version, 3)
  assert.equal((await loadPolicy(db.kysely, 2))?.document.title, 'two')
  assert.deepEqual(
    (await listPolicies(db.kysely, { limit: 2 })).map(policy => policy.version),
    [3, 2],
  )
  const events = await db.kysely.selectFrom('audit_events').select('payload').execute()
  assert.equal(events.filter(event => event.payload?.includes('policy-published')).length, 3)
})

test('publishers at the same time get different numbers', async t => {
  const db = await testDatabase(t)

  const published = await Promise.all([1, 2, 3, 4].map(n => publishPolicy(db, document(`title ${n}`), 'alice')))

  assert.deepEqual(published.map(policy => policy.version).sort(), [1, 2, 3, 4])
})

test('a published version can be changed by nobody, not even by a statement of our own', async t => {
  const db = await testDatabase(t)
  await publishPolicy(db, document('one'), 'alice')

  const change = db.kysely.updateTable('policy_versions').set({ document: JSON.stringify(document('forged')) })
  await assert.rejects(change.execute(), /cannot be changed/)
  await assert.rejects(db.kysely.deleteFrom('policy_versions').execute(), /cannot be changed/)
  await assert.rejects(db.pool.query('truncate policy_versions cascade'), /cannot be changed/)
})

test('a policy that was changed behind its digest is not followed', async t => {
  const db = await testDatabase(t)
  await publishPolicy(db, document('one'), 'alice')

  await db.pool.query('alter table policy_versions disable trigger policy_versions_immutable')
  await db.kysely
    .updateTable('policy_versions')
    .set({ document: JSON.stringify(document('forged')) })
    .execute()

  await assert.rejects(loadActivePolicy(db.kysely), /not the one that was published/)
})
