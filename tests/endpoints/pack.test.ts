import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readdir, readFile, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { test } from 'node:test'
import { pack } from '../../endpoints/pack/pack.ts'
import { openStatement } from '../../endpoints/pack/statement.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { temporaryDir } from '../support/blobs.ts'
import { missing, runOk } from '../support/dcmtk.ts'
import { testSite } from '../support/offers.ts'
import { bytesOf, deliver, newIdentity, noSignal, packJob, prepared, preparedStudy } from '../support/packages.ts'
import { unzip } from '../support/unzip.ts'

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

test('a study as a folder is a File-set that DCMTK reads, with certificate, manifests and .done', {
  skip: missing('dcmdump', 'sha256sum'),
}, async t => {
  const [dir, work, out] = [await temporaryDir(t), await temporaryDir(t), await temporaryDir(t)]
  const objects = await preparedStudy(dir)

  const files = await pack(objects, packJob({}), work, noSignal)
  await deliver(files, out)

  assert.deepEqual(
    files.map(({ name, role }) => `${role} ${name}`),
    [
      ...['SE000001/IM000001', 'SE000001/IM000002', 'SE000001/IM000003', 'SE000002/IM000001', 'SE000002/IM000002'].map(
        path => `content study001/${path}`,
      ),
      'content study001/DICOMDIR',
      'certificate certificate.json',
      'manifest manifest.json',
      'manifest manifest.csv',
      'manifest manifest.sig',
      'done .done',
    ],
  )
  const dump = await runOk(t, 'dcmdump', ['--print-all', join(out, 'study001/DICOMDIR')])
  for (const { sopInstanceUid } of objects) assert.match(dump, new RegExp(sopInstanceUid.replaceAll('.', '\\.')))
  assert.match(dump, /SE000002\\IM000002/)
  await runOk(t, 'bash', ['-c', `cd ${out} && sha256sum --strict -c .done`])
})

test('every file is as long and has the digest that it says, from any offset', async t => {
  const [dir, work] = [await temporaryDir(t), await temporaryDir(t)]
  const objects = await preparedStudy(dir)

  for (const container of ['folder', 'zip']) {
    for (const unit of ['file', 'series', 'study']) {
      const files = await pack(objects, packJob({ container, unit }), join(work, container, unit), noSignal)
      assert.equal(new Set(files.map(({ name }) => name)).size, files.length)
      for (const file of files) {
        const bytes = await buffer(file.open(0))
        assert.deepEqual([bytes.length, sha256(bytes)], [file.size, file.sha256], `${container} ${unit} ${file.name}`)
        const middle = Math.floor(file.size / 2)
        assert.deepEqual(await buffer(file.open(middle)), bytes.subarray(middle))
      }
    }
  }
})

test('packages divide by series and by file, and archives hold the objects unchanged', {
  skip: missing('unzip'),
}, async t => {
  const [dir, work, out] = [await temporaryDir(t), await temporaryDir(t), await temporaryDir(t)]
  const objects = await preparedStudy(dir)

  for (const compression of ['stored', 'deflate']) {
    const series = await pack(objects, packJob({ container: 'zip', unit: 'series', compression }), work, noSignal)
    await deliver(series, out)
    assert.deepEqual(
      series.slice(0, 3).map(({ name }) => name),
      ['series001.zip', 'series002.zip', 'certificate.json'],
    )
    await runOk(t, 'unzip', ['-t', join(out, 'series001.zip')])
    const held = await unzip(await readFile(join(out, 'series001.zip')))
    assert.deepEqual(
      held.map(({ name }) => name),
      ['SE000001/IM000001', 'SE000001/IM000002', 'SE000001/IM000003', 'DICOMDIR'],
    )
    assert.equal(sha256(held[1]?.bytes ?? Buffer.alloc(0)), objects[1]?.sha256)
    assert.equal(held[0]?.method, compression === 'deflate' ? 8 : 0)
  }
  const single = await pack(objects, packJob({ container: 'zip', unit: 'file' }), work, noSignal)
  await deliver(single, out)
  assert.deepEqual(
    (await unzip(await readFile(join(out, 'file005.zip')))).map(({ name, bytes }) => [name, sha256(bytes)]),
    [['file005.dcm', objects[4]?.sha256]],
  )
})

test('manifests, certificate and .done can each be off', async t => {
  const [dir, work] = [await temporaryDir(t), await temporaryDir(t)]
  const objects = await preparedStudy(dir)
  const names = async (options: object): Promise<string[]> =>
    (await pack(objects, packJob({ container: 'zip', ...options }), work, noSignal)).map(({ name }) => name)
  const off = { certificate: false, done: false, manifest: { csv: false, json: false } }

  assert.deepEqual(await names(off), ['study001.zip'])
  assert.deepEqual(await names({ ...off, done: true }), ['study001.zip', '.done'])
  assert.deepEqual(await names({ ...off, certificate: true }), ['study001.zip', 'certificate.json'])
  assert.deepEqual(await names({ ...off, manifest: { json: false } }), ['study001.zip', 'manifest.csv', 'manifest.sig'])
})

