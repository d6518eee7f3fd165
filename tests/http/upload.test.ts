import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http'
import { test } from 'node:test'
import { ZipFile } from 'yazl'
import { datasetOffset } from '../../gateway/services/upload.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { until } from '../support/until.ts'
import { type StoreApp, storeApp } from './store-app.ts'

/** A request whose body the test writes; and its answer. */
function post(url: string, headers: Record<string, string | number>) {
  const request: ClientRequest = httpRequest(`${url}/instances`, { method: 'POST', headers })
  const answer = new Promise<{ status: number; body: Record<string, unknown> }>((resolve, reject) => {
    request.once('error', reject)
    request.once('response', (response: IncomingMessage) => {
      let text = ''
      response.on('data', chunk => {
        text += String(chunk)
      })
      response.once('end', () => resolve({ status: response.statusCode ?? 0, body: JSON.parse(text) }))
    })
  })
  answer.catch(() => undefined)
  return { request, answer }
}

async function listening(store: StoreApp): Promise<string> {
  return await store.app.listen({ host: '127.0.0.1', port: 0 })
}

test('a body that comes in drops, without a length, is stored with the digest of its data set', async t => {
  const store = await storeApp(t)
  const { bytes, dataset } = buildInstance({ seed: 1 })
  const { request, answer } = post(await listening(store), { 'transfer-encoding': 'chunked' })

  for (let at = 0; at < bytes.length; at += 97) request.write(bytes.subarray(at, at + 97))
  request.end()

  assert.equal((await answer).status, 200)
  const { rows } = await store.db.pool.query('select dataset_sha256, file_sha256, size_bytes from instances')
  assert.deepEqual(rows[0].dataset_sha256, createHash('sha256').update(dataset).digest())
  assert.deepEqual(rows[0].file_sha256, createHash('sha256').update(bytes).digest())
  assert.equal(rows[0].size_bytes, bytes.length)
})

test('a client that goes away in the middle leaves nothing behind', async t => {
  const store = await storeApp(t)
  const { bytes } = buildInstance({ seed: 1, rows: 512, cols: 512 })
  const { request, answer } = post(await listening(store), { 'content-length': bytes.length })

  request.write(bytes.subarray(0, 300_000))
  await until('the reception has begun', 10_000, () => store.staged().length === 1)
  request.destroy()

  await assert.rejects(answer)
  await until('the staging file is gone', 10_000, () => store.staged().length === 0)
  assert.deepEqual((await store.get('/instances')).body, [])
})

test('a refusal in the middle of a long body reaches a client that sends on', async t => {
  const store = await storeApp(t, { limitBytes: 100_000 })
  const { request, answer } = post(await listening(store), { 'transfer-encoding': 'chunked' })
  const chunk = Buffer.alloc(64 * 1024, buildInstance({ seed: 1 }).bytes)

  for (let sent = 0; sent < 3_000_000; sent += chunk.length) request.write(chunk)
  request.end()

  const { status, body } = await answer
  assert.deepEqual([status, body['code']], [413, 'TOO_LARGE'])
  assert.deepEqual(store.staged(), [])
})

test('below the free-space watermark uploads are refused with 507 and accepted again when there is room', async t => {
  let freeBytes = 10_000
  const measure = async () => ({ freeBytes, totalBytes: 1_000_000 })
  const store = await storeApp(t, { freeSpace: { lowWatermarkBytes: 50_000, resumeBytes: 60_000, measure } })
  const { bytes } = buildInstance({ seed: 1 })

  const refused = await store.upload(bytes)
  freeBytes = 900_000

  assert.deepEqual([refused.status, refused.body['code']], [507, 'STORAGE_FULL'])
  await until('uploads are accepted again', 10_000, async () => (await store.upload(bytes)).status === 200)
})

test('more uploads than there are places wait for one and all are stored', async t => {
  const store = await storeApp(t, { concurrency: 2 })
  const url = await listening(store)
  const files = Array.from({ length: 20 }, (_, index) => buildInstance({ seed: index + 1 }).bytes)

  const answers = await Promise.all(
    files.map(async bytes => {
      const { request, answer } = post(url, { 'content-length': bytes.length })
      request.end(bytes)
      return (await answer).body['Status']
    }),
  )

  assert.deepEqual(answers, Array(20).fill('Success'))
  const { body } = await store.get('/instances')
  assert.ok(Array.isArray(body) && body.length === 20)
})

