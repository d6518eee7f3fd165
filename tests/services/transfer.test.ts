import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import {
  auditOf,
  buildStudy,
  deliver,
  makePeers,
  planTransfer,
  startFederationSite,
  transferOf,
  untilState,
  visibleAt,
} from '../support/federation.ts'

test('a study arrives whole, byte for byte, and both sites hold the receipts and the audit trail', async t => {
  const [a, b] = await Promise.all([startFederationSite(t, { name: 'A' }), startFederationSite(t, { name: 'B' })])
  const { ofA } = await makePeers(a, b)
  const study = buildStudy(30, { rows: 256 })
  const id = await planTransfer(a, ofA, study)

  await deliver(a, id)
  await untilState(a, id, 'receipted')

  const sent = await transferOf(a, id)
  assert.deepEqual(await visibleAt(b), study.map(item => item.sopInstanceUid).sort())
  assert.equal(sent.bytes_acknowledged, sent.bytes_total)
  assert.equal(sent.bytes_sent, sent.bytes_total)
  for (const item of study) {
    const row = await b.db.kysely
      .selectFrom('instances')
      .select('file_sha256')
      .where('sop_instance_uid', '=', item.sopInstanceUid)
      .executeTakeFirstOrThrow()
    assert.deepEqual(await readFile(b.blobs.path(row.file_sha256)), Buffer.from(item.bytes))
  }
  const patient = await b.db.kysely.selectFrom('patients').selectAll().executeTakeFirstOrThrow()
  assert.equal(patient.issuer, a.keys.siteId)
  const kinds = async (site: typeof a) =>
    (await site.db.kysely.selectFrom('receipts').select(['kind', 'direction']).orderBy('id').execute()).map(
      row => `${row.direction} ${row.kind}`,
    )
  assert.deepEqual(await kinds(a), ['received accepted', 'received custody', 'received imported'])
  assert.deepEqual(await kinds(b), ['issued accepted', 'issued custody', 'issued imported'])
  const steps = await a.db.kysely.selectFrom('transfer_steps').select('step').orderBy('id').execute()
  assert.deepEqual(
    steps.map(row => row.step),
    ['prepared', 'signed', 'accepted', 'sent', 'receipted'],
  )
  const ends = (await auditOf(b)).filter(event => event.event === '110104')
  assert.deepEqual(
    ends.map(event => event.outcome),
    ['success'],
  )
})
