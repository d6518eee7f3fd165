/** `hanse import orthanc` from a running Orthanc, and from the storage folder of one that is stopped. */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
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