test('names follow case, digits and template of the endpoint', async t => {
  const [dir, work] = [await temporaryDir(t), await temporaryDir(t)]
  const objects = await preparedStudy(dir)
  const names = { template: '{protocol}/{subject}_{modality}_{number}', case: 'upper', padding: 2, charset: 'words' }

  const files = await pack(objects, packJob({ container: 'zip', unit: 'series', names }), work, noSignal)

  assert.deepEqual(
    files.map(({ name }) => name),
    [
      'SUBJ_1_CT_01.ZIP',
      'SUBJ_1_MR_02.ZIP',
      'CERTIFICATE.JSON',
      'MANIFEST.JSON',
      'MANIFEST.CSV',
      'MANIFEST.SIG',
      '.DONE',
    ],
  )
})

test('two studies that would get one name are refused before anything is written', async t => {
  const [dir, work] = [await temporaryDir(t), join(await temporaryDir(t), 'work')]
  const objects = [...(await preparedStudy(dir, 1)), ...(await preparedStudy(dir, 2))]
  const job = packJob({ container: 'zip', names: { template: '{subject}' } })

  await assert.rejects(pack(objects, job, work, noSignal), error => isGatewayError(error, 'BAD_REQUEST'))
  await assert.rejects(stat(work), /ENOENT/)
})

test('the signature covers every file, in the words of the sender', async t => {
  const [dir, work] = [await temporaryDir(t), await temporaryDir(t)]
  const files = await pack(await preparedStudy(dir), packJob({}), work, noSignal)
  const signature = await bytesOf(files.find(({ name }) => name === 'manifest.sig'))

  const statement = openStatement(signature, [testSite(7).signingKey])

  assert.deepEqual(
    statement.files,
    files.slice(0, -2).map(({ name, role, size, sha256 }) => ({ name, role, size, sha256 })),
  )
  assert.throws(
    () => openStatement(signature, [testSite(8).signingKey]),
    error => isGatewayError(error, 'MANIFEST_SIGNATURE'),
  )
})

test('what was finished before a crash is not made again; what was damaged meanwhile is', async t => {
  const [dir, work] = [await temporaryDir(t), await temporaryDir(t)]
  const objects = await preparedStudy(dir)
  const job = packJob({ container: 'zip', unit: 'series' })
  const first = await pack(objects, job, work, noSignal)
  const pathOf = (name: string): string => join(work, `${sha256(Buffer.from(name)).slice(0, 32)}.bin`)
  const [one, two] = [pathOf('series001.zip'), pathOf('series002.zip')]
  const before = await stat(one)
  const bytes = await readFile(two)
  bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1
  await writeFile(two, bytes)
  await truncate(pathOf('manifest.json'), 10)
  await writeFile(join(work, 'left-over.bin'), 'x')

  const second = await pack(objects, job, work, noSignal)

  assert.equal((await stat(one)).mtimeMs, before.mtimeMs)
  assert.deepEqual(
    second.map(({ name, size, sha256 }) => [name, size, sha256]),
    first.map(({ name, size, sha256 }) => [name, size, sha256]),
  )
  assert.equal(sha256(await readFile(two)), second[1]?.sha256)
  await assert.rejects(stat(join(work, 'left-over.bin')), /ENOENT/)
})

test('packing that was stopped goes on with what was finished', async t => {
  const [dir, work] = [await temporaryDir(t), await temporaryDir(t)]
  const objects = await preparedStudy(dir)
  const job = packJob({ container: 'zip', unit: 'series' })
  const stop = new AbortController()
  const [last] = objects.slice(-1)
  assert.ok(last !== undefined)
  const stopping = {
    ...last,
    get path() {
      stop.abort(new Error('stopped'))
      return last.path
    },
  }

  await assert.rejects(pack([...objects.slice(0, -1), stopping], job, work, stop.signal), /stopped/)
  const notes = (await readdir(work)).filter(name => name.endsWith('.json'))
  const finished = join(work, `${notes[0]?.slice(0, -5)}.bin`)
  const before = await stat(finished)
  const files = await pack(objects, job, work, noSignal)

  assert.equal(notes.length, 1)
  assert.equal((await stat(finished)).mtimeMs, before.mtimeMs)
  assert.equal(files.length, 7)
})

test('a prepared object that is no longer what it was is not packed', async t => {
  const [dir, work] = [await temporaryDir(t), await temporaryDir(t)]
  const object = await prepared(dir, { seed: 3 })
  const bytes = await readFile(object.path)
  bytes[bytes.length - 5] = (bytes.at(-5) ?? 0) ^ 4
  await writeFile(object.path, bytes)

  const { recipient } = await newIdentity()
  const encryption = { kind: 'age', recipients: [recipient] }
  for (const options of [{}, { encryption }, { container: 'zip' }, { container: 'zip', compression: 'deflate' }]) {
    await assert.rejects(pack([object], packJob(options), work, noSignal), error =>
      isGatewayError(error, 'STORAGE_CORRUPT'),
    )
  }
})
