import assert from 'node:assert/strict'
import { createHash, randomUUID } from 'node:crypto'
import { test } from 'node:test'
import type { Db } from '../../gateway/db/db.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { openRemoval } from '../../gateway/services/removal.ts'
import { findWrongCounters } from '../../gateway/store/counters.ts'
import { sweepRemoved } from '../../gateway/store/removed-blobs.ts'
import { storeApp } from '../http/store-app.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { caller } from '../support/principals.ts'

const principal = caller('token:tester', { address: '127.0.0.1' })
const digest = (bytes: Uint8Array): Buffer => createHash('sha256').update(bytes).digest()

async function count(db: Db, table: string): Promise<number> {
  const { rows } = await db.pool.query(`select count(*)::int as n from ${table}`)
  return rows[0].n
}

/** A transfer of one instance in this state. */
async function insertTransfer(db: Db, sopInstanceUid: string, state: string): Promise<string> {
  const id = randomUUID()
  await db.pool.query(
    `insert into policy_versions (version, document, sha256, author) values (1, '{}', sha256('x'), 'test') on conflict do nothing`,
  )
  await db.pool.query(
    `insert into transfers (id, study, study_instance_uid, destination, trigger, rule, policy_version, profile, purpose,
       requested_by, snapshot_sha256, state, nonce, manifest_created, object_count, bytes_total, expires_at)
     select $1::uuid, s.id, s.study_instance_uid, 'b', $1::text, 'r', 1, 'as-is', 'care', 'test', sha256('x'), $3, 'n', now(), 1, 1,
            now() + interval '1 day'
       from instances i join series c on c.id = i.series join studies s on s.id = c.study where i.sop_instance_uid = $2`,
    [id, sopInstanceUid, state],
  )
  await db.pool.query(
    `insert into transfer_items (transfer, ordinal, sop_instance_uid, sop_class_uid, transfer_syntax_uid, size_bytes, file_sha256)
     select $1, 0, sop_instance_uid, sop_class_uid, transfer_syntax_uid, size_bytes, file_sha256
       from instances where sop_instance_uid = $2`,
    [id, sopInstanceUid],
  )
  return id
}

test('what a transfer still has to send is not deleted; what has been sent is, and its record stays', async t => {
  const { db, upload } = await storeApp(t)
  const removal = openRemoval({ db })
  const first = buildInstance({ seed: 1 })
  const other = buildInstance({ ...first, seed: 2, sopInstanceUid: '1.2.3.2' })
  const { body } = await upload(first.bytes)
  const { body: second } = await upload(other.bytes)
  const study = String(body['ParentStudy'])

  for (const state of ['planned', 'sent', 'held']) {
    const transfer = await insertTransfer(db, first.sopInstanceUid, state)
    await assert.rejects(
      removal.remove(principal, 'study', study),
      error => isGatewayError(error, 'STATE_CONFLICT') && error.message.includes(transfer),
    )
    await db.pool.query(`update transfers set state = 'archived' where id = $1`, [transfer])
  }
  // An instance that no transfer has may go before the others.
  await insertTransfer(db, first.sopInstanceUid, 'planned')
  assert.equal((await removal.remove(principal, 'instance', String(second['ID']))).instances, 1)
  await db.pool.query(`update transfers set state = 'receipted'`)
  assert.equal((await removal.remove(principal, 'study', study)).instances, 1)

  assert.deepEqual([await count(db, 'instances'), await count(db, 'studies'), await count(db, 'patients')], [0, 0, 0])
  assert.equal(await count(db, 'transfers where study is null and study_instance_uid is not null'), 4)
})

test('a deletion is audited: a whole study by name and count, a part with its instances', async t => {
  const { db, upload } = await storeApp(t)
  const removal = openRemoval({ db })
  const first = buildInstance({ seed: 1 })
  const ids: string[] = []
  for (const seed of [1, 2, 3]) {
    const { bytes } = seed === 1 ? first : buildInstance({ ...first, seed, sopInstanceUid: `1.2.3.${seed}` })
    ids.push(String((await upload(bytes)).body['ID']))
  }

  await removal.remove(principal, 'instance', ids.slice(1), 'modified')
  await removal.remove(principal, 'instance', ids)

  const { rows } = await db.pool.query(`select payload::jsonb as event from audit_events order by id desc limit 2`)
  const [whole, part] = rows.map(row => row.event)
  assert.deepEqual([part.event, part.action, part.reason], ['110103', 'D', 'modified'])
  assert.deepEqual(
    part.objects.flatMap((object: { sopInstanceUid?: string }) => object.sopInstanceUid ?? []),
    ['1.2.3.2', '1.2.3.3'],
  )
  assert.deepEqual([whole.event, whole.action, whole.participants[0].userId], ['110105', 'D', 'token:tester'])
  assert.equal(whole.objects[1].studyInstanceUid, first.studyInstanceUid)
  assert.deepEqual(await removal.remove(principal, 'instance', ids), { resources: [], instances: 0 })
})

