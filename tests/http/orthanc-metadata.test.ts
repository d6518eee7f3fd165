import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { inflateSync } from 'node:zlib'
import { isObject } from '../../gateway/decode.ts'
import { sweepRemoved } from '../../gateway/store/removed-blobs.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { missingOrthanc } from '../support/orthanc.ts'
import { orthancPair } from './orthanc-pair.ts'
import { storeApp } from './store-app.ts'

const registered = { UserMetadata: { MyMetadata: 1030 }, UserContentType: { 'my-attachment': 1031 } }
const files = [1, 2].map(seed => buildInstance({ seed, studyInstanceUid: '1.2.3', patientId: 'ONE' }).bytes)

/** Offsets of pixel data are not kept. */
const withoutOffset = (body: unknown): unknown => {
  if (Array.isArray(body)) return body.filter(name => name !== 'PixelDataOffset')
  if (!isObject(body)) return body
  const { PixelDataOffset: _, ...rest } = body
  return rest
}

test('metadata of every level are listed, read, set and removed as by Orthanc', { skip: missingOrthanc }, async t => {
  const pair = await orthancPair(t, { settings: registered, files })
  const { ID, ParentSeries, ParentStudy, ParentPatient } = pair.instances[0] ?? assert.fail()
  const ask = (method: 'GET' | 'PUT' | 'DELETE', path: string, body?: string) =>
    pair.same({ method, path, ...(body !== undefined && { body }) }, withoutOffset)

  const paths = { patients: ParentPatient, studies: ParentStudy, series: ParentSeries, instances: ID }
  for (const [level, id] of Object.entries(paths)) {
    const path = `/${level}/${id}/metadata`
    await ask('GET', path)
    await ask('GET', `${path}?expand`)
    for (const name of ['1024', '65535', 'MyMetadata']) {
      const { headers } = await ask('PUT', `${path}/${name}`, `Größe ${name}`)
      const { headers: expected } = await pair.theirs({ method: 'GET', path: `${path}/${name}` })
      assert.equal(headers['etag'], expected['etag'])
      await ask('GET', `${path}/${name}`)
    }
    await ask('PUT', `${path}/1024`, '')
    await ask('GET', path)
    await ask('GET', `${path}?expand`)
    for (const name of ['LastUpdate', '3', '1023', '65536', 'Nonsense', '1500']) {
      if (name !== '1500') await ask('PUT', `${path}/${name}`, 'x')
      await ask('DELETE', `${path}/${name}`)
    }
    for (const name of ['1500', 'Nonsense', 'SopClassUid', 'TransferSyntax', 'Origin', 'IndexInSeries', 'RemoteAET']) {
      await ask('GET', `${path}/${name}`)
    }
    await ask('DELETE', `${path}/1024`)
    await ask('DELETE', `${path}/1024`)
    await ask('GET', path)
  }
  await ask('GET', '/studies/nothing/metadata')
  await ask('GET', '/studies/nothing/metadata/LastUpdate')
  await ask('PUT', '/studies/nothing/metadata/1024', 'x')
  await pair.same('/changes', body =>
    isObject(body) && Array.isArray(body['Changes'])
      ? body['Changes'].map(change => [change.ChangeType, change.ID])
      : body,
  )
  for (const body of ['1', '0', 'nonsense']) {
    await ask('PUT', `/patients/${ParentPatient}/protected`, body)
    await ask('GET', `/patients/${ParentPatient}/protected`)
  }
})

