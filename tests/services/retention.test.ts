import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { openLog } from '../../gateway/log.ts'
import { openLegalHolds } from '../../gateway/services/legal-holds.ts'
import { openRemoval } from '../../gateway/services/removal.ts'
import { openRetention } from '../../gateway/services/retention.ts'
import { storeApp } from '../http/store-app.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { caller } from '../support/principals.ts'

const admin = caller('token:admin')
const auditor = caller('token:auditor', { roles: ['auditor'] })
const never = new AbortController().signal
const conflict = (error: unknown): boolean => isGatewayError(error, 'STATE_CONFLICT')

/** A store with three studies of one patient, each ten days old. */
async function site(t: Parameters<typeof storeApp>[0]) {
  const { db, upload } = await storeApp(t)
  const ids: string[] = []
  for (const seed of [1, 2, 3]) {
    const uid = `1.2.826.0.1.${seed}`
    const { body } = await upload(
      buildInstance({
        seed,
        patientId: 'TEST-1',
        studyInstanceUid: uid,
        seriesInstanceUid: `${uid}.1`,
        sopInstanceUid: `${uid}.1.1`,
      }).bytes,
    )
    ids.push(String(body['ParentStudy']))
  }
  await db.pool.query(`update studies set updated_at = now() - interval '10 days'`)
  const removal = openRemoval({ db })
  const log = openLog({ level: 'silent' })
  const retention = openRetention({ db, removal, freeBytes: async () => 1_000_000, log })
  const left = async (): Promise<string[]> =>
    (await db.pool.query('select orthanc_id from studies order by id')).rows.map(row => row.orthanc_id)
  return { db, ids, removal, retention, left, holds: openLegalHolds({ db }) }
}

test('without a rule everything is kept; with one what is old enough goes, on record with who and why', async t => {
  const { db, retention, left, ids } = await site(t)

  assert.equal(await retention.apply(never), 0)
  await retention.put(admin, [{ name: 'later', origin: 'rest', days: 11, needs: 'nothing' }])
  assert.equal(await retention.apply(never), 0)
  await retention.put(admin, [
    { name: 'imports', origin: 'peer', days: 1, needs: 'nothing' },
    { name: 'uploads', origin: 'rest', days: 9, needs: 'nothing' },
    { name: 'all', days: 1, needs: 'nothing' },
  ])
  await db.pool.query('update studies set due_at = now() where orthanc_id = $1', [ids[1]])
  await db.pool.query('update studies set updated_at = now() where orthanc_id = $1', [ids[2]])
  const forecast = await retention.forecast(auditor)
  assert.equal(await retention.apply(never), 1)

  assert.deepEqual(await left(), ids.slice(1))
  assert.deepEqual(
    forecast.due.map(({ withinDays, studies }) => [withinDays, studies]),
    [
      [0, 1],
      [7, 1],
      [30, 2],
    ],
  )
  const { rows } = await db.pool.query(`select payload from audit_events where payload like '%retention:uploads%'`)
  assert.equal(rows.length, 1)
  assert.match(rows[0].payload, /"reason":"retention"/)
})

test('what a transfer has to send, or no archive has committed to, is kept', async t => {
  const { db, retention, left, ids } = await site(t)
  await db.pool.query(
    `insert into policy_versions (version, document, sha256, author) values (1, '{}', sha256('x'), 'test') on conflict do nothing`,
  )
  const send = (study: string | undefined, state: string, archived: boolean) =>
    db.pool.query(
      `with t as (
         insert into transfers (id, study, study_instance_uid, destination, trigger, rule, policy_version, profile, purpose,
           requested_by, snapshot_sha256, state, nonce, manifest_created, object_count, bytes_total, expires_at)
         select gen_random_uuid(), id, study_instance_uid, 'b', gen_random_uuid()::text, 'r', 1, 'as-is', 'care', 'test',
                sha256('x'), $2, 'n', now(), 1, 1, now() + interval '1 day' from studies where orthanc_id = $1
         returning id, study)
       insert into transfer_items (transfer, ordinal, sop_instance_uid, sop_class_uid, transfer_syntax_uid, size_bytes,
         file_sha256, archived_at)
       select t.id, 0, i.sop_instance_uid, i.sop_class_uid, i.transfer_syntax_uid, i.size_bytes, i.file_sha256,
              case when $3 then now() end
         from t join series c on c.study = t.study join instances i on i.series = c.id`,
      [study, state, archived],
    )
  await send(ids[0], 'archived', true)
  await send(ids[1], 'receipted', false)
  await send(ids[2], 'archived', true)
  await send(ids[2], 'planned', false)

  await retention.put(admin, [{ name: 'archived', days: 1 }])
  assert.equal(await retention.apply(never), 1)

  assert.deepEqual(await left(), ids.slice(1))
})

test('a legal hold keeps a patient or a study from retention and from everybody, until it is released', async t => {
  const { db, retention, removal, holds, left, ids } = await site(t)
  await retention.put(admin, [{ name: 'all', days: 1, needs: 'nothing' }])
  const { rows } = await db.pool.query('select issuer, patient_id as "patientId" from patients limit 1')
  const patient = await holds.place(admin, rows[0], 'court order 7')
  const study = await holds.place(admin, { studyInstanceUid: '1.2.826.0.1.2' }, 'court order 8')

  assert.equal(await retention.apply(never), 0)
  await assert.rejects(removal.remove(admin, 'study', ids[0] ?? ''), conflict)
  assert.equal((await holds.list(auditor, 10)).length, 2)
  await assert.rejects(holds.release(auditor, patient.id), (error: unknown) => isGatewayError(error, 'FORBIDDEN'))

  await holds.release(admin, patient.id)
  assert.equal(await retention.apply(never), 2)
  assert.deepEqual(await left(), [ids[1]])
  await holds.release(admin, study.id)
  await assert.rejects(holds.release(admin, study.id), (error: unknown) => isGatewayError(error, 'NOT_FOUND'))
  assert.equal(await retention.apply(never), 1)
})

test('rules that are none are refused with what is wrong, and stay as they were', async t => {
  const { retention } = await site(t)

  await assert.rejects(retention.put(admin, [{ name: 'x', days: 0 }]), /days/)
  await assert.rejects(retention.put(admin, [{ days: 3 }]), /name/)
  await assert.rejects(retention.put(auditor, []), (error: unknown) => isGatewayError(error, 'FORBIDDEN'))
  assert.deepEqual(await retention.load(auditor), { version: 0, rules: [] })
})
