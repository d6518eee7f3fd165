import assert from 'node:assert/strict'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { temporaryDir } from '../support/blobs.ts'
import { missing, run, runOk, startStorescp } from '../support/dcmtk.ts'
import { datasetOffsetOf, registered, sampleFile, startScp } from './fixture.ts'

const skip = missing('echoscu', 'storescu', 'storescp', 'dcmsend', 'dcmconv', 'dcmcjpeg', 'dcmcjpls', 'dcmcrle')

/** Data sets by SOP instance UID as DCMTK's storescp wrote them bit by bit. */
async function bitPreserved(directory: string): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>()
  for (const name of await readdir(directory)) {
    const file = await readFile(join(directory, name))
    found.set(name.replace(/^[A-Z]+\./, ''), file.subarray(datasetOffsetOf(file)))
  }
  return found
}

async function reference(t: TestContext): Promise<{ port: number; directory: string }> {
  const directory = await temporaryDir(t)
  const { port } = await startStorescp(t, ['+B', '+xa', '-od', directory])
  return { port, directory }
}

test('echoscu is answered', { skip }, async t => {
  const { port, scp } = await startScp(t)

  await runOk(t, 'echoscu', ['-aec', 'HANSE', '127.0.0.1', String(port)])

  assert.equal(scp.counters().associationsAccepted, 1)
})

/** Name, tool that makes the file from a plain one (arguments before the two paths), storescu's proposal, resulting syntax. */
const syntaxes: readonly (readonly [string, readonly string[] | undefined, readonly string[], string, (8 | 16)?])[] = [
  ['explicit little endian', undefined, ['-xe'], '1.2.840.10008.1.2.1'],
  ['implicit little endian', ['dcmconv', '+ti'], ['-xi'], '1.2.840.10008.1.2'],
  ['big endian', ['dcmconv', '+tb'], ['-xb'], '1.2.840.10008.1.2.2'],
  ['deflated', ['dcmconv', '+td'], ['-xd'], '1.2.840.10008.1.2.1.99'],
  ['JPEG baseline', ['dcmcjpeg', '+eb'], ['-xy'], '1.2.840.10008.1.2.4.50', 8],
  ['JPEG lossless', ['dcmcjpeg', '+e1'], ['-xs'], '1.2.840.10008.1.2.4.70'],
  ['JPEG-LS', ['dcmcjpls'], ['-xt'], '1.2.840.10008.1.2.4.80'],
  ['RLE', ['dcmcrle'], ['-xr'], '1.2.840.10008.1.2.5'],
]
for (const [name, convert, propose, transferSyntaxUid, bits] of syntaxes) {
  for (const required of [true, false]) {
    test(`storescu sends ${name}${required ? ', required contexts only' : ''}, and its bytes arrive as storescp gets them`, {
      skip,
    }, async t => {
      const { port, received } = await startScp(t)
      const expected = await reference(t)
      const directory = await temporaryDir(t)
      const plain = join(directory, 'plain.dcm')
      const file = convert ? join(directory, 'converted.dcm') : plain
      const sopInstanceUid = '1.2.826.0.1.3680043.10.77'
      await writeFile(plain, sampleFile({ sopInstanceUid, bits: bits ?? 16 }).bytes)
      const [tool, ...options] = convert ?? []
      // The UID is kept also where compression is lossy.
      if (tool) await runOk(t, tool, [...options, ...(tool === 'dcmconv' ? [] : ['+un']), plain, file])
      const send = ['-ll', 'warn', ...(required ? ['-R'] : []), ...propose, '127.0.0.1']

      await runOk(t, 'storescu', [...send, String(port), file])
      await runOk(t, 'storescu', [...send, String(expected.port), file])

      const [instance] = received
      assert.equal(instance?.request.transferSyntaxUid, transferSyntaxUid)
      assert.equal(instance.request.sopInstanceUid, sopInstanceUid)
      const [bytes] = (await bitPreserved(expected.directory)).values()
      assert.ok(bytes && bytes.length > 500)
      assert.deepEqual(await readFile(instance.path), bytes)
    })
  }
}

test('dcmsend sends many files in several syntaxes, and their bytes arrive as storescp gets them', {
  skip,
}, async t => {
  const { port, received, scp } = await startScp(t)
  const expected = await reference(t)
  const directory = await temporaryDir(t)
  const files = join(directory, 'files')
  await mkdir(files)
  for (let count = 0; count < 20; count += 1) {
    const plain = join(directory, 'plain.dcm')
    await writeFile(plain, sampleFile({ sopInstanceUid: `1.2.826.0.1.3680043.10.88.${count}`, rows: 16 + count }).bytes)
    const [tool, ...options] = [['dcmconv', '+te'], ['dcmconv', '+ti'], ['dcmcrle'], ['dcmcjpeg']][count % 4] ?? []
    assert.ok(tool)
    await runOk(t, tool, [...options, plain, join(files, `${count}.dcm`)])
  }
  const send = ['--scan-directories', '--decompress-never', '127.0.0.1']

  await runOk(t, 'dcmsend', [...send, String(port), files])
  await runOk(t, 'dcmsend', [...send, String(expected.port), files])

  const reference1 = await bitPreserved(expected.directory)
  assert.equal(received.length, 20)
  assert.equal(scp.counters().instancesStored, 20)
  for (const { request, path } of received) {
    assert.deepEqual(await readFile(path), reference1.get(request.sopInstanceUid), request.sopInstanceUid)
  }
})

test('an un-tuned storescu is served as well', { skip }, async t => {
  const { port, received } = await startScp(t)
  const file = join(await temporaryDir(t), 'plain.dcm')
  await writeFile(file, sampleFile({ sopInstanceUid: '1.2.3' }).bytes)

  const { code } = await run(t, 'storescu', ['127.0.0.1', String(port), file, file], { tuned: false })

  assert.equal(code, 0)
  assert.equal(received.length, 2)
})

test('storescu hears of a refused caller, and of a called title that is not ours', { skip }, async t => {
  const file = join(await temporaryDir(t), 'plain.dcm')
  await writeFile(file, sampleFile({ sopInstanceUid: '1.2.3' }).bytes)
  const strict = await startScp(t, {
    unknownCallers: 'refuse',
    checkCalledAe: true,
    identifyCaller: registered('CT1'),
  })
  const args = (calling: string, called: string): string[] => [
    '-aet',
    calling,
    '-aec',
    called,
    '127.0.0.1',
    String(strict.port),
    file,
  ]

  const unknown = await run(t, 'storescu', args('CT2', 'HANSE'))
  const wrong = await run(t, 'storescu', args('CT1', 'OTHER'))
  const known = await run(t, 'storescu', args('CT1', 'HANSE'))

  assert.match(unknown.output, /Calling AE Title Not Recognized/)
  assert.match(wrong.output, /Called AE Title Not Recognized/)
  assert.equal(known.code, 0)
  assert.deepEqual(
    strict.refusals.map(refusal => refusal.reason),
    ['unknown-caller', 'called-ae'],
  )
  assert.equal(strict.received.length, 1)
})
