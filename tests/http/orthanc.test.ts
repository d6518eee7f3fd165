import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { buildInstance } from '../support/dicom-builder.ts'
import { storeApp } from './store-app.ts'

test('an uploaded instance is answered as Orthanc does, and the same bytes again are AlreadyStored', async t => {
  const { upload } = await storeApp(t)
  const { bytes } = buildInstance({ seed: 1 })

  const first = await upload(bytes)
  const second = await upload(bytes)

  assert.equal(first.status, 200)
  assert.deepEqual(Object.keys(first.body), ['ID', 'ParentPatient', 'ParentSeries', 'ParentStudy', 'Path', 'Status'])
  assert.equal(first.body['Status'], 'Success')
  assert.equal(first.body['Path'], `/instances/${first.body['ID']}`)
  assert.deepEqual(second.body, { ...first.body, Status: 'AlreadyStored' })
})

test('other bytes under a known SOP Instance UID are a conflict: success, held, never overwritten', async t => {
  const { upload, app } = await storeApp(t)
  const { bytes, sopInstanceUid } = buildInstance({ seed: 1 })
  const other = buildInstance({ seed: 1, sopInstanceUid, patientName: 'TEST^OTHER' })
  const stored = await upload(bytes)

  const conflict = await upload(other.bytes)

  assert.deepEqual([conflict.status, conflict.body['Status']], [200, 'Conflict'])
  assert.equal(conflict.body['ID'], stored.body['ID'])
  const file = await app.inject({ url: `/instances/${stored.body['ID']}/file`, headers: { host: 'localhost' } })
  assert.ok(file.rawPayload.equals(Buffer.from(bytes)))
})

test('what is no DICOM file is refused with 400 and leaves nothing behind', async t => {
  const { upload, db } = await storeApp(t)

  for (const bytes of [Buffer.alloc(0), Buffer.from('hello'), Buffer.alloc(1000, 7), Buffer.from('<html></html>')]) {
    const { status, body } = await upload(bytes)
    assert.deepEqual([status, body['code']], [400, 'DICOM_UNREADABLE'])
  }
  const { rows } = await db.pool.query('select count(*)::int as n from instances')
  assert.equal(rows[0].n, 0)
})

test('a file over the limit is refused with 413', async t => {
  const { upload } = await storeApp(t, { limitBytes: 2000 })

  const { status, body } = await upload(buildInstance({ seed: 1 }).bytes)

  assert.deepEqual([status, body['code']], [413, 'TOO_LARGE'])
})

test('a file is given back byte for byte, whole, in ranges, and not again to who has it', async t => {
  const { app, upload } = await storeApp(t)
  const bytes = Buffer.from(buildInstance({ seed: 3, frames: 4 }).bytes)
  const url = `/instances/${(await upload(bytes)).body['ID']}/file`
  const get = (headers: Record<string, string>, method: 'GET' | 'HEAD' = 'GET') =>
    app.inject({ method, url, headers: { host: 'localhost', ...headers } })

  const whole = await get({})
  const etag = String(whole.headers['etag'])
  const cases = [
    { range: 'bytes=0-9', expected: bytes.subarray(0, 10), contentRange: `bytes 0-9/${bytes.length}` },
    {
      range: 'bytes=100-',
      expected: bytes.subarray(100),
      contentRange: `bytes 100-${bytes.length - 1}/${bytes.length}`,
    },
    {
      range: 'bytes=-5',
      expected: bytes.subarray(-5),
      contentRange: `bytes ${bytes.length - 5}-${bytes.length - 1}/${bytes.length}`,
    },
    {
      range: 'bytes=10-999999999',
      expected: bytes.subarray(10),
      contentRange: `bytes 10-${bytes.length - 1}/${bytes.length}`,
    },
  ]

  assert.ok(whole.rawPayload.equals(bytes))
  assert.equal(whole.headers['content-type'], 'application/dicom')
  assert.equal(etag, `"${createHash('sha256').update(bytes).digest('hex')}"`)
  for (const { range, expected, contentRange } of cases) {
    const part = await get({ range })
    assert.equal(part.statusCode, 206)
    assert.equal(part.headers['content-range'], contentRange)
    assert.ok(part.rawPayload.equals(expected), range)
  }
  assert.equal((await get({ range: `bytes=${bytes.length}-` })).statusCode, 416)
  assert.equal((await get({ range: 'bytes=0-1,5-6' })).statusCode, 200)
  assert.equal((await get({ range: 'bytes=0-9', 'if-range': '"other"' })).statusCode, 200)
  assert.equal((await get({ 'if-none-match': etag })).statusCode, 304)
  const head = await get({}, 'HEAD')
  assert.deepEqual(
    [head.statusCode, head.headers['content-length'], head.rawPayload.length],
    [200, String(bytes.length), 0],
  )
})

test('opening a file is an audit event that names the instance and who asked', async t => {
  const { app, upload, db } = await storeApp(t)
  const { bytes, sopInstanceUid } = buildInstance({ seed: 4 })
  const { body } = await upload(bytes)

  await app.inject({ url: `/instances/${body['ID']}/file`, headers: { host: 'localhost' } })

  const { rows } = await db.pool.query(`select payload::jsonb as event from audit_events order by id desc limit 1`)
  assert.equal(rows[0].event.event, '110103')
  assert.equal(rows[0].event.participants[0].userId, 'local')
  assert.match(JSON.stringify(rows[0].event.objects), new RegExp(sopInstanceUid))
})

test('lists page in order of arrival, expand to details, and want since and limit together', async t => {
  const { upload, get } = await storeApp(t)
  const ids: unknown[] = []
  for (let seed = 1; seed <= 5; seed++) ids.push((await upload(buildInstance({ seed }).bytes)).body['ID'])

  assert.deepEqual((await get('/instances')).body, ids)
  assert.deepEqual((await get('/instances?since=1&limit=2')).body, ids.slice(1, 3))
  assert.deepEqual((await get('/instances?since=9&limit=2')).body, [])
  assert.deepEqual((await get('/instances?since=0&limit=0')).body, [])
  assert.equal((await get('/instances?limit=2')).status, 400)
  assert.equal((await get('/instances?since=-1&limit=2')).status, 400)
  const expanded = (await get('/instances?since=4&limit=1&expand')).body
  assert.deepEqual(expanded, [(await get(`/instances/${ids[4]}`)).body])
  assert.equal((await get('/instances/00000000-00000000-00000000-00000000-00000000')).status, 404)
})

test('statistics are summed from the counters that ingest keeps', async t => {
  const { upload, get } = await storeApp(t)
  const study = buildInstance({ seed: 1 })
  const files = [study, ...[2, 3].map(seed => buildInstance({ ...study, seed, sopInstanceUid: `1.2.3.${seed}` }))]
  for (const { bytes } of files) await upload(bytes)
  await upload(study.bytes)

  const sizeBytes = files.reduce((sum, file) => sum + file.bytes.length, 0)
  assert.deepEqual((await get('/statistics')).body, {
    CountInstances: 3,
    CountPatients: 1,
    CountSeries: 1,
    CountStudies: 1,
    TotalDiskSize: String(sizeBytes),
    TotalDiskSizeMB: 0,
    TotalUncompressedSize: String(sizeBytes),
    TotalUncompressedSizeMB: 0,
  })
})