test('counters follow a deletion at every level', async t => {
  const { db, upload } = await storeApp(t)
  const removal = openRemoval({ db })
  const study = buildInstance({ seed: 1 })
  const ids: string[] = []
  for (const seed of [1, 2, 3, 4]) {
    const seriesInstanceUid = seed < 3 ? study.seriesInstanceUid : '1.2.3.4.5'
    const modality = seed < 3 ? 'CT' : 'MR'
    const { bytes } = buildInstance({
      ...study,
      seriesInstanceUid,
      seed,
      sopInstanceUid: `1.2.3.${seed}`,
      sopClassUid: '1.2.840.10008.5.1.4.1.1.7',
      modality,
    })
    ids.push(String((await upload(bytes)).body['ID']))
  }

  await removal.remove(principal, 'instance', [ids[0] ?? '', ids[2] ?? ''])
  for await (const wrong of findWrongCounters(db)) assert.fail(JSON.stringify(wrong))
  await removal.remove(principal, 'instance', ids[3] ?? '')
  for await (const wrong of findWrongCounters(db)) assert.fail(JSON.stringify(wrong))

  const { rows } = await db.pool.query('select modalities, instance_count from studies')
  assert.deepEqual(rows, [{ modalities: ['CT'], instance_count: 1 }])
  assert.equal(await count(db, 'series'), 1)
})

test('bytes go after their grace period, unless they came again meanwhile', async t => {
  const { db, blobs, upload } = await storeApp(t)
  const removal = openRemoval({ db })
  const [gone, back] = [buildInstance({ seed: 1 }), buildInstance({ seed: 2 })]
  const ids = [String((await upload(gone.bytes)).body['ID']), String((await upload(back.bytes)).body['ID'])]

  await removal.remove(principal, 'instance', ids)
  assert.equal(await sweepRemoved(db, blobs), 0)
  assert.ok(await blobs.has(digest(gone.bytes)))
  await upload(back.bytes)
  assert.equal(await sweepRemoved(db, blobs, { graceMs: 0 }), 1)

  assert.ok(!(await blobs.has(digest(gone.bytes))))
  assert.ok(await blobs.has(digest(back.bytes)))
  assert.equal(await count(db, 'removed_blobs'), 0)
})

test('bytes that ingest has placed and not yet named are not unlinked', async t => {
  const { db, blobs, upload } = await storeApp(t)
  const { bytes } = buildInstance({ seed: 1 })
  const id = String((await upload(bytes)).body['ID'])
  await openRemoval({ db }).remove(principal, 'instance', id)

  const staged = await blobs.stageFrom(
    (async function* () {
      yield bytes
    })(),
  )
  await blobs.commit(staged)
  assert.equal(await sweepRemoved(db, blobs, { graceMs: 0 }), 0)
  blobs.release(staged.fileSha256)

  assert.ok(await blobs.has(digest(bytes)))
})

test('held conflicts of a deleted instance are discarded, and their bytes go', async t => {
  const { db, blobs, upload } = await storeApp(t)
  const first = buildInstance({ seed: 1 })
  const other = buildInstance({ seed: 1, sopInstanceUid: first.sopInstanceUid, patientName: 'TEST^OTHER' })
  const { body } = await upload(first.bytes)
  assert.equal((await upload(other.bytes)).body['Status'], 'Conflict')

  await openRemoval({ db }).remove(principal, 'patient', String(body['ParentPatient']))

  const { rows } = await db.pool.query('select state, decided_by, instance from conflicts')
  assert.deepEqual(rows, [{ state: 'discarded', decided_by: 'token:tester', instance: null }])
  assert.equal(await sweepRemoved(db, blobs, { graceMs: 0 }), 2)
})

test('arrivals and deletions of the same study at once leave no counter wrong', async t => {
  const { db, upload } = await storeApp(t)
  const removal = openRemoval({ db })
  const study = buildInstance({ seed: 1 })
  const files = Array.from(
    { length: 24 },
    (_, at) => buildInstance({ ...study, seed: at + 1, sopInstanceUid: `1.2.3.${at + 1}` }).bytes,
  )

  await Promise.all(
    files.map(async (bytes, at) => {
      const { body } = await upload(bytes)
      if (at % 2 === 0) await removal.remove(principal, 'instance', String(body['ID']))
    }),
  )

  for await (const wrong of findWrongCounters(db)) assert.fail(JSON.stringify(wrong))
  assert.equal(await count(db, 'instances'), 12)
})
