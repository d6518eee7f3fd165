/** Discs by the API: below a configured folder, and uploaded; somebody picks, a job imports. */
import assert from 'node:assert/strict'
import { mkdir, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { Upload } from 'tus-js-client'
import { temporaryDir } from '../support/blobs.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { isoImage } from '../support/iso-image.ts'
import { type ProcessGateway, prepareProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'

const waitMs = 60_000
const built = [1, 2, 3].map(seed => buildInstance({ seed, patientId: seed === 3 ? 'TEST-B' : 'TEST-A' }))
const contents: Readonly<Record<string, Uint8Array>> = {
  ...Object.fromEntries(built.map(({ bytes }, i) => [`DICOM/IM${i}`, bytes])),
  'DICOM/BROKEN': built[0]?.bytes.subarray(0, 300) ?? new Uint8Array(0),
  'VIEWER.EXE': Buffer.from('MZ nothing to be executed'),
}

interface Contents {
  readonly studies: readonly { readonly patientId: string; readonly instances: number }[]
  readonly unreadable: readonly { readonly name: string }[]
  readonly counts: Readonly<Record<string, number>>
}

async function imported(gateway: ProcessGateway, body: unknown): Promise<{ content: unknown; report: unknown[] }> {
  const { job } = await gateway.api<{ job: string }>('POST', '/api/v1/discs/import', body)
  const ended = await until('the import has ended', waitMs, async () => {
    const shown = await gateway.api('GET', `/jobs/${job}`)
    return shown['State'] === 'Success' || shown['State'] === 'Failure' ? shown : undefined
  })
  assert.equal(ended['State'], 'Success')
  const lines = await (await fetch(`${gateway.url}/jobs/${job}/report`)).text()
  return {
    content: ended['Content'],
    report: lines
      .trim()
      .split('\n')
      .map(line => JSON.parse(line)),
  }
}

test('a disc is looked at and what somebody picks is imported, from a folder, an image and an upload', async t => {
  const gateway = await prepareProcessGateway(t, 'discs')
  const drives = await temporaryDir(t)
  const outside = await temporaryDir(t)
  const folder = join(drives, 'cdrom')
  await mkdir(join(folder, 'DICOM'), { recursive: true })
  for (const [name, bytes] of Object.entries(contents)) await writeFile(join(folder, name), bytes)
  const image = isoImage(contents, 'rock-ridge')
  await writeFile(join(drives, 'disc.iso'), image)
  await writeFile(join(outside, 'disc.iso'), image)
  await symlink(outside, join(drives, 'link'))
  await writeFile(join(gateway.data, 'config.json'), JSON.stringify({ discs: { folders: [drives] } }))
  await gateway.start()

  assert.deepEqual(await gateway.api('GET', '/api/v1/discs'), { folders: [drives] })
  for (const path of [folder, join(drives, 'disc.iso')]) {
    const found = await gateway.api<Contents>('POST', '/api/v1/discs/contents', { path })
    assert.deepEqual(found.studies.map(({ patientId, instances }) => [patientId, instances]).sort(), [
      ['TEST-A', 1],
      ['TEST-A', 1],
      ['TEST-B', 1],
    ])
    assert.deepEqual(
      found.unreadable.map(({ name }) => name),
      ['DICOM/BROKEN'],
    )
    assert.deepEqual(found.counts, { studies: 3, unreadable: 1, missing: 0, otherFiles: 1 })
  }
  for (const path of [outside, join(drives, 'link', 'disc.iso'), `${drives}/../`, '/etc', join(drives, 'none')]) {
    const answer = await fetch(`${gateway.url}/api/v1/discs/contents`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ path }),
    })
    assert.equal(answer.status, 404, path)
    assert.doesNotMatch(await answer.text(), new RegExp(outside))
  }
  await assert.rejects(gateway.api('POST', '/api/v1/discs/import', { path: folder }), /400/)
  await assert.rejects(gateway.api('POST', '/api/v1/discs/contents', {}), /400/)

  const one = await imported(gateway, { path: folder, choices: [{ patientId: 'TEST-B' }] })
  assert.deepEqual(one.content, {
    Description: 'Import from a disc',
    Stored: 1,
    Known: 0,
    Failed: 0,
    Unreadable: 1,
    Missing: 0,
  })
  assert.equal(Object(one.report[0]).outcome, 'stored')
  assert.equal(Object(one.report[1]).outcome, 'unreadable')

  const { promise, resolve, reject } = Promise.withResolvers<string>()
  const sending = new Upload(image, {
    endpoint: `${gateway.url}/api/v1/uploads`,
    retryDelays: null,
    onError: reject,
    onSuccess: () => resolve(sending.url?.split('/').at(-1) ?? ''),
  })
  sending.start()
  const upload = await promise
  await until('the image is there', waitMs, async () => {
    const { state } = await gateway.api<{ state: string }>('GET', `/api/v1/uploads/${upload}`)
    return state === 'disc' ? true : undefined
  })
  assert.equal((await gateway.api<Contents>('POST', '/api/v1/discs/contents', { upload })).studies.length, 3)
  const rest = await imported(gateway, { upload, all: true, choices: [] })
  assert.deepEqual([Object(rest.content).Stored, Object(rest.content).Known], [2, 1])
  assert.equal((await gateway.api<unknown[]>('GET', '/instances')).length, 3)
})