test('of an archive and of a form every DICOM file is stored, and the rest passed over', async t => {
  const store = await storeApp(t)
  const post = async (payload: Buffer, type = 'application/octet-stream') => {
    const headers = { host: 'localhost', 'content-type': type }
    const answer = await store.app.inject({ method: 'POST', url: '/instances', headers, payload })
    return { status: answer.statusCode, body: answer.json() }
  }
  const [one, two, three] = [1, 2, 3].map(seed => Buffer.from(buildInstance({ seed }).bytes))
  const zip = await archiveOf({ 'a/one.dcm': one ?? '', 'readme.txt': 'text', two: two ?? '', 'empty/': '' })

  const archive = await post(zip)
  assert.equal(archive.status, 200)
  assert.deepEqual(
    archive.body.map((each: { Status: string }) => each.Status),
    ['Success', 'Success'],
  )
  const part = (bytes: Uint8Array): Buffer =>
    Buffer.concat([
      Buffer.from('--x\r\ncontent-disposition: form-data; name="f"; filename="f"\r\n\r\n'),
      bytes,
      Buffer.from('\r\n'),
    ])
  const form = Buffer.concat([part(zip), part(three ?? zip), part(Buffer.from('text')), Buffer.from('--x--\r\n')])
  const formed = await post(form, 'multipart/form-data; boundary="x"')
  assert.deepEqual(
    formed.body.map((each: { Status: string }) => each.Status),
    ['AlreadyStored', 'AlreadyStored', 'Success'],
  )
  // As browsers and their libraries write it, too.
  const loose = Buffer.concat([part(three ?? zip), Buffer.from('--x')])
  const looselyFormed = await post(loose, 'multipart/form-data   ;    boundary  =  x  ')
  assert.deepEqual([looselyFormed.status, looselyFormed.body[0].Status], [200, 'AlreadyStored'])
  assert.equal((await post(loose.subarray(0, -10), 'multipart/form-data; boundary=x')).status, 400)
  assert.deepEqual((await post(await archiveOf({ 'a.txt': 'nothing' }))).body, [])
  assert.equal((await post(zip.subarray(0, zip.length - 30))).status, 400)
  assert.deepEqual(store.staged(), [])
})

test('a form is read however its headers are spaced, and a file that comes in pieces is stored when it is whole', async t => {
  const { app, get } = await storeApp(t)
  const [first, second] = [buildInstance({ seed: 90 }).bytes, buildInstance({ seed: 91 }).bytes]
  const boundary = '----WebKitFormBoundaryOfATest'
  const part = (bytes: Uint8Array, name: string): Buffer =>
    Buffer.concat([
      Buffer.from(
        `--${boundary}\r\nContent-Disposition  :   form-data  ; name ="files[]"   ; filename = "${name}"  \r\n\r\n`,
      ),
      bytes,
      Buffer.from('\r\n'),
    ])
  const post = async (payload: Buffer, headers: Record<string, string> = {}): Promise<number> => {
    const type = `multipart/form-data   ;    boundary  =  ${boundary}  `
    const all = { host: 'localhost', 'content-type': type, ...headers }
    return (await app.inject({ method: 'POST', url: '/instances', headers: all, payload })).statusCode
  }
  const stored = async (): Promise<number> => Object((await get('/instances')).body).length
  const end = Buffer.from(`--${boundary}--`)
  const open = Buffer.from(`--${boundary}`)

  assert.equal(await post(Buffer.concat([part(first, 'a.dcm'), end])), 200)
  assert.equal(await stored(), 1)

  const of = (bytes: Uint8Array, name: string) => ({ 'x-file-name': name, 'x-file-size': String(bytes.length) })
  const third = buildInstance({ seed: 92 }).bytes
  const piece = (from: number, to: number) =>
    post(Buffer.concat([part(second.subarray(from, to), 'b.dcm'), open]), of(second, 'b.dcm'))
  assert.deepEqual([await piece(0, 1_000), await piece(1_000, 2_000), await stored()], [200, 200, 1])
  assert.equal(await post(Buffer.concat([part(third, 'c.dcm'), open]), of(third, 'c.dcm')), 200)
  assert.equal(await stored(), 2)
  assert.equal(await piece(2_000, second.length), 200)
  assert.equal(await stored(), 3)

  // More bytes than were announced, and bytes that are no DICOM file.
  const short = { 'x-file-name': 'd.dcm', 'x-file-size': '100' }
  assert.equal(await post(Buffer.concat([part(first, 'd.dcm'), open]), short), 400)
  const text = Buffer.alloc(200_000, 'text')
  assert.equal(await post(Buffer.concat([part(text.subarray(0, 150_000), 'e'), open]), of(text, 'e')), 200)
  assert.equal(await post(Buffer.concat([part(text.subarray(150_000), 'e'), open]), of(text, 'e')), 200)
  assert.equal(await stored(), 3)
})

test('an archive that inflates beyond its bounds is given up, and nothing of it stays', async t => {
  const store = await storeApp(t, { limitBytes: 1024 * 1024 })
  const zeros = Buffer.alloc(900 * 1024)
  zeros.write('DICM', 128)
  const bomb = await archiveOf(Object.fromEntries(Array.from({ length: 8 }, (_, place) => [`${place}`, zeros])))
  assert.ok(bomb.length < 100_000)

  const answer = await store.app.inject({
    method: 'POST',
    url: '/instances',
    headers: { host: 'localhost' },
    payload: bomb,
  })

  assert.equal(answer.statusCode, 413)
  assert.deepEqual(store.staged(), [])
})

async function archiveOf(files: Readonly<Record<string, string | Buffer>>): Promise<Buffer> {
  const zip = new ZipFile()
  for (const [name, content] of Object.entries(files)) {
    if (name.endsWith('/')) zip.addEmptyDirectory(name)
    else zip.addBuffer(Buffer.from(content), name)
  }
  zip.end()
  const chunks: Buffer[] = []
  for await (const chunk of zip.outputStream) chunks.push(Buffer.from(chunk))
  return Buffer.concat(chunks)
}

test('the place of the data set is found in every shape of a file, and asked for again when bytes are missing', () => {
  const { bytes, dataset } = buildInstance({ seed: 1 })
  const offset = bytes.length - dataset.length

  assert.equal(datasetOffset(bytes), offset)
  assert.equal(datasetOffset(dataset), 0)
  assert.equal(datasetOffset(bytes.subarray(128)), offset - 128)
  for (let length = 0; length < offset + 8; length++) assert.equal(datasetOffset(bytes.subarray(0, length)), undefined)
})
