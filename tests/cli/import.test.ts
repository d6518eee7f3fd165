/** `hanse import orthanc` from a running Orthanc, and from the storage folder of one that is stopped. */
import assert from 'node:assert/strict'
import { unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test } from 'node:test'
import { temporaryDir } from '../support/blobs.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { missingOrthanc, startOrthanc } from '../support/orthanc.ts'
import { startProcessGateway } from '../support/process-gateway.ts'

const policy = {
  format: 'hanse-policy-1',
  destinations: { pacs: { modality: 'PACS' } },
  rules: [{ id: 'on', when: { always: true }, send: { to: ['pacs'], purpose: 'treatment', profile: 'as-is' } }],
}

test('an Orthanc is taken over, running or by its folder, again only what is new, and nothing is routed', {
  skip: missingOrthanc,
}, async t => {
  const folder = await temporaryDir(t)
  const running = await startOrthanc(t, {})
  const stopped = await startOrthanc(
    t,
    {},
    { StorageDirectory: folder, IndexDirectory: folder, StorageCompression: true },
  )
  const gateway = await startProcessGateway(t, 'import', { HANSE_STABLE_AGE_MS: '200' })
  await gateway.api('PUT', '/api/v1/modalities/PACS', { aeTitle: 'PACS', host: '127.0.0.1', port: 9 })
  await gateway.api('PUT', '/api/v1/policy', policy)
  const give = async (url: string, seed: number) => {
    const bytes = Buffer.from(buildInstance({ seed }).bytes)
    const answer = await fetch(`${url}/instances`, { method: 'POST', body: bytes })
    assert.equal(answer.status, 200)
    return bytes
  }
  const ids = async () => Object(await gateway.api('GET', '/instances')).length
  for (const seed of [1, 2, 3]) await give(running.url, seed)
  const packed = await give(stopped.url, 4)
  await stopped.kill()
  writeFileSync(join(folder, 'no-orthanc-file'), 'x')

  const first = await gateway.hanse('import', 'orthanc', '--url', running.url)
  assert.equal(first.code, 0, first.output)
  assert.match(first.output, /is done, 3 taken over, 0 failed/)
  await give(running.url, 5)
  assert.match((await gateway.hanse('import', 'orthanc', '--url', running.url)).output, /is done, 4 taken over/)
  const folderRun = await gateway.hanse('import', 'orthanc', '--storage', folder)
  assert.match(folderRun.output, /is done, 1 taken over, 0 failed/, folderRun.output)

  assert.equal(await ids(), 5)
  const found = Object(await gateway.api('GET', '/instances?expand')).find(
    (each: { MainDicomTags: { SOPInstanceUID: string } }) =>
      each.MainDicomTags.SOPInstanceUID === buildInstance({ seed: 4 }).sopInstanceUid,
  )
  const file = await fetch(`${gateway.url}/instances/${found.ID}/file`)
  assert.deepEqual(Buffer.from(await file.arrayBuffer()), packed)
  assert.deepEqual(Object(await gateway.api('GET', '/api/v1/transfers')).transfers, [])

  const nobody = await gateway.hanse('import', 'orthanc', '--url', 'http://127.0.0.1:9')
  assert.equal(nobody.code, 1)
  assert.match(nobody.output, /is failed.*cannot be reached/)
})

