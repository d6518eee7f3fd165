import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { openAttributeDiffs } from '../../gateway/services/attribute-diff.ts'
import { openIngest } from '../../gateway/services/ingest.ts'
import { openPolicies } from '../../gateway/services/policies.ts'
import { ensurePolicy } from '../../policy/versions.ts'
import { testBlobs } from '../support/blobs.ts'
import { testDatabase } from '../support/database.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { testSite } from '../support/offers.ts'
import { caller } from '../support/principals.ts'

const author = caller('token:author', { roles: ['policy-author', 'viewer'] })
const instance = buildInstance({ seed: 1, patientId: 'TEST-1', rows: 8, cols: 8 })

async function open(t: TestContext) {
  const db = await testDatabase(t)
  const blobs = await testBlobs(t)
  await ensurePolicy(db)
  const ingest = openIngest({ db, blobs, dueAt: () => undefined })
  const staged = await ingest.stage()
  staged.markDataset()
  await staged.append([instance.bytes])
  await ingest.store(await staged.finish(), { kind: 'dimse', principal: 'CT_1' })
  const { id: study } = await db.kysely.selectFrom('studies').select('id').executeTakeFirstOrThrow()
  const policies = openPolicies({ db, signer: testSite(1), findModality: () => undefined, twoPersons: true })
  return { db, study, diffs: openAttributeDiffs({ db, blobs, policies }) }
}

test('a profile is shown attribute by attribute, with the value before and after', async t => {
  const { db, study, diffs } = await open(t)

  const diff = await diffs.ofStudy(author, study, { policy: 'active', profile: 'basic' })

  assert.deepEqual([diff.outcome, diff.sopInstanceUid, diff.isCut], ['go', instance.sopInstanceUid, false])
  const of = (keyword: string) => diff.changes.find(change => change.keyword === keyword && !change.path.includes('['))
  assert.equal(of('PatientID')?.before, '["TEST-1"]')
  assert.equal(of('PatientID')?.kind, 'replaced')
  assert.notEqual(of('SOPInstanceUID')?.after, of('SOPInstanceUID')?.before)
  assert.deepEqual([of('PatientIdentityRemoved')?.kind, of('PatientIdentityRemoved')?.after], ['added', '["YES"]'])
  assert.equal(of('Modality'), undefined)
  const { rows } = await db.pool.query(`select 1 from audit_events where payload like '%policy-dry-run%'`)
  assert.equal(rows.length, 1)
})

test('a file is looked at in the same way, and what cannot be de-identified says why', async t => {
  const { diffs } = await open(t)
  const under = { policy: 'active', profile: 'trial' }

  const diff = await diffs.ofFile(author, instance.bytes, under)

  assert.ok(diff.outcome === 'held' ? diff.reason : diff.changes.length > 5)
  await assert.rejects(diffs.ofFile(author, Buffer.from('no DICOM'), under), error =>
    isGatewayError(error, 'DICOM_UNREADABLE'),
  )
  await assert.rejects(diffs.ofFile(author, instance.bytes, { ...under, profile: 'nowhere' }), error =>
    isGatewayError(error, 'NOT_FOUND'),
  )
})

test('who may not read studies sees none of their values', async t => {
  const { study, diffs } = await open(t)
  const blind = caller('token:blind', { roles: ['policy-author'] })

  await assert.rejects(diffs.ofStudy(blind, study, { policy: 'active', profile: 'basic' }), error =>
    isGatewayError(error, 'FORBIDDEN'),
  )
})
