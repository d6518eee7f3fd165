import assert from 'node:assert/strict'
import { mkdir, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { DicomDirectory } from '../../gateway/dicom/dicomdir.ts'
import { instanceRecord } from '../../gateway/dicom/directory-records.ts'
import { temporaryDir } from '../support/blobs.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { isoImage } from '../support/iso-image.ts'
import { startProcessGateway } from '../support/process-gateway.ts'
import { hanse } from './terminal.ts'

const built = [1, 2, 3].map(seed => buildInstance({ seed, patientId: seed === 3 ? 'TEST-B' : 'TEST-A' }))
const contents: Readonly<Record<string, Uint8Array>> = {
  ...Object.fromEntries(built.map(({ bytes }, i) => [`DICOM/IM${i}`, bytes])),
  'DICOM/BROKEN': built[0]?.bytes.subarray(0, 300) ?? new Uint8Array(0),
  'VIEWER.EXE': Buffer.from('MZ nothing to be executed'),
}

async function folder(t: TestContext): Promise<string> {
  const dir = await temporaryDir(t)
  await mkdir(join(dir, 'DICOM'))
  for (const [name, bytes] of Object.entries(contents)) await writeFile(join(dir, name), bytes)
  return dir
}

test('a folder is listed by patient and study; what cannot be read is named, links are not followed', async t => {
  const dir = await folder(t)
  const outside = join(await temporaryDir(t), 'outside.dcm')
  await writeFile(outside, buildInstance({ seed: 9, patientId: 'TEST-OUTSIDE' }).bytes)
  await symlink(outside, join(dir, 'LINK'))

  const { code, out, err } = await hanse(['import', 'disc', dir])
  const json = JSON.parse((await hanse(['import', 'disc', dir, '--json'])).out)
  const none = await hanse(['import', 'disc', join(dir, 'VIEWER.EXE')])

  assert.equal(code, 1)
  assert.match(out, /TEST-A .*\n.*TEST-A .*\n.*TEST-B /)
  assert.doesNotMatch(out, /OUTSIDE/)
  assert.match(err, /DICOM\/BROKEN: cannot be read: /)
  assert.match(err, /1 other file/)
  assert.deepEqual([json.studies.length, json.stored, json.unreadable.length], [3, 0, 1])
  assert.equal(none.code, 2)
})

test('files that the DICOMDIR names and the medium lacks are named', async t => {
  const dir = await temporaryDir(t)
  const directory = new DicomDirectory()
  for (const [index, { sopInstanceUid }] of built.entries()) {
    directory.add(
      instanceRecord(
        {},
        {
          path: ['DICOM', `IM${index}`],
          sopClassUid: '1.2.840.10008.5.1.4.1.1.2',
          sopInstanceUid,
          transferSyntaxUid: '1.2.840.10008.1.2.1',
        },
      ),
    )
  }
  await mkdir(join(dir, 'dicom'))
  await writeFile(join(dir, 'DICOMDIR'), Buffer.concat([...directory.file('TEST', '1.2.3')]))
  // Mounted with small letters, and one of the three is lost.
  await writeFile(join(dir, 'dicom/im0'), built[0]?.bytes ?? '')
  await writeFile(join(dir, 'dicom/im1'), built[1]?.bytes ?? '')

  const { code, err } = await hanse(['import', 'disc', dir])
  const json = JSON.parse((await hanse(['import', 'disc', dir, '--json'])).out)

  assert.equal(code, 1)
  assert.match(err, /DICOM\/IM2: named by the DICOMDIR, not on the medium/)
  assert.deepEqual([json.studies.length, json.missing], [2, ['DICOM/IM2']])
})

test('studies of a folder and of the image of a disc are chosen and stored', async t => {
  const gateway = await startProcessGateway(t, 'disc')
  const dir = await folder(t)
  const image = join(await temporaryDir(t), 'disc.iso')
  await writeFile(image, isoImage(contents))
  const run = async (...argv: string[]) => {
    const answer = await hanse(['import', 'disc', ...argv, '--json', '--data', gateway.data])
    return JSON.parse(answer.out)
  }

  const patient = await run(image, '--patient', 'TEST-B')
  const study = await run(dir, '--study', built[0]?.studyInstanceUid ?? '')
  const all = await run(image, '--all')
  const statistics: unknown = await (await fetch(`${gateway.url}/statistics`)).json()

  assert.deepEqual([patient.stored, study.stored], [1, 1])
  assert.deepEqual([all.stored, all.known, all.failed], [1, 2, []])
  assert.equal(Object(statistics).CountInstances, 3)
})
