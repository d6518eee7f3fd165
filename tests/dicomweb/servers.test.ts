/** The client's side: Orthanc with its DICOMweb plugin where it is installed, and another gateway. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { request as forward } from 'node:http'
import { createServer } from 'node:https'
import { test } from 'node:test'
import { orthancDicomweb } from '../bench/orthanc.ts'
import { temporaryDir } from '../support/blobs.ts'
import { makeAuthority } from '../support/certificates.ts'
import { onEnd } from '../support/cleanup.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { missingOrthanc, startOrthanc } from '../support/orthanc.ts'
import { type WebApp, webApp } from './web-app.ts'

const ids = {
  patientId: 'P1',
  patientName: 'Doe^Jane',
  studyInstanceUid: '1.2.3.1',
  seriesInstanceUid: '1.2.3.1.0',
} as const
const instances = [1, 2, 3].map(seed => buildInstance({ ...ids, seed, sopInstanceUid: `1.2.3.1.0.${seed}` }))

/** POST of JSON below `/servers`. */
async function post(web: WebApp, path: string, body: unknown): Promise<{ status: number; body: unknown }> {
  const answer = await web.call(`/servers${path}`, { method: 'POST', body: JSON.stringify(body) })
  return { status: answer.status, body: await answer.json() }
}

const countOf = async (web: WebApp): Promise<number> => Number(Object(await web.json('/instances')).length)

test('a server by TLS is known by its own authority and asks for our certificate', async t => {
  const there = await webApp(t)
  for (const { bytes } of instances) await there.store(bytes)
  const dir = await temporaryDir(t)
  const [authority, other] = [await makeAuthority(dir, 'pacs'), await makeAuthority(dir, 'other')]
  const [server, client] = [await authority.issue('pacs'), await authority.issue('hanse')]
  const { port } = new URL(there.url)
  const door = createServer(
    {
      cert: server.certificate,
      key: server.key,
      ca: authority.certificate,
      requestCert: true,
      rejectUnauthorized: true,
    },
    (request, answer) => {
      const { method, url: path, headers } = request
      const onward = forward({ port, method, path, headers: { ...headers, host: `127.0.0.1:${port}` } }, inner => {
        answer.writeHead(inner.statusCode ?? 500, inner.headers)
        inner.pipe(answer)
      })
      request.pipe(onward)
    },
  )
  door.listen(0, '127.0.0.1')
  await once(door, 'listening')
  onEnd(t, () => {
    door.closeAllConnections()
    door.close()
  })
  const address = door.address()
  const url = `https://127.0.0.1:${typeof address === 'object' ? address?.port : ''}/dicom-web`
  const { certificateFile, keyFile } = client
  const zone = 'inside' as const
  const here = await webApp(t, {
    pacs: { url, zone, caFile: authority.certificateFile, certificateFile, keyFile },
    stranger: { url, zone, caFile: authority.certificateFile },
    impostor: { url, zone, caFile: other.certificateFile, certificateFile, keyFile },
    unnamed: { url, zone },
  })

  const fetched = await post(here, '/pacs/retrieve', { Resources: [{ Study: '1.2.3.1' }] })
  assert.equal(Object(fetched.body).ReceivedInstancesCount, 3)
  await there.call('/studies/1.2.3.1', { method: 'DELETE' })
  const { rows } = await here.db.pool.query('select orthanc_id from studies')
  const sent = await post(here, '/pacs/stow', { Resources: [String(Object(rows[0]).orthanc_id)] })
  assert.equal(sent.status, 200, JSON.stringify(sent.body))
  assert.equal(await countOf(there), 3)
  for (const name of ['stranger', 'impostor', 'unnamed']) {
    assert.equal((await post(here, `/${name}/qido`, { Uri: '/studies' })).status, 502, name)
  }
})

