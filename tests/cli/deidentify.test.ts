import assert from 'node:assert/strict'
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { stringOf } from '../../gateway/dicom/dataset.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { temporaryDir } from '../support/blobs.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { hanse } from './terminal.ts'

/** A folder with a study of two images, a capture with text in it, a broken file and a letter. */
async function folderOfStudy(dir: string): Promise<string> {
  const folder = join(dir, 'Obermayer Josefine 1970')
  await mkdir(join(folder, 'below'), { recursive: true })
  const series = (seed: number, text: string) =>
    buildInstance({
      seed,
      studyInstanceUid: '1.2.3.4',
      patientId: 'MRN-4711',
      // Only the first instance names the patient; the others must lose the name all the same.
      patientName: seed === 1 ? 'Obermayer^Josefine' : '',
      extra: [{ tag: 0x0008103e, vr: 'LO', value: text }],
    }).bytes
  await writeFile(join(folder, '1.dcm'), series(1, 'Thorax'))
  await writeFile(join(folder, 'below', '2.dcm'), series(2, 'Thorax Obermayer'))
  await writeFile(join(folder, 'capture.dcm'), buildInstance({ modality: 'US' }).bytes)
  await writeFile(join(folder, 'broken.dcm'), series(1, 'x').subarray(0, 900))
  await writeFile(join(folder, 'letter.txt'), 'Dear Josefine Obermayer')
  return folder
}

async function filesBelow(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  return entries.filter(entry => entry.isFile()).map(entry => join(entry.parentPath, entry.name))
}

test('a folder is de-identified file by file; what is held is named, and nothing of it is written', async t => {
  const dir = await temporaryDir(t)
  const input = await folderOfStudy(dir)
  const [out, key, report] = ['out', 'project.json', 'report.jsonl'].map(name => join(dir, name))
  assert.ok(out && key && report)
  const argv = ['deidentify', '--profile', 'trial', '--project', key, '--out', out, '--report', report, input]

  const first = await hanse([...argv, '--new-key'])
  const files = await filesBelow(out)
  const contents = await Promise.all(files.map(file => readFile(file)))
  const second = await hanse(argv)

  assert.equal(first.code, 1, first.err)
  assert.match(first.out, /2 files written, 2 held, 1 skipped/)
  assert.equal(files.length, 2)
  for (const [index, bytes] of contents.entries()) {
    assert.doesNotMatch(files[index]?.slice(dir.length) ?? '', /Obermayer|Josefine|4711|TEST/)
    assert.doesNotMatch(bytes.toString('latin1'), /obermayer|josefine|4711/i)
    const { dataset } = await readPart10(bufferSource(bytes))
    assert.match(stringOf(dataset, 0x0008103e) ?? '', /Thorax/)
    assert.match(
      files[index] ?? '',
      new RegExp(`${stringOf(dataset, 0x0020000d)}/${stringOf(dataset, 0x00080018)}.dcm$`),
    )
  }
  // The same key, the same bytes: the second run wrote over the first one's files.
  assert.equal(second.code, 1)
  const again = await filesBelow(out)
  assert.deepEqual(again.sort(), files.sort())
  assert.deepEqual(
    await Promise.all(again.map(file => readFile(file))),
    await Promise.all(files.map(file => readFile(file))),
  )
  const lines = (await readFile(report, 'utf8')).trimEnd().split('\n')
  const entries = lines.map(line => JSON.parse(line))
  assert.deepEqual(
    entries.map(({ result }) => result),
    ['written', 'written', 'held', 'held', 'skipped', 'summary'],
  )
  assert.deepEqual(entries.at(-1), { result: 'summary', profile: 'trial', written: 2, held: 2, skipped: 1 })
  assert.equal((await stat(key)).mode & 0o777, 0o600)
  assert.equal((await stat(report)).mode & 0o777, 0o600)
})