test('attachments of every level are listed, read, set, compressed and removed as by Orthanc', {
  skip: missingOrthanc,
}, async t => {
  const pair = await orthancPair(t, { settings: registered, files })
  const { ID, ParentStudy, ParentPatient } = pair.instances[0] ?? assert.fail()
  const ask = (method: 'GET' | 'PUT' | 'DELETE' | 'POST', path: string, body?: string) =>
    pair.same({ method, path, ...(body !== undefined && { body }) })
  const content = 'some bytes '.repeat(1000)

  const path = `/studies/${ParentStudy}/attachments`
  await ask('GET', path)
  await ask('PUT', `${path}/my-attachment`, content)
  await ask('PUT', `${path}/1024`, '')
  await ask('GET', path)
  for (const [name, each] of [
    ['my-attachment', `${path}/my-attachment`],
    ['dicom', `/instances/${ID}/attachments/dicom`],
  ] as const) {
    for (const step of ['uncompress', 'compress', 'compress', 'uncompress'] as const) {
      await ask('POST', `${each}/${step}`, '')
      await ask('GET', each)
      // Another release of zlib may come to another size.
      const isOwnForm = name === 'dicom' && step === 'compress'
      await pair.same(`${each}/info`, body => {
        if (!isOwnForm || !isObject(body)) return body
        const { CompressedMD5: _1, CompressedSize: _2, ...rest } = body
        return rest
      })
      for (const fact of ['data', 'size', 'md5', 'is-compressed']) await ask('GET', `${each}/${fact}`)
      if (isOwnForm) {
        const { body } = await pair.ours({ method: 'GET', path: `${each}/compressed-data` })
        const stored = Buffer.from(String(body), 'latin1')
        const { body: file } = await pair.ours({ method: 'GET', path: `${each}/data` })
        assert.equal(stored.readBigUInt64LE(), BigInt(String(file).length))
        assert.equal(inflateSync(stored.subarray(8)).toString('latin1'), file)
      } else {
        for (const fact of ['compressed-size', 'compressed-md5', 'compressed-data']) await ask('GET', `${each}/${fact}`)
      }
      await ask('POST', `${each}/verify-md5`, '')
    }
  }
  for (const level of ['', '/patients/', '/studies/']) {
    const id = level === '/patients/' ? ParentPatient : level === '' ? '' : ParentStudy
    await ask('GET', `${level}${id}/statistics`)
  }
  await ask('PUT', `${path}/my-attachment`, 'other')
  await ask('GET', `${path}/my-attachment/data`)
  for (const name of ['dicom', '3', '1023', '65536', 'nonsense']) await ask('PUT', `${path}/${name}`, 'x')
  for (const name of ['1500', 'nonsense']) await ask('GET', `${path}/${name}`)
  await ask('GET', `${path}/1500/data`)
  await ask('DELETE', `${path}/my-attachment`)
  await ask('DELETE', `${path}/my-attachment`)
  await ask('DELETE', `/instances/${ID}/attachments/dicom`)
  await ask('GET', `/instances/${ID}/attachments`)
  await ask('POST', `${path}/1500/compress`, '')
})

