import assert from 'node:assert/strict'
import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { decryptAge, encryptAge } from '../../endpoints/pack/age.ts'
import { checkEncryption } from '../../endpoints/pack/options.ts'
import { pack } from '../../endpoints/pack/pack.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { temporaryDir } from '../support/blobs.ts'
import { missing, run, runOk } from '../support/dcmtk.ts'
import { randomOf } from '../support/mutate-dicom.ts'
import { deliver, newIdentity, noSignal, openpgpKey, packJob, preparedStudy } from '../support/packages.ts'

interface Recipient {
  readonly identity: string
  readonly recipient: string
  /** File with the identity. */
  readonly path: string
}

async function ageRecipient(dir: string, name: string): Promise<Recipient> {
  const { identity, recipient } = await newIdentity()
  const path = join(dir, name)
  await writeFile(path, `# of tests\n${identity}\n`)
  return { identity, recipient, path }
}

async function* chunked(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  const buffer = Buffer.alloc(size)
  for (let at = 0; at < bytes.length; at += size) {
    const part = bytes.subarray(at, at + size)
    buffer.set(part) // the same memory each time, as our sources do
    yield buffer.subarray(0, part.length)
  }
}

async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const all: Buffer[] = []
  for await (const chunk of chunks) all.push(Buffer.from(chunk))
  return Buffer.concat(all)
}

test("Debian's age opens what we encrypt, and we what it encrypts, at every border of its parts", {
  skip: missing('age'),
}, async t => {
  const dir = await temporaryDir(t)
  const own = await ageRecipient(dir, 'own.key')
  const plain = Buffer.from(Array.from({ length: 131_073 }, (_, i) => (i * 31) & 0xff))

  for (const length of [0, 1, 65_535, 65_536, 65_537, 131_072, 131_073]) {
    const bytes = plain.subarray(0, length)
    const sealed = await collect(encryptAge(chunked(bytes, 50_000), [own.recipient]))
    await writeFile(join(dir, 'a.age'), sealed)
    await writeFile(join(dir, 'plain'), bytes)
    await writeFile(join(dir, 'a'), '') // of nothing, age makes no file
    await runOk(t, 'age', ['-d', '-i', own.path, '-o', join(dir, 'a'), join(dir, 'a.age')])
    await runOk(t, 'age', ['-r', own.recipient, '-o', join(dir, 'b.age'), join(dir, 'plain')])
    const theirs = await readFile(join(dir, 'b.age'))

    assert.deepEqual(await readFile(join(dir, 'a')), bytes, `${length} bytes`)
    for (const file of [sealed, theirs])
      for (const size of [7_000, 200_000])
        assert.deepEqual(await collect(decryptAge(chunked(file, size), [own.identity])), bytes, `${length} bytes`)
  }
})

test('a package is opened by each of its recipients with age, and by nobody else', {
  skip: missing('age', 'unzip'),
}, async t => {
  const [dir, work, out] = [await temporaryDir(t), await temporaryDir(t), await temporaryDir(t)]
  const [one, two, other] = [
    await ageRecipient(out, 'one.key'),
    await ageRecipient(out, 'two.key'),
    await ageRecipient(out, 'other.key'),
  ]
  const objects = await preparedStudy(dir)
  const encryption = { kind: 'age', recipients: [one.recipient, two.recipient] }
  await deliver(await pack(objects, packJob({ container: 'zip', encryption }), work, noSignal), out)
  const sealed = join(out, 'study001.zip.age')

  for (const { path } of [one, two]) {
    await runOk(t, 'age', ['-d', '-i', path, '-o', join(out, 'study.zip'), sealed])
    await runOk(t, 'unzip', ['-t', join(out, 'study.zip')])
  }
  assert.notEqual((await run(t, 'age', ['-d', '-i', other.path, '-o', join(out, 'no.zip'), sealed])).code, 0)
})

test('a folder is encrypted file by file: what age makes of them is a File-set', {
  skip: missing('age', 'dcmdump'),
}, async t => {
  const [dir, work, out] = [await temporaryDir(t), await temporaryDir(t), await temporaryDir(t)]
  const own = await ageRecipient(out, 'own.key')
  const encryption = { kind: 'age', recipients: [own.recipient] }
  const files = await pack(await preparedStudy(dir), packJob({ encryption }), work, noSignal)
  await deliver(files, out)

  for (const { name } of files.filter(({ role }) => role === 'content')) {
    assert.match(name, /^study001\/.*\.age$/)
    const path = join(out, name)
    await runOk(t, 'age', ['-d', '-i', own.path, '-o', path.slice(0, -4), path])
  }
  await runOk(t, 'dcmdump', [join(out, 'study001/DICOMDIR')])
  await runOk(t, 'dcmdump', [join(out, 'study001/SE000002/IM000002')])
})

