/** Deliveries to the systems of third parties: OpenSSH, an Orthanc by its REST API, DCMTK's storescp, a DICOMweb server. */
import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { missing, startStorescp } from '../support/dcmtk.ts'
import { type BuiltInstance, buildInstance } from '../support/dicom-builder.ts'
import { endpointFolder, filesBelow, startEndpointSite } from '../support/endpoints.ts'
import { missingOrthanc, startOrthanc } from '../support/orthanc.ts'
import { startProcessGateway } from '../support/process-gateway.ts'
import { missingSshd, startSshd } from '../support/sshd.ts'
import { until } from '../support/until.ts'

const study = (count = 3): BuiltInstance[] =>
  Array.from({ length: count }, (_, index) =>
    buildInstance({
      seed: index + 1,
      rows: 8,
      cols: 8,
      patientName: 'QZNAME^QZGIVEN',
      patientId: 'QZID-4711',
      studyInstanceUid: '1.2.826.0.1.3680043.10.9.778',
      seriesInstanceUid: '1.2.826.0.1.3680043.10.9.778.1',
      sopInstanceUid: `1.2.826.0.1.3680043.10.9.778.1.${index + 1}`,
    }),
  )

const assertUnmarked = (files: ReadonlyMap<string, Buffer>): void => {
  const text = [...files].map(([path, bytes]) => `${path}\n${bytes.toString('latin1')}`).join('\n')
  for (const marker of ['QZNAME', 'QZID', '43.10.9.778']) assert.ok(!text.includes(marker), `${marker} at the endpoint`)
}

test('an SFTP server gets nothing before its host key is confirmed, and nothing after it has changed', {
  skip: missingSshd,
}, async t => {
  const sshd = await startSshd(t)
  const site = await startEndpointSite(t)
  const { endpoints, admin } = site
  const settings = { host: '127.0.0.1', port: sshd.port, user: sshd.user, root: sshd.root }
  await endpoints.put(admin, 'CRO', {
    kind: 'sftp',
    settings,
    secrets: { privateKey: sshd.privateKey },
    profile: 'trial',
  })
  const row = await site.store(study())
  const first = await site.send(row, 'CRO')
  await until('a transfer that waits', 30_000, async () => {
    const found = await site.db.kysely.selectFrom('transfers').select('error_code').executeTakeFirstOrThrow()
    return found.error_code === 'ENDPOINT_STOPPED'
  })
  assert.deepEqual(await readdir(sshd.root), [])

  const { shownPin } = await endpoints.look(admin, 'CRO', AbortSignal.timeout(30_000))
  assert.equal(shownPin, sshd.hostKey)
  await endpoints.confirm(admin, 'CRO', sshd.hostKey)
  await site.untilState(first, 'delivered')
  const files = await filesBelow(sshd.root)
  assert.ok([...files.keys()].some(path => path === `${first}/.done`))
  assertUnmarked(files)

  await sshd.kill()
  await sshd.changeHostKey()
  await sshd.start()
  const second = await site.send(row, 'CRO')
  await until('a stopped endpoint', 30_000, async () => (await endpoints.load(admin, 'CRO')).state === 'stopped')
  const stopped = await endpoints.load(admin, 'CRO')
  assert.deepEqual([stopped.reasonCode, stopped.shownPin], ['ENDPOINT_HOST_KEY', sshd.hostKey])
  await endpoints.confirm(admin, 'CRO', sshd.hostKey)
  await site.untilState(second, 'delivered')
})

test('an Orthanc gets de-identified instances by its REST API', { skip: missingOrthanc }, async t => {
  const orthanc = await startOrthanc(t, {})
  const site = await startEndpointSite(t)
  await site.endpoints.put(site.admin, 'PARTNER', {
    kind: 'orthanc',
    settings: { url: orthanc.url },
    profile: 'trial',
  })

  const id = await site.send(await site.store(study()), 'PARTNER')
  const transfer = await site.untilState(id, 'delivered')

  const patients: unknown = await (await fetch(`${orthanc.url}/patients?expand`)).json()
  const statistics: unknown = await (await fetch(`${orthanc.url}/statistics`)).json()
  assert.ok(isObject(statistics) && statistics['CountInstances'] === 3)
  assert.ok(!JSON.stringify(patients).includes('QZ'))
  assert.equal(transfer.bytesDone, transfer.bytesTotal)
})

test('a system that takes C-STORE gets de-identified instances', { skip: missing('storescp') }, async t => {
  const folder = await endpointFolder(t)
  const { port } = await startStorescp(t, ['-od', folder])
  const site = await startEndpointSite(t)
  const settings = { host: '127.0.0.1', port, aeTitle: 'PARTNER' }
  await site.endpoints.put(site.admin, 'PARTNER', { kind: 'dimse', settings, profile: 'trial' })

  await site.untilState(await site.send(await site.store(study()), 'PARTNER'), 'delivered')

  const files = await filesBelow(folder)
  assert.equal(files.size, 3)
  assertUnmarked(files)
})

test('a DICOMweb server gets de-identified instances by STOW-RS', async t => {
  const server = await startProcessGateway(t, 'Partner')
  const site = await startEndpointSite(t)
  const settings = { url: `${server.url}/dicom-web` }
  await site.endpoints.put(site.admin, 'PARTNER', { kind: 'stow', settings, profile: 'trial' })

  await site.untilState(await site.send(await site.store(study()), 'PARTNER'), 'delivered')

  const statistics: unknown = await (await fetch(`${server.url}/statistics`)).json()
  assert.ok(isObject(statistics) && statistics['CountInstances'] === 3)
  assert.ok(!(await (await fetch(`${server.url}/patients?expand`)).text()).includes('QZ'))
})