test('what an Orthanc says of its resources comes with them: metadata, attachments and protection, changes by the next run', {
  skip: missingOrthanc,
}, async t => {
  const names = { UserMetadata: { ward: 1030 }, UserContentType: { report: 1031 } }
  const folder = await temporaryDir(t)
  const files = await temporaryDir(t)
  const running = await startOrthanc(t, {}, { ...names, StorageDirectory: files, MaximumStorageCacheSize: 0 })
  const stopped = await startOrthanc(
    t,
    {},
    { ...names, StorageDirectory: folder, IndexDirectory: folder, StorageCompression: true },
  )
  const gateway = await startProcessGateway(t, 'import-said', {})
  const ask = async (url: string, method: string, path: string, body?: string | Buffer<ArrayBuffer>) => {
    const answer = await fetch(`${url}${path}`, { method, ...(body !== undefined && { body }) })
    assert.equal(answer.status, 200, `${method} ${path}`)
    return await answer.text()
  }
  const report = Buffer.from('a report, '.repeat(1000))
  const told = async (url: string, seed: number) => {
    const given = await ask(url, 'POST', '/instances', Buffer.from(buildInstance({ seed }).bytes))
    const { ID: instance, ParentStudy: study, ParentPatient: patient } = Object(JSON.parse(given))
    await ask(url, 'PUT', `/studies/${study}/metadata/1040`, 'Zimmer 3 ü')
    await ask(url, 'PUT', `/instances/${instance}/metadata/1041`, 'x')
    await ask(url, 'PUT', `/studies/${study}/attachments/report`, report)
    await ask(url, 'PUT', `/patients/${patient}/protected`, '1')
    const received = await ask(url, 'GET', `/instances/${instance}/metadata/ReceptionDate`)
    return { instance, study, patient, received }
  }
  const expectTold = async ({ instance, study, patient, received }: Awaited<ReturnType<typeof told>>) => {
    const here = async (path: string) => await ask(gateway.url, 'GET', path)
    assert.equal(await here(`/studies/${study}/metadata/1040`), 'Zimmer 3 ü')
    assert.equal(await here(`/instances/${instance}/metadata/1041`), 'x')
    assert.equal(await here(`/instances/${instance}/metadata/ReceptionDate`), received)
    assert.equal(await here(`/studies/${study}/attachments/1031/data`), report.toString())
    assert.equal(await here(`/patients/${patient}/protected`), '1')
  }
  const [one, other] = [await told(running.url, 11), await told(stopped.url, 12)]
  await stopped.kill()
  // As Orthanc 1.12.0 and later keep labels.
  const index = new DatabaseSync(join(folder, 'index'))
  index.exec('create table Labels(id integer not null, label text not null, primary key(id, label))')
  index.prepare('insert into Labels select internalId, ? from Resources where publicId = ?').run('urgent', other.study)
  index.close()

  const first = await gateway.hanse('import', 'orthanc', '--url', running.url)
  assert.match(first.output, /is done, 1 taken over, 0 failed, 3 with metadata/, first.output)
  await expectTold(one)
  const packed = await gateway.hanse('import', 'orthanc', '--storage', folder)
  assert.match(packed.output, /is done, 1 taken over, 0 failed, 3 with metadata/, packed.output)
  await expectTold(other)
  assert.deepEqual(JSON.parse(await ask(gateway.url, 'GET', `/studies/${other.study}/labels`)), ['urgent'])

  // What was changed here stays unless it changed there; a name that is not registered here is told.
  await ask(gateway.url, 'PUT', `/studies/${one.study}/metadata/1040`, 'changed here')
  await gateway.hanse('import', 'orthanc', '--url', running.url)
  assert.equal(await ask(gateway.url, 'GET', `/studies/${one.study}/metadata/1040`), 'changed here')
  await ask(running.url, 'PUT', `/studies/${one.study}/metadata/1040`, 'changed there')
  await gateway.hanse('import', 'orthanc', '--url', running.url)
  assert.equal(await ask(gateway.url, 'GET', `/studies/${one.study}/metadata/1040`), 'changed there')
  await ask(running.url, 'PUT', `/instances/${one.instance}/metadata/ward`, 'named')
  // A file that Orthanc has lost holds up nothing else.
  const broken = await told(running.url, 13)
  const lost = Object(JSON.parse(await ask(running.url, 'GET', `/instances/${broken.instance}/attachments/dicom/info`)))
  const lostName = String(lost.Uuid)
  unlinkSync(join(files, lostName.slice(0, 2), lostName.slice(2, 4), lostName))
  const unnamed = await gateway.hanse('import', 'orthanc', '--url', running.url)
  assert.equal(unnamed.code, 1)
  assert.match(unnamed.output, /is done, 1 taken over/)
  assert.match(unnamed.output, new RegExp(`  ${broken.instance}: STORAGE_CORRUPT`))
  assert.match(unnamed.output, /instance\/[0-9a-f-]+: NOT_FOUND/, unnamed.output)
})