test('with revisions checked, only who names what it has seen may change metadata and attachments', async t => {
  const { app, upload } = await storeApp(t, { checkRevisions: true })
  const study = String((await upload(buildInstance({ seed: 1 }).bytes)).body['ParentStudy'])
  const ask = async (
    method: 'GET' | 'PUT' | 'DELETE',
    name: string,
    payload = '',
    headers: Record<string, string> = {},
  ) => {
    const answer = await app.inject({
      method,
      url: `/studies/${study}/${name}`,
      headers: { host: 'localhost', ...headers },
      ...(method === 'PUT' && { payload }),
    })
    return { status: answer.statusCode, etag: String(answer.headers['etag'] ?? '') }
  }

  for (const name of ['metadata/1024', 'attachments/1024']) {
    const first = await ask('PUT', name, 'one')
    assert.deepEqual(first, { status: 200, etag: `"0-${createHash('md5').update('one').digest('hex')}"` })
    assert.equal((await ask('PUT', name, 'two')).status, 409)
    assert.equal((await ask('PUT', name, 'two', { 'if-match': 'nonsense' })).status, 400)
    const second = await ask('PUT', name, 'two', { 'if-match': first.etag })
    assert.match(second.etag, /^"1-/)
    assert.equal((await ask('PUT', name, 'three', { 'if-match': first.etag })).status, 409)
    assert.deepEqual(await ask('GET', name, '', { 'if-none-match': second.etag }), { status: 304, etag: second.etag })
    assert.equal((await ask('GET', name, '', { 'if-none-match': first.etag })).status, 200)
    assert.equal((await ask('GET', name, '', { 'if-none-match': '"1-other"' })).status, 200)
    assert.deepEqual(await ask('GET', name, '', { 'if-none-match': 'nonsense' }), { status: 400, etag: second.etag })
    assert.equal((await ask('DELETE', name, '', { 'if-match': '1-other' })).status, 409)
    assert.equal((await ask('DELETE', name)).status, 409)
    assert.equal((await ask('DELETE', name, '', { 'if-match': first.etag })).status, 409)
    assert.equal((await ask('DELETE', name, '', { 'if-match': second.etag })).status, 200)
    assert.equal((await ask('GET', name)).status, 404)
  }
})

test('labels are set, listed, told apart and gone with their resource', async t => {
  const { app, get, upload, db } = await storeApp(t)
  const { ParentStudy: study, ParentPatient: patient } = (await upload(buildInstance({ seed: 1 }).bytes)).body
  const send = async (method: 'PUT' | 'DELETE' | 'GET', url: string) =>
    (await app.inject({ method, url, headers: { host: 'localhost' } })).statusCode

  for (const label of ['zeta', 'alpha', 'alpha'])
    assert.equal(await send('PUT', `/studies/${study}/labels/${label}`), 200)
  assert.equal(await send('PUT', `/patients/${patient}/labels/other_1`), 200)

  assert.deepEqual((await get(`/studies/${study}/labels`)).body, ['alpha', 'zeta'])
  assert.deepEqual((await get('/tools/labels')).body, ['alpha', 'other_1', 'zeta'])
  assert.equal(await send('GET', `/studies/${study}/labels/alpha`), 200)
  assert.equal(await send('GET', `/studies/${study}/labels/beta`), 404)
  assert.equal(await send('PUT', `/studies/${study}/labels/with%20space`), 400)
  assert.equal(await send('PUT', `/studies/nothing/labels/alpha`), 404)
  assert.equal(await send('DELETE', `/studies/${study}/labels/zeta`), 200)
  const detail = (await get(`/studies/${study}`)).body
  assert.deepEqual(isObject(detail) && detail['Labels'], ['alpha'])
  await send('DELETE', `/patients/${patient}`)
  assert.deepEqual((await get('/tools/labels')).body, [])
  const { rows } = await db.pool.query('select count(*)::int as n from resource_labels')
  assert.equal(rows[0].n, 0)
})

test('an attachment is audited, and its bytes go with it', async t => {
  const { app, blobs, db, upload } = await storeApp(t)
  const study = String((await upload(buildInstance({ seed: 1 }).bytes)).body['ParentStudy'])
  const headers = { host: 'localhost' }
  const url = `/studies/${study}/attachments/1024`
  await app.inject({ method: 'PUT', url, headers, payload: Buffer.from('bytes') })

  assert.equal(await sweepRemoved(db, blobs, { graceMs: 0 }), 0)
  await app.inject({ method: 'PUT', url, headers, payload: Buffer.from('others') })
  assert.equal(await sweepRemoved(db, blobs, { graceMs: 0 }), 1)
  await app.inject({ url: `${url}/data`, headers })
  await app.inject({ method: 'DELETE', url, headers })
  assert.equal(await sweepRemoved(db, blobs, { graceMs: 0 }), 1)

  const { rows } = await db.pool.query(
    `select payload::jsonb ->> 'action' as action from audit_events where payload::jsonb ->> 'reason' like 'attachment%' order by id`,
  )
  assert.deepEqual(
    rows.map(row => row.action),
    ['U', 'U', 'R', 'D'],
  )
})