test('without anything held the exit code is 0, and two keys give unlinkable output', async t => {
  const dir = await temporaryDir(t)
  const input = join(dir, 'one.dcm')
  await writeFile(input, buildInstance().bytes)

  const runs = await Promise.all(
    ['a', 'b'].map(name => hanse(['deidentify', '--profile', 'basic', '--out', join(dir, name), input])),
  )

  assert.deepEqual(
    runs.map(({ code }) => code),
    [0, 0],
  )
  assert.match(runs[0]?.err ?? '', /a key for this run only/)
  const [a = [], b = []] = await Promise.all(['a', 'b'].map(name => filesBelow(join(dir, name))))
  assert.equal(a.length + b.length, 2)
  assert.notEqual(a[0]?.split('/').at(-1), b[0]?.split('/').at(-1))
})

test('two instances of the same UID with other content are both written, the same instance twice once', async t => {
  const dir = await temporaryDir(t)
  const of = (rows: number) => buildInstance({ sopInstanceUid: '1.2.3.4', studyInstanceUid: '1.2.3', rows }).bytes
  await mkdir(join(dir, 'in'))
  for (const [name, rows] of [
    ['a', 64],
    ['b', 64],
    ['c', 32],
  ] as const)
    await writeFile(join(dir, 'in', name), of(rows))

  const { code, out } = await hanse(['deidentify', '--profile', 'basic', '--out', join(dir, 'out'), join(dir, 'in')])

  assert.equal(code, 0, out)
  assert.equal((await filesBelow(join(dir, 'out'))).length, 2)
})

test('a large file goes through the disk and comes out the same', async t => {
  const dir = await temporaryDir(t)
  const input = join(dir, 'large.dcm')
  await writeFile(input, buildInstance({ rows: 1024, cols: 1024, frames: 36 }).bytes)

  const { code, out } = await hanse(['deidentify', '--profile', 'basic', '--out', join(dir, 'out'), input])

  assert.equal(code, 0, out)
  const [file = ''] = await filesBelow(join(dir, 'out'))
  assert.ok((await stat(file)).size > 72 * 1024 * 1024)
  assert.doesNotMatch((await readFile(file)).subarray(0, 4096).toString('latin1'), /TEST\^PATIENT/)
})

test('a profile document and a table of pseudonyms are taken from files, with all that is wrong in them', async t => {
  const dir = await temporaryDir(t)
  const [input, profile, table, bad] = ['in.dcm', 'profile.json', 'names.csv', 'bad.json'].map(name => join(dir, name))
  assert.ok(input && profile && table && bad)
  await writeFile(input, buildInstance().bytes)
  await writeFile(bad, JSON.stringify({ format: 'hanse-deid-1', name: 'x', options: ['y'] }))
  await writeFile(
    profile,
    JSON.stringify({ format: 'hanse-deid-1', name: 'x', basis: 'consent', pseudonym: { kind: 'lookup' } }),
  )
  await writeFile(table, 'issuer,id,pseudonym\n,TEST-1,SUBJECT-1\n')
  const run = (...argv: string[]) => hanse(['deidentify', '--out', join(dir, 'out'), ...argv, input])

  assert.equal((await run('--profile', profile, '--pseudonyms', table)).code, 0)
  const [file = ''] = await filesBelow(join(dir, 'out'))
  assert.equal(stringOf((await readPart10(bufferSource(await readFile(file)))).dataset, 0x00100020), 'SUBJECT-1')

  const wrong = await run('--profile', bad)
  assert.equal(wrong.code, 2)
  assert.match(wrong.err, /basis: .*options\[0\]/s)
  assert.match((await run('--profile', 'nothing')).err, /known: basic, trial/)
  assert.match((await run('--profile', profile)).err, /--pseudonyms: expected/)
  assert.match((await run()).err, /--profile is required/)
  await writeFile(table, 'issuer,id,pseudonym\n,A,S1\n,B,S1\n,C\n')
  assert.match((await run('--profile', profile, '--pseudonyms', table)).err, /line 3, 4/)
  assert.match((await hanse(['deidentify', '--profile', 'basic', '--out', dir, dir])).err, /lies in/)
  assert.match(
    (await run('--profile', 'basic', '--project', profile)).err,
    /format: expected one of hanse-project-key-1/,
  )
})
