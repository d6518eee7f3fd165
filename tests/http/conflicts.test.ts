import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openConflicts } from '../../gateway/services/conflicts.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { caller } from '../support/principals.ts'
import { type StoreApp, storeApp } from './store-app.ts'

const person = caller('token:anna', { address: '10.0.0.9' })
const headers = { host: 'localhost' }

/** One stored instance and another of the same UID that is held. */
async function conflict(store: StoreApp, options: { otherStudy?: boolean } = {}) {
  const first = buildInstance({ seed: 1 })
  const { sopInstanceUid, studyInstanceUid, seriesInstanceUid, patientId } = first
  const second = options.otherStudy
    ? buildInstance({ seed: 2, sopInstanceUid })
    : buildInstance({ seed: 2, sopInstanceUid, studyInstanceUid, seriesInstanceUid, patientId })
  const stored = await store.upload(first.bytes)
  const held = await store.upload(second.bytes)
  return { first, second, instance: String(stored.body['ID']), id: Number(held.body['HeldConflict']) }
}

async function fileOf(store: StoreApp, url: string): Promise<Buffer> {
  const answer = await store.app.inject({ url, headers })
  assert.equal(answer.statusCode, 200)
  return answer.rawPayload
}

test('a held conflict is listed with both digests, and its bytes are given back as received', async t => {
  const store = await storeApp(t)
  const { second, instance, id } = await conflict(store)

  const { body } = await store.get('/conflicts?state=held')
  const bytes = await fileOf(store, `/conflicts/${id}/file`)

  assert.ok(bytes.equals(Buffer.from(second.bytes)))
  const [found] = (body as { conflicts: Record<string, unknown>[] }).conflicts
  assert.deepEqual(
    [found?.['id'], found?.['kind'], found?.['state'], found?.['instance']],
    [id, 'conflict', 'held', instance],
  )
  assert.notEqual(found?.['fileSha256'], found?.['storedSha256'])
  assert.deepEqual(((await store.get('/conflicts?state=kept')).body as { conflicts: unknown[] }).conflicts, [])
})

test('keep leaves the stored instance and the held bytes retrievable', async t => {
  const store = await storeApp(t)
  const { first, second, instance, id } = await conflict(store)
  const conflicts = openConflicts(store)

  const decided = await conflicts.decide(person, id, 'keep')
  const again = await conflicts.decide(person, id, 'keep')

  assert.deepEqual([decided.state, decided.decidedBy], ['kept', 'token:anna'])
  assert.deepEqual(again, decided)
  assert.ok((await fileOf(store, `/instances/${instance}/file`)).equals(Buffer.from(first.bytes)))
  assert.ok((await fileOf(store, `/conflicts/${id}/file`)).equals(Buffer.from(second.bytes)))
  await assert.rejects(conflicts.decide(person, id, 'discard'), { code: 'STATE_CONFLICT' })
})

test('replace puts the held bytes in the instance’s place and holds the replaced ones', async t => {
  const store = await storeApp(t)
  const { first, second, instance, id } = await conflict(store)

  const decided = await openConflicts(store).decide(person, id, 'replace')

  assert.equal(decided.state, 'replaced')
  assert.equal(decided.instance, instance)
  assert.ok((await fileOf(store, `/instances/${instance}/file`)).equals(Buffer.from(second.bytes)))
  assert.ok((await fileOf(store, `/conflicts/${id}/file`)).equals(Buffer.from(first.bytes)))
  const { body } = await store.get('/statistics')
  assert.deepEqual(body, { ...(body as object), CountInstances: 1, TotalDiskSize: String(second.bytes.length) })
  const { rows } = await store.db.pool.query(
    `select payload::jsonb as event from audit_events order by id desc limit 3`,
  )
  const event = rows.map(row => row.event).find(found => found.reason === 'replace')
  assert.deepEqual([event?.action, event?.participants[0].userId], ['U', 'token:anna'])
})

test('a replacement that belongs to another study moves the instance and leaves no empty parents', async t => {
  const store = await storeApp(t)
  const { second, id } = await conflict(store, { otherStudy: true })

  await openConflicts(store).decide(person, id, 'replace')

  const { body } = await store.get('/studies?expand&since=0&limit=10')
  const studies = body as { MainDicomTags: Record<string, string>; PatientMainDicomTags: Record<string, string> }[]
  assert.equal(studies.length, 1)
  assert.equal(studies[0]?.MainDicomTags['StudyInstanceUID'], second.studyInstanceUid)
  assert.equal(studies[0]?.PatientMainDicomTags['PatientID'], second.patientId)
  const { body: statistics } = await store.get('/statistics')
  assert.deepEqual(statistics, {
    ...(statistics as object),
    CountPatients: 1,
    CountStudies: 1,
    CountSeries: 1,
    CountInstances: 1,
  })
})

test('discard leaves the stored instance; the held bytes are not given out any more', async t => {
  const store = await storeApp(t)
  const { first, instance, id } = await conflict(store)

  await openConflicts(store).decide(person, id, 'discard')

  assert.equal((await store.get(`/conflicts/${id}/file`)).status, 404)
  assert.ok((await fileOf(store, `/instances/${instance}/file`)).equals(Buffer.from(first.bytes)))
})

test('two people who decide differently at once get one decision', async t => {
  const store = await storeApp(t)
  const { id } = await conflict(store)
  const conflicts = openConflicts(store)

  const results = await Promise.allSettled([
    conflicts.decide(person, id, 'replace'),
    conflicts.decide(person, id, 'discard'),
    conflicts.decide(person, id, 'keep'),
  ])

  assert.equal(results.filter(result => result.status === 'fulfilled').length, 1)
  const { rows } = await store.db.pool.query('select count(*)::int as n from instances')
  assert.equal(rows[0].n, 1)
})

test('an unknown conflict is not found, and a decision that is none is refused', async t => {
  const store = await storeApp(t)

  assert.equal((await store.get('/conflicts/77')).status, 404)
  const answer = await store.app.inject({
    method: 'POST',
    url: '/conflicts/77/decision',
    headers,
    payload: { decision: 'maybe' },
  })
  assert.equal(answer.statusCode, 400)
})

test('bytes that came from a peer stay with the peer’s own patient when they replace an instance', async t => {
  const store = await storeApp(t)
  const { id } = await conflict(store)
  const site = 'ab'.repeat(16)
  const origin = JSON.stringify({ kind: 'peer', principal: site, peerId: 'p', transferId: 't' })
  await store.db.pool.query('update conflicts set origin = $1::jsonb where id = $2', [origin, id])

  await openConflicts(store).decide(person, id, 'replace')

  const { rows } = await store.db.pool.query('select issuer from patients')
  assert.deepEqual(rows, [{ issuer: site }])
})
