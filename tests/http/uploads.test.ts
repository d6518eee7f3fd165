/** Resumable uploads with the public tus client, against a gateway that is killed while they run. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { type DetailedError, Upload, type UploadOptions } from 'tus-js-client'
import { buildInstance } from '../support/dicom-builder.ts'
import { type ProcessGateway, startProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'
import { zipOf } from '../support/zip-builder.ts'

const waitMs = 60_000

/** Sends it all; resolves with the upload's path. */
function send(gateway: ProcessGateway, bytes: Buffer, options: Partial<UploadOptions> = {}): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  const upload = new Upload(bytes, {
    endpoint: `${gateway.url}/api/v1/uploads`,
    chunkSize: 256 * 1024,
    retryDelays: [0],
    onError: reject,
    onSuccess: () => resolve(new URL(upload.url ?? '').pathname),
    ...options,
  })
  upload.start()
  return promise
}

async function ended(gateway: ProcessGateway, path: string): Promise<Record<string, unknown>> {
  return await until('the upload is stored', waitMs, async () => {
    const shown = await gateway.api('GET', path)
    return shown['state'] === 'done' || shown['state'] === 'failed' ? shown : undefined
  })
}

const bytesOf = (seed: number): Uint8Array =>
  buildInstance({ studyInstanceUid: '1.2.3', seriesInstanceUid: '1.2.3.1', sopInstanceUid: `1.2.3.1.${seed}`, seed })
    .bytes

test('an upload goes on after the gateway was killed, and each file has its outcome', async t => {
  const gateway = await startProcessGateway(t, 'uploads')
  const bytes = await zipOf({
    'disc/a.dcm': bytesOf(1),
    'disc/again.dcm': bytesOf(1),
    'disc/readme.txt': randomBytes(2 * 1024 * 1024),
    'disc/b.dcm': bytesOf(2),
  })
  const killed = Promise.withResolvers<void>()
  let isKilled = false
  const path = await send(gateway, bytes, {
    retryDelays: Array.from({ length: 60 }, () => 1000),
    onChunkComplete: (_size, accepted) => {
      if (isKilled || accepted < 512 * 1024) return
      isKilled = true
      void gateway
        .kill('SIGKILL')
        .then(() => gateway.start())
        .then(killed.resolve, killed.reject)
    },
  })
  await killed.promise
  assert.ok(isKilled)

  const shown = await ended(gateway, path)
  assert.equal(shown['state'], 'done')
  assert.equal(shown['receivedBytes'], bytes.length)
  const { files } = await gateway.api<{ files: Record<string, unknown>[] }>('GET', `${path}/files`)
  assert.deepEqual(
    files.map(({ name, outcome }) => [name, outcome]),
    [
      ['disc/a.dcm', 'stored'],
      ['disc/again.dcm', 'duplicate'],
      ['disc/readme.txt', 'not-dicom'],
      ['disc/b.dcm', 'stored'],
    ],
  )
  assert.equal((await gateway.api<unknown[]>('GET', '/instances')).length, 2)
  const { files: rest } = await gateway.api<{ files: unknown[] }>('GET', `${path}/files?after=2&limit=5`)
  assert.equal(rest.length, 1)
  assert.deepEqual(await readdir(join(gateway.data, 'uploads')), [])

  const alone = await send(gateway, Buffer.from(bytesOf(3)))
  assert.equal((await ended(gateway, alone))['files'], 1)
  const wrong = await send(gateway, Buffer.from('no DICOM at all, and no archive either'))
  assert.equal((await ended(gateway, wrong))['state'], 'done')
  const refused = await gateway.api<{ files: Record<string, unknown>[] }>('GET', `${wrong}/files`)
  assert.deepEqual([refused.files[0]?.['outcome'], refused.files[0]?.['errorCode']], ['refused', 'DICOM_UNREADABLE'])
  const broken = await send(gateway, bytes.subarray(0, 5000))
  assert.equal((await ended(gateway, broken))['errorCode'], 'BAD_REQUEST')

  await t.test('what is somebody else’s is not there, and roles are asked for', async () => {
    const token = async (name: string, role: string): Promise<Record<string, string>> => {
      const { token } = await gateway.api<{ token: string }>('POST', '/api/v1/tokens', { name, role })
      return { authorization: `Bearer ${token}` }
    }
    const clinician = await token('ward', 'clinician')
    assert.equal((await fetch(`${gateway.url}${path}`, { headers: clinician })).status, 404)
    const head = { 'tus-resumable': '1.0.0', ...clinician }
    assert.equal((await fetch(`${gateway.url}${path}`, { method: 'HEAD', headers: head })).status, 404)
    const viewer = await token('reader', 'viewer')
    await assert.rejects(send(gateway, bytes, { headers: viewer }), (error: DetailedError) => {
      return error.originalResponse?.getStatus() === 403
    })
    const begin = (length: string): Promise<Response> =>
      fetch(`${gateway.url}/api/v1/uploads`, { method: 'POST', headers: { ...head, 'upload-length': length } })
    assert.equal((await begin(String(2 ** 45))).status, 413)
    const begun = await begin('10')
    assert.equal(begun.status, 201)
    assert.equal(begun.headers.get('access-control-allow-origin'), null)
    assert.ok(begun.headers.get('upload-expires'))
    const location = `${gateway.url}${begun.headers.get('location')}`
    const patch = { ...head, 'content-type': 'application/offset+octet-stream' }
    const at = (offset: string): Promise<Response> =>
      fetch(location, { method: 'PATCH', headers: { ...patch, 'upload-offset': offset }, body: 'abc' })
    assert.equal((await at('5')).status, 409)
    assert.equal((await at('0')).headers.get('upload-offset'), '3')
    assert.equal((await fetch(location, { method: 'DELETE', headers: head })).status, 204)
    assert.equal((await fetch(location, { headers: clinician })).status, 404)
    const many = await Promise.all(Array.from({ length: 40 }, () => begin('10')))
    assert.equal(many.filter(({ status }) => status === 201).length, 32)
    assert.ok(many.every(({ status }) => status === 201 || status === 429))
  })
})