test('nothing of an encrypted package lies in the work folder in the clear', async t => {
  const [dir, work] = [await temporaryDir(t), await temporaryDir(t)]
  const objects = await preparedStudy(dir, 1, { patientName: 'SUBJ^MARKERMARKER' })
  const own = await ageRecipient(dir, 'own.key')
  const key = await openpgpKey(t, dir)

  for (const encryption of [
    { kind: 'age', recipients: [own.recipient] },
    { kind: 'openpgp', keys: [key.armored] },
  ]) {
    for (const container of ['folder', 'zip'])
      await pack(objects, packJob({ container, encryption }), join(work, container, encryption.kind), noSignal)
  }

  const paths = (await readdir(work, { recursive: true, withFileTypes: true })).filter(entry => entry.isFile())
  assert.ok(paths.length > 10)
  for (const entry of paths) {
    const bytes = await readFile(join(entry.parentPath, entry.name))
    assert.equal(bytes.includes('MARKERMARKER'), false)
    assert.equal(bytes.includes('DICM'), false)
  }
})

test('a bit flipped anywhere in an age file, or a cut, is detected by age and by us', {
  skip: missing('age'),
}, async t => {
  const dir = await temporaryDir(t)
  const own = await ageRecipient(dir, 'own.key')
  const random = randomOf(20261123)
  const plain = Buffer.from(Array.from({ length: 150_000 }, () => random() * 256))
  const sealed = await collect(encryptAge(chunked(plain, 65_536), [own.recipient]))
  const damagedOnes: Uint8Array[] = Array.from({ length: 40 }, (_, i) => {
    const bytes = Buffer.from(sealed)
    // Some of them in the header, which is short.
    const at = Math.floor(random() * (i < 10 ? 230 : bytes.length))
    bytes[at] = (bytes[at] ?? 0) ^ (1 << Math.floor(random() * 8))
    return bytes
  })
  damagedOnes.push(...[1, 16, 17, 65_552].map(cut => sealed.subarray(0, sealed.length - cut)))
  damagedOnes.push(Buffer.concat([sealed, Buffer.from([0])]))

  for (const [index, bytes] of damagedOnes.entries()) {
    await assert.rejects(
      collect(decryptAge(chunked(bytes, 30_000), [own.identity])),
      error => isGatewayError(error, 'OBJECT_DIGEST'),
      `case ${index}`,
    )
    await writeFile(join(dir, 'a.age'), bytes)
    assert.notEqual((await run(t, 'age', ['-d', '-i', own.path, '-o', join(dir, 'a'), join(dir, 'a.age')])).code, 0)
  }
})

test('gpg opens OpenPGP packages, and detects a flipped bit', { skip: missing('gpg', 'unzip') }, async t => {
  const [dir, work, out] = [await temporaryDir(t), await temporaryDir(t), await temporaryDir(t)]
  const { home, armored } = await openpgpKey(t, out)
  const encryption = { kind: 'openpgp', keys: [armored] }
  await deliver(await pack(await preparedStudy(dir), packJob({ container: 'zip', encryption }), work, noSignal), out)
  const [sealed, opened] = [join(out, 'study001.zip.gpg'), join(out, 'study.zip')]
  const gpg = (): ReturnType<typeof run> =>
    run(t, 'gpg', ['--homedir', home, '--batch', '--yes', '-o', opened, '-d', sealed])

  const whole = await gpg()
  assert.equal(whole.code, 0, whole.output)
  await runOk(t, 'unzip', ['-t', opened])

  const bytes = await readFile(sealed)
  bytes[bytes.length - 1000] = (bytes.at(-1000) ?? 0) ^ 1
  await writeFile(sealed, bytes)
  await rm(opened)
  assert.notEqual((await gpg()).code, 0)
})

test('what is no recipient is refused when it is set', async t => {
  const refused = (encryption: unknown): void => assert.throws(() => packJob({ encryption }), /encryption/)
  const { recipient } = await ageRecipient(await temporaryDir(t), 'own.key')

  refused({ kind: 'age', recipients: [] })
  refused({ kind: 'age', recipients: [`${recipient.slice(0, -1)}${recipient.endsWith('q') ? 'p' : 'q'}`] })
  refused({ kind: 'age', recipients: ['AGE-SECRET-KEY-1'] })
  refused({ kind: 'openpgp', keys: ['-----BEGIN PGP PRIVATE KEY BLOCK-----'] })
  refused({ kind: 'rot13' })
  const unreadable = {
    kind: 'openpgp',
    keys: ['-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----'],
  }
  await assert.rejects(checkEncryption(packJob({ encryption: unreadable }).options), error =>
    isGatewayError(error, 'BAD_REQUEST'),
  )
})
