import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { cp, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { type TestContext, test } from 'node:test'
import { crc32, deflateRawSync } from 'node:zlib'
import { generateKey } from 'openpgp'
import { decryptAge } from '../../endpoints/pack/age.ts'
import { readManifest } from '../../endpoints/pack/manifest.ts'
import { pack } from '../../endpoints/pack/pack.ts'
import { openStatement, signStatement } from '../../endpoints/pack/statement.ts'
import type { PackageFile, PreparedObject } from '../../endpoints/package.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { ZipWriter } from '../../gateway/zip/zip-writer.ts'
import { signCard } from '../../peers/card.ts'
import { hanse } from '../cli/terminal.ts'
import { temporaryDir } from '../support/blobs.ts'
import { randomOf } from '../support/mutate-dicom.ts'
import { testSite } from '../support/offers.ts'
import { bytesOf, deliver, newIdentity, noSignal, packJob, preparedStudy } from '../support/packages.ts'
import { testKeys } from '../support/site.ts'

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')
const signer = Buffer.from(testSite(7).signingKey).toString('base64')

interface Received {
  readonly dir: string
  readonly objects: readonly PreparedObject[]
  readonly files: readonly PackageFile[]
  readonly identity: string
}

/** A delivery as it lies at the recipient. */
async function received(t: TestContext, options: object): Promise<Received> {
  const [outbox, dir] = [await temporaryDir(t), await temporaryDir(t)]
  const { identity, recipient } = await newIdentity()
  const key = join(outbox, 'age.key')
  await writeFile(key, `# created: today\n# public key: …\n${identity}\n`)
  const age = { kind: 'age', recipients: [recipient] }
  const objects = await preparedStudy(outbox)
  const job = packJob({ ...options, ...('encryption' in options ? { encryption: age } : {}) })
  const files = await pack(objects, job, join(outbox, 'work'), noSignal)
  await deliver(files, join(dir, 'delivery'))
  return { dir, objects, files, identity: key }
}

const open = (one: Received, ...argv: string[]): ReturnType<typeof hanse> =>
  hanse(['open', 'delivery', '--out', 'out', ...argv], { cwd: one.dir })

async function filesBelow(dir: string): Promise<string[]> {
  const found = await readdir(dir, { recursive: true, withFileTypes: true }).catch(() => [])
  return found.filter(entry => entry.isFile()).map(entry => join(entry.parentPath, entry.name))
}

async function digestsBelow(dir: string): Promise<Set<string>> {
  const bytes = await Promise.all((await filesBelow(dir)).map(path => readFile(path)))
  return new Set(bytes.map(sha256))
}

test('every kind of package is opened: the objects come out as they were prepared', async t => {
  for (const container of ['folder', 'zip']) {
    for (const unit of ['file', 'series', 'study']) {
      for (const change of [{ names: { case: 'upper' } }, { encryption: 'age' }, { compression: 'deflate' }]) {
        const one = await received(t, { container, unit, ...change })

        const { code, out, err } = await open(one, '--signer', signer, '--identity', one.identity)

        assert.deepEqual([code, err], [0, ''], out)
        assert.match(out, /5 objects, 0 failed/)
        const there = await digestsBelow(join(one.dir, 'out'))
        for (const { sha256 } of one.objects) assert.ok(there.has(sha256), `${container} ${unit}`)
        assert.deepEqual(
          (await readdir(join(one.dir, 'out'))).filter(name => name.startsWith('.hanse')),
          [],
        )
      }
    }
  }
})

test('one package of a delivery is opened alone', async t => {
  const one = await received(t, { container: 'zip', unit: 'series', encryption: 'age' })

  const { code, out } = await hanse(
    ['open', 'delivery/series002.zip.age', '--out', 'out', '--signer', signer, '--identity', one.identity],
    { cwd: one.dir },
  )

  assert.equal(code, 0, out)
  assert.deepEqual(await readdir(join(one.dir, 'out')), ['series002'])
  assert.deepEqual((await readdir(join(one.dir, 'out/series002'))).sort(), ['DICOMDIR', 'SE000001'])
})

test('a bit flipped anywhere in a delivery is found, and nothing of what it touches is written', async t => {
  const random = randomOf(20261124)
  for (const options of [
    { container: 'folder', unit: 'study' },
    { container: 'zip' },
    { container: 'zip', encryption: 'age' },
  ]) {
    const one = await received(t, options)
    const delivery = join(one.dir, 'delivery')
    const names = one.files.map(({ name }) => name).filter(name => name !== '.done')
    for (let round = 0; round < 10; round++) {
      const name = names[Math.floor(random() * names.length)] ?? ''
      const whole = await readFile(join(delivery, name))
      const damaged = Buffer.from(whole)
      const at = Math.floor(random() * whole.length)
      damaged[at] = (damaged[at] ?? 0) ^ (1 << Math.floor(random() * 8))
      await writeFile(join(delivery, name), damaged)
      const label = `${name} at ${at}`

      const { code, out, err } = await open(one, '--signer', signer, '--identity', one.identity)

      const written = await filesBelow(join(one.dir, 'out'))
      const allowed = new Set(one.objects.map(object => object.sha256))
      for (const file of one.files)
        if (file.role !== 'content' || file.name.endsWith('DICOMDIR')) allowed.add(file.sha256)
      const dirs = written.filter(path => !path.endsWith('DICOMDIR'))
      for (const path of dirs) assert.ok(allowed.has(sha256(await readFile(path))), `${label}: ${path}`)
      // The signature's own text has bits that change nothing, such as those of the hint which key signed.
      if (name !== 'manifest.sig') {
        assert.equal(code, 1, `${label}: ${out} ${err}`)
        assert.match(out, new RegExp(`failed: ${name.replaceAll('.', '\\.')}: `))
      } else if (code !== 0) assert.deepEqual(written, [])
      await writeFile(join(delivery, name), whole)
      await rm(join(one.dir, 'out'), { recursive: true, force: true })
    }
  }
})

test('what is missing, cut, foreign or signed by somebody else is told', async t => {
  const one = await received(t, { unit: 'study' })
  const delivery = join(one.dir, 'delivery')
  await rm(join(delivery, 'study001/SE000001/IM000002'))
  await writeFile(join(delivery, 'study001/SE000001/IM000003'), 'short')
  await writeFile(join(delivery, 'strange'), 'x')

  const { code, out, err } = await open(one, '--signer', signer)
  const other = await hanse(
    ['open', 'delivery', '--out', 'other', '--signer', Buffer.from(testSite(8).signingKey).toString('base64')],
    { cwd: one.dir },
  )

  assert.equal(code, 1)
  assert.match(out, /failed: study001\/SE000001\/IM000002: it is missing/)
  assert.match(out, /failed: study001\/SE000001\/IM000003: not what was signed/)
  assert.match(err, /not part of the delivery, left alone: strange/)
  assert.deepEqual([other.code, await filesBelow(join(one.dir, 'other'))], [1, []])
  assert.match(other.err, /MANIFEST_SIGNATURE/)
})

test('the signer is known by a site card as well, and shown when nobody was named', async t => {
  const dir = await temporaryDir(t)
  const keys = await testKeys(t, 'Alpha')
  const card = signCard(keys, { name: 'Alpha', urls: [], created: Date.now() })
  await writeFile(join(dir, 'sender.card'), card.bytes)
  const files = await pack(await preparedStudy(dir), packJob({}, { site: keys }), join(dir, 'work'), noSignal)
  await deliver(files, join(dir, 'delivery'))

  const known = await hanse(['open', 'delivery', '--out', 'a', '--signer', 'sender.card'], { cwd: dir })
  const shown = await hanse(['open', 'delivery', '--out', 'b'], { cwd: dir })

  assert.deepEqual([known.code, known.err], [0, ''])
  assert.match(known.out, new RegExp(`signed by site ${keys.siteId} on 2026-03-04T05:06:08.000Z`))
  assert.equal(shown.code, 0)
  assert.ok(shown.err.includes(Buffer.from(keys.signingKey).toString('base64')))
})

test('without a manifest only --unsigned opens, and says so', async t => {
  const one = await received(t, { container: 'zip', encryption: 'age', manifest: { csv: false, json: false } })

  const refused = await open(one, '--identity', one.identity)
  const opened = await open(one, '--identity', one.identity, '--unsigned')

  assert.equal(refused.code, 1)
  assert.match(refused.err, /--unsigned/)
  assert.equal(opened.code, 0, opened.out)
  assert.match(opened.err, /unsigned: nothing says who sent this/)
  assert.equal((await filesBelow(join(one.dir, 'out/study001'))).length, 6)
})

test('what is there already is not replaced, and the arguments are checked', async t => {
  const one = await received(t, { container: 'zip', encryption: 'age' })
  await mkdir(join(one.dir, 'out/study001'), { recursive: true })

  const taken = await open(one, '--signer', signer, '--identity', one.identity)

  assert.equal(taken.code, 1)
  assert.match(taken.out, /failed: study001.zip.age: its name is taken/)
  assert.deepEqual(await readdir(join(one.dir, 'out/study001')), [])
  const plain = await received(t, {})
  await mkdir(join(plain.dir, 'out/study001/SE000001'), { recursive: true })
  await writeFile(join(plain.dir, 'out/study001/SE000001/IM000001'), 'mine')
  const others = await open(plain, '--signer', signer)
  assert.match(others.out, /failed: study001\/SE000001\/IM000001: its name is taken/)
  assert.match(others.out, /8 files verified, 4 objects, 1 failed/)
  assert.equal(await readFile(join(plain.dir, 'out/study001/SE000001/IM000001'), 'utf8'), 'mine')
  for (const argv of [
    ['open', 'delivery'],
    ['open', 'nowhere', '--out', 'x'],
    ['open', 'delivery', '--out', 'x'],
    ['open', 'delivery', '--out', 'x', '--identity', 'delivery/manifest.csv'],
    ['open', 'delivery', '--out', 'x', '--identity', one.identity, '--signer', 'delivery/manifest.csv'],
    ['open', 'delivery', '--out', 'x', '--unsigned', '--signer', signer],
  ]) {
    assert.equal((await hanse(argv, { cwd: one.dir })).code, 2, argv.join(' '))
  }
})

test('an archive that leads elsewhere, names a file twice or inflates without end leaves nothing behind', async t => {
  const one = await received(t, { container: 'zip' })
  const delivery = join(one.dir, 'delivery')
  const zeros = Buffer.alloc(80_000_000)
  const bomb = deflateRawSync(zeros)
  const entry = (name: string) =>
    ({ name, method: 'stored', sizeBytes: 4, compressedBytes: 4, crc32: crc32('evil') }) as const
  const hostile: Record<string, (writer: ZipWriter) => Uint8Array[]> = {
    slip: writer => [writer.entry(entry('../../evil')), Buffer.from('evil')],
    absolute: writer => [writer.entry(entry('/tmp/evil')), Buffer.from('evil')],
    backslash: writer => [writer.entry(entry('..\\evil')), Buffer.from('evil')],
    device: writer => [writer.entry(entry('con.txt')), Buffer.from('evil')],
    twice: writer => [
      ...[writer.entry(entry('a')), Buffer.from('evil'), writer.entry(entry('A')), Buffer.from('evil')],
    ],
    checksum: writer => [writer.entry(entry('a')), Buffer.from('good')],
    bomb: writer => [
      writer.entry({
        name: 'a',
        method: 'deflated',
        sizeBytes: zeros.length,
        compressedBytes: bomb.length,
        crc32: crc32(zeros),
      }),
      bomb,
    ],
  }
  for (const [name, parts] of Object.entries(hostile)) {
    const writer = new ZipWriter(new Date(0))
    await writeFile(join(delivery, 'study001.zip'), Buffer.concat([...parts(writer), ...writer.end()]))

    const { code, out } = await hanse(['open', 'delivery/study001.zip', '--out', 'out', '--unsigned'], { cwd: one.dir })

    assert.equal(code, 1, `${name}: ${out}`)
    assert.deepEqual(await readdir(join(one.dir, 'out')), [], name)
  }
  assert.deepEqual((await readdir(one.dir)).sort(), ['delivery', 'out'])
})

test('a signature may not name files elsewhere, and links are not followed', async t => {
  const one = await received(t, { container: 'zip' })
  const delivery = join(one.dir, 'delivery')
  const secret = join(one.dir, 'secret.zip')
  await cp(join(delivery, 'study001.zip'), secret)
  const [file] = one.files
  assert.ok(file !== undefined)
  const facts = { from: testSite(7).siteId, created: new Date(), signer: testSite(7) }
  const sign = async (name: string): Promise<void> =>
    await writeFile(join(delivery, 'manifest.sig'), signStatement([{ ...file, name }], facts))

  for (const name of ['../secret.zip', '/etc/passwd', 'a/../../secret.zip', 'a\\b', '..']) {
    await sign(name)
    const { code, err } = await open(one, '--signer', signer)
    assert.deepEqual([code, await filesBelow(join(one.dir, 'out'))], [1, []], name)
    assert.match(err, /MANIFEST_MALFORMED/)
  }
  await sign('study001.zip')
  await rm(join(delivery, 'study001.zip'))
  await symlink(secret, join(delivery, 'study001.zip'))
  const linked = await open(one, '--signer', signer)
  assert.equal(linked.code, 1)
  assert.deepEqual(await filesBelow(join(one.dir, 'out')), [])
})

test('no name, manifest or table of a delivery tells who the patient is', async t => {
  const dir = await temporaryDir(t)
  const marker = 'MARKERPATIENT'
  const objects = await preparedStudy(dir, 1, {
    patientName: `${marker}^NAME`,
    patientId: `${marker}-ID`,
    extra: [
      { tag: 0x00080050, value: `${marker}-ACC` },
      { tag: 0x00081030, value: `${marker} study` },
      { tag: 0x0008103e, value: `${marker} series` },
    ],
  })
  for (const container of ['folder', 'zip']) {
    for (const unit of ['file', 'series', 'study']) {
      const files = await pack(objects, packJob({ container, unit }), join(dir, 'work', container, unit), noSignal)
      for (const file of files) {
        assert.equal(file.name.includes(marker), false)
        if (file.role !== 'content') assert.equal((await bytesOf(file)).includes(marker), false, file.name)
      }
    }
  }
})

test('what is no delivery is refused in words, whatever its bytes', async () => {
  const file = { name: 'a', role: 'content', size: 1, sha256: 'a'.repeat(64), open: () => Readable.from([]) } as const
  const site = testSite(7)
  const facts = { from: site.siteId, created: new Date('2026-03-04T05:06:08Z'), signer: site }
  const signature = Buffer.from(signStatement([file], facts))
  const random = randomOf(20261125)
  const isRefusal = (error: unknown): boolean =>
    isGatewayError(error, 'MANIFEST_MALFORMED') || isGatewayError(error, 'MANIFEST_SIGNATURE')
  const { identity } = await newIdentity()

  for (let round = 0; round < 300; round++) {
    const bytes = Buffer.from(signature)
    for (let flips = 0; flips < 3; flips++) bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256)
    const cut = bytes.subarray(0, round % 3 === 0 ? Math.floor(random() * bytes.length) : bytes.length)
    try {
      assert.deepEqual(openStatement(cut, [site.signingKey]).files[0]?.sha256, file.sha256)
    } catch (error) {
      assert.ok(isRefusal(error), String(error))
    }
    assert.throws(() => readManifest(cut), isRefusal)
    const sealed = decryptAge(Readable.from([cut]), [identity])
    await assert.rejects(sealed.next(), error => isGatewayError(error, 'OBJECT_DIGEST'))
  }
  async function* endless(): AsyncGenerator<Uint8Array> {
    for (;;) yield Buffer.from('age-encryption.org/v1\n-> X25519 '.repeat(1000))
  }
  await assert.rejects(decryptAge(endless(), [identity]).next(), error => isGatewayError(error, 'OBJECT_DIGEST'))
})