test('another gateway is searched, fetched from and stored at', async t => {
  const there = await webApp(t)
  for (const { bytes } of instances) await there.store(bytes)
  const here = await webApp(t, {
    other: { url: there.url, zone: 'inside' },
    outside: { url: there.url, zone: 'outside' },
    nobody: { url: 'http://127.0.0.1:9/dicom-web', zone: 'inside' },
  })
  assert.deepEqual(await here.json('/servers'), ['other', 'outside', 'nobody'])
  assert.deepEqual(await here.json('/servers/other'), ['get', 'qido', 'retrieve', 'stow'])
  assert.equal((await here.call('/servers/unknown')).status, 404)

  const found = await post(here, '/other/qido', { Uri: '/studies', Arguments: { PatientName: 'doe*' } })
  assert.equal(Object(Object(found.body)[0])['00100010'].Value, 'Doe^Jane')
  const none = await post(here, '/other/qido', { Uri: 'studies', Arguments: { PatientID: 'P2' } })
  assert.deepEqual(none, { status: 200, body: [] })
  const passed = await post(here, '/other/get', { Uri: '/studies/1.2.3.1/series/1.2.3.1.0/metadata' })
  assert.equal(Object(passed.body).length, 3)

  const fetched = await post(here, '/other/retrieve', { Resources: [{ Study: '1.2.3.1' }] })
  assert.equal(fetched.status, 200, JSON.stringify(fetched.body))
  assert.equal(Object(fetched.body).ReceivedInstancesCount, 3)
  assert.equal(await countOf(here), 3)

  await there.call('/studies/1.2.3.1', { method: 'DELETE' })
  assert.equal(await countOf(there), 0)
  const { rows } = await here.db.pool.query('select orthanc_id from studies')
  const Resources = [String(Object(rows[0]).orthanc_id)]
  const sent = await post(here, '/other/stow', { Resources })
  assert.equal(sent.status, 200, JSON.stringify(sent.body))
  assert.deepEqual([Object(sent.body).InstancesCount, Object(sent.body).FailedInstancesCount], [3, 0])
  assert.equal(await countOf(there), 3)

  assert.equal((await post(here, '/outside/stow', { Resources })).status, 403)
  assert.equal((await post(here, '/nobody/qido', { Uri: '/studies' })).status, 502)
  assert.equal((await post(here, '/other/qido', { Uri: 'http://elsewhere/' })).status, 400)
  assert.equal((await post(here, '/other/qido', { Uri: '/../instances' })).status, 400)
  assert.equal((await post(here, '/other/retrieve', { Resources: [{ Study: '1/2' }] })).status, 400)
})

const skip = missingOrthanc || (existsSync(orthancDicomweb) ? false : 'orthanc-dicomweb is not installed')

test("Orthanc's DICOMweb is searched, fetched from and stored at", { skip }, async t => {
  const orthanc = await startOrthanc(t, {}, { Plugins: [orthancDicomweb] })
  const web = await webApp(t, { orthanc: { url: `${orthanc.url}/dicom-web`, zone: 'inside' } })
  for (const { bytes } of instances) await web.store(bytes)
  const { rows } = await web.db.pool.query('select orthanc_id from studies')
  const Resources = [String(Object(rows[0]).orthanc_id)]
  const sent = await post(web, '/orthanc/stow', { Resources })
  assert.equal(sent.status, 200, JSON.stringify(sent.body))
  assert.equal(Object(await orthanc.call('GET', '/instances')).length, 3)

  await web.call('/studies/1.2.3.1', { method: 'DELETE' })
  const found = await post(web, '/orthanc/qido', { Uri: '/studies', Arguments: { PatientID: 'P1' } })
  assert.equal(Object(Object(found.body)[0])['0020000D'].Value, '1.2.3.1')
  const fetched = await post(web, '/orthanc/retrieve', { Resources: [{ Study: '1.2.3.1' }] })
  assert.equal(fetched.status, 200, JSON.stringify(fetched.body))
  assert.equal(await countOf(web), 3)
})

test('Orthanc as a DICOMweb client searches, fetches and stores here', { skip }, async t => {
  const web = await webApp(t)
  for (const { bytes } of instances) await web.store(bytes)
  const DicomWeb = { Servers: { hanse: [web.url] } }
  const orthanc = await startOrthanc(t, {}, { Plugins: [orthancDicomweb], DicomWeb })
  const call = (path: string, body: unknown) => orthanc.call('POST', `/dicom-web/servers/hanse${path}`, body)
  const found = await call('/qido', { Uri: '/studies', Arguments: { PatientName: 'DOE*' } })
  assert.equal(Object(Object(found)[0])['0020000D'].Value, '1.2.3.1')
  await call('/retrieve', { Resources: [{ Study: '1.2.3.1' }] })
  assert.equal(Object(await orthanc.call('GET', '/instances')).length, 3)
  await web.call('/studies/1.2.3.1', { method: 'DELETE' })
  const Resources = await orthanc.call('GET', '/studies')
  await call('/stow', { Resources })
  assert.equal(await countOf(web), 3)
})
