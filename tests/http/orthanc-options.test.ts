/** What Orthanc's options change here, and what its clients send in other forms. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { gzipSync } from 'node:zlib'
import { readPrivateNames } from '../../gateway/http/orthanc/tags.ts'
import { openExportLog } from '../../gateway/services/export-log.ts'
import { buildInstance, seededUid } from '../support/dicom-builder.ts'
import { caller } from '../support/principals.ts'
import { storeApp } from './store-app.ts'

const host = { host: 'localhost' }

test('where a site overwrites, new content under a known UID replaces the old', async t => {
  const { upload, get, app } = await storeApp(t, { overwrites: true })
  const studyInstanceUid = seededUid('study', 700)
  const sopInstanceUid = seededUid('instance', 700)
  const version = (patientName: string) =>
    buildInstance({ seed: 700, studyInstanceUid, sopInstanceUid, patientName }).bytes
  const first = await upload(version('OLD^Name'))
  await app.inject({ method: 'PUT', url: `/instances/${first.body['ID']}/metadata/1100`, headers: host, payload: 'x' })

  assert.equal((await upload(version('OLD^Name'))).body['Status'], 'Success')
  const second = await upload(version('NEW^Name'))

  assert.deepEqual([second.body['Status'], second.body['ID']], ['Success', first.body['ID']])
  const { body: tags } = await get(`/instances/${first.body['ID']}/simplified-tags`)
  assert.equal(Reflect.get(Object(tags), 'PatientName'), 'NEW^Name')
  const { body: totals } = await get('/statistics')
  assert.equal(Reflect.get(Object(totals), 'CountInstances'), 1)
  // What was said of the old instance went with it.
  assert.equal((await get(`/instances/${first.body['ID']}/metadata/1100`).catch(() => ({ status: 404 }))).status, 404)
})

test('without that option it is held as a conflict', async t => {
  const { upload } = await storeApp(t)
  const sopInstanceUid = seededUid('instance', 701)
  await upload(buildInstance({ seed: 701, sopInstanceUid, patientName: 'OLD^Name' }).bytes)
  const { body } = await upload(buildInstance({ seed: 701, sopInstanceUid, patientName: 'NEW^Name' }).bytes)
  assert.equal(body['Status'], 'Conflict')
})

test('a body in gzip is stored, one in an unknown coding refused', async t => {
  const { app } = await storeApp(t)
  const payload = gzipSync(buildInstance({ seed: 702 }).bytes)
  const send = async (coding: string): Promise<number> =>
    (await app.inject({ method: 'POST', url: '/instances', headers: { ...host, 'content-encoding': coding }, payload }))
      .statusCode
  assert.deepEqual([await send('gzip'), await send('nope'), await send('identity')], [200, 400, 400])
})

test('the list of exports names what was sent, in order, until it is cleared', async t => {
  const { app, db, upload, get } = await storeApp(t)
  const { body } = await upload(buildInstance({ seed: 703 }).bytes)
  const log = openExportLog({ db, isKept: true })
  await log.note('archive', [String(body['ID']), String(body['ParentPatient']), 'nobody'])
  await openExportLog({ db, isKept: false }).note('archive', [String(body['ID'])])

  const { body: page } = await get('/exports?limit=1')
  const [first] = Reflect.get(Object(page), 'Exports')
  assert.deepEqual(
    [Reflect.get(Object(page), 'Done'), first.ResourceType, Object.keys(first).length],
    [false, 'Instance', 10],
  )
  const { body: rest } = await get(`/exports?since=${first.Seq}`)
  assert.deepEqual(
    Reflect.get(Object(rest), 'Exports').map((entry: object) => [
      Reflect.get(entry, 'ResourceType'),
      Object.keys(entry).length,
    ]),
    [['Patient', 7]],
  )
  assert.equal((await app.inject({ method: 'DELETE', url: '/exports', headers: host })).statusCode, 200)
  assert.deepEqual((await get('/exports')).body, { Done: true, Exports: [], Last: 0 })
  await log.clear(caller('local'))
})

test('an answer is XML where only that is asked for', async t => {
  const { app } = await storeApp(t)
  const ask = async (accept: string) => await app.inject({ url: '/tools', headers: { ...host, accept } })
  const { body, headers } = await ask('application/xml')
  assert.equal(headers['content-type'], 'application/xml')
  assert.match(body, /^<\?xml version="1.0" encoding="utf-8"\?>\n<root><item>[a-z-]+<\/item>/)
  assert.ok((await ask('application/xml, application/json')).json().includes('now'))
})

test('private elements have the names that a site gives them', () => {
  const names = readPrivateNames({
    '0009,1001': { vr: 'LO', name: 'Score', creator: 'TEST' },
    '0010,0010': { vr: 'LO', name: 'Ours', creator: 'TEST' },
    nothing: { vr: 'LO', name: 'Ours', creator: 'TEST' },
  })
  assert.deepEqual([...names.values()], [{ name: 'Score', vr: 'LO' }])
})