test('packages for OpenPGP are opened with a private key, or verified and left to gpg', async t => {
  const dir = await temporaryDir(t)
  const userIDs = [{ name: 'TEST Recipient' }]
  const own = await generateKey({ userIDs })
  const other = await generateKey({ userIDs })
  const locked = await generateKey({ userIDs, passphrase: 'TEST' })
  await writeFile(join(dir, 'own.asc'), own.privateKey)
  await writeFile(join(dir, 'other.asc'), other.privateKey)
  await writeFile(join(dir, 'locked.asc'), locked.privateKey)
  const job = packJob({ container: 'zip', encryption: { kind: 'openpgp', keys: [own.publicKey, locked.publicKey] } })
  const files = await pack(await preparedStudy(dir), job, join(dir, 'work'), noSignal)
  await deliver(files, join(dir, 'delivery'))
  const openTo = (out: string, ...argv: string[]): ReturnType<typeof hanse> =>
    hanse(['open', 'delivery', '--out', out, '--signer', signer, ...argv], { cwd: dir })

  const opened = await openTo('opened', '--identity', 'own.asc')
  const sealed = await openTo('sealed')
  const foreign = await openTo('foreign', '--identity', 'other.asc')

  assert.deepEqual([opened.code, opened.err], [0, ''], opened.out)
  assert.equal((await filesBelow(join(dir, 'opened/study001'))).length, 6)
  assert.equal(sealed.code, 0)
  assert.match(sealed.out, /ok: study001.zip.gpg, open it with gpg -d -> study001.zip.gpg/)
  assert.equal(foreign.code, 1)
  assert.match(foreign.out, /failed: study001.zip.gpg: the file was encrypted for other keys/)
  assert.equal((await openTo('locked', '--identity', 'locked.asc')).code, 2)
  const random = randomOf(20261126)
  const place = join(dir, 'delivery/study001.zip.gpg')
  const whole = await readFile(place)
  for (let round = 0; round < 10; round++) {
    const bytes = Buffer.from(whole)
    // Behind what is said to the other recipient.
    const at = 2000 + Math.floor(random() * (bytes.length - 2000))
    bytes[at] = (bytes[at] ?? 0) ^ (1 << Math.floor(random() * 8))
    await writeFile(place, bytes)
    const unsigned = ['open', 'delivery/study001.zip.gpg', '--unsigned', '--identity', 'own.asc', '--out', 'damaged']
    const { code, out } = await hanse(unsigned, { cwd: dir })
    assert.equal(code, 1, `${at}: ${out}`)
    assert.deepEqual(await filesBelow(join(dir, 'damaged')), [])
  }
})
