/**
 * A study of 300 instances to a third party in each packaging and by each way: complete, verified by strangers' tools,
 * and nothing of the patient anywhere. The gate runs a share of it, `HANSE_SOAK=1` all.
 */
import assert from 'node:assert/strict'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { type TestContext, test } from 'node:test'
import type { EndpointInput } from '../../gateway/services/endpoint.ts'
import { hanse } from '../cli/terminal.ts'
import { temporaryDir } from '../support/blobs.ts'
import { missing, runOk } from '../support/dcmtk.ts'
import { type BuiltInstance, buildInstance } from '../support/dicom-builder.ts'
import { endpointFolder, filesBelow, startEndpointSite } from '../support/endpoints.ts'
import { missingFtpd, startFtpd } from '../support/ftpd.ts'
import { type LogLine, memoryLog } from '../support/memory-log.ts'
import { missingRoot } from '../support/own-users.ts'
import { newIdentity, openpgpKey } from '../support/packages.ts'
import { startS3 } from '../support/s3.ts'
import { missingSshd, startChrootedSshd, startSshd } from '../support/sshd.ts'
import { until } from '../support/until.ts'
import { missingVsftpd, startVsftpd } from '../support/vsftpd.ts'

const isSoak = process.env['HANSE_SOAK'] === '1'
const studyUid = '1.2.826.0.1.3680043.10.9.300'
const markers = ['QZNAME', 'QZGIVEN', 'QZID', 'QZACC', 'QZDOCTOR', '43.10.9.300']
const tools = missing('age', 'gpg', 'unzip', 'dcmdump') || missingSshd || missingFtpd

/** Three series of a patient who is easily found. */
const study = (count: number): BuiltInstance[] =>
  Array.from({ length: count }, (_, index) =>
    buildInstance({
      ...{ seed: index + 1, rows: 16, cols: 16, patientName: 'QZNAME^QZGIVEN', patientId: 'QZID-4711' },
      studyInstanceUid: studyUid,
      seriesInstanceUid: `${studyUid}.${1 + (index % 3)}`,
      sopInstanceUid: `${studyUid}.${1 + (index % 3)}.${index + 1}`,
      extra: [
        { tag: 0x00080050, value: 'QZACC' },
        { tag: 0x00080090, value: 'QZDOCTOR^A' },
        { tag: 0x0008103e, value: 'Axial of QZNAME' },
      ],
    }),
  )

type Packaging = Readonly<Record<string, unknown>>
type Place = Pick<EndpointInput, 'kind' | 'settings' | 'secrets'>

interface Kit {
  readonly encryptions: readonly Packaging[]
  readonly identity: string
  readonly gpgHome: string
}

async function makeKit(t: TestContext): Promise<Kit> {
  const dir = await temporaryDir(t)
  const { identity, recipient } = await newIdentity()
  await writeFile(join(dir, 'age.key'), `${identity}\n`)
  const { home, armored } = await openpgpKey(t, dir)
  const encryptions = [{ kind: 'none' }, { kind: 'age', recipients: [recipient] }, { kind: 'openpgp', keys: [armored] }]
  return { encryptions, identity: join(dir, 'age.key'), gpgHome: home }
}

/** Opens what lies there as a recipient would, with tools that are not ours; all files in the end. */
async function openAll(t: TestContext, files: ReadonlyMap<string, Buffer>, kit: Kit): Promise<string> {
  const dir = await temporaryDir(t)
  for (const [name, bytes] of files) {
    const path = join(dir, name)
    await mkdir(dirname(path), { recursive: true })
    await writeFile(path, bytes)
    let last = path
    if (path.endsWith('.age')) {
      last = path.slice(0, -'.age'.length)
      await runOk(t, 'age', ['-d', '-i', kit.identity, '-o', last, path])
    } else if (path.endsWith('.gpg')) {
      last = path.slice(0, -'.gpg'.length)
      await runOk(t, 'gpg', ['--homedir', kit.gpgHome, '--batch', '--yes', '-o', last, '-d', path])
    }
    if (!last.endsWith('.zip')) continue
    await runOk(t, 'unzip', ['-tq', last])
    await runOk(t, 'unzip', ['-q', last, '-d', `${last}.d`])
  }
  return dir
}

/** Distinct SOP Instance UIDs below a folder, read by DCMTK. */
async function instancesBelow(t: TestContext, dir: string): Promise<number> {
  const dicom: string[] = []
  for (const entry of await readdir(dir, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name)
    if (!entry.isFile() || entry.name === 'DICOMDIR') continue
    if ((await readFile(path)).subarray(128, 132).toString('latin1') === 'DICM') dicom.push(path)
  }
  const text = await runOk(t, 'dcmdump', ['-q', '+P', '0008,0018', ...dicom])
  return new Set(text.match(/\[[0-9.]+\]/g)).size
}

interface Trip {
  readonly place: Place
  readonly packaging: Packaging
  readonly count: number
  readonly files: () => Promise<ReadonlyMap<string, Buffer>>
}

async function travel(t: TestContext, kit: Kit, { place, packaging, count, files }: Trip): Promise<void> {
  const lines: LogLine[] = []
  const site = await startEndpointSite(t, { log: memoryLog(lines) })
  await site.endpoints.put(site.admin, 'CRO', { ...place, profile: 'trial', packaging })
  const id = await site.send(await site.store(study(count)), 'CRO', { names: { protocol: 'P-1', visit: 'V1' } })
  const transfer = await site.untilState(id, 'delivered')
  assert.equal(transfer.bytesDone, transfer.bytesTotal)

  const there = await files()
  assert.ok([...there.keys()].every(name => !name.endsWith('.part')))
  const opened = await openAll(t, there, kit)
  const what = JSON.stringify({ ...packaging, encryption: undefined })
  assert.equal(await instancesBelow(t, opened), count, `${place.kind} ${what}`)

  // The recipient's own way: signature, digests, counts.
  const received = await temporaryDir(t)
  for (const [name, bytes] of there) {
    await mkdir(dirname(join(received, name)), { recursive: true })
    await writeFile(join(received, name), bytes)
  }
  const folder = dirname([...there.keys()].find(name => name.endsWith('/manifest.json')) ?? '')
  const isOpenpgp = JSON.stringify(packaging).includes('openpgp')
  const result = await hanse(['open', folder, '--out', 'out', ...(isOpenpgp ? [] : ['--identity', kit.identity])], {
    cwd: received,
  })
  if (isOpenpgp) assert.match(`${result.out}${result.err}`, /gpg/)
  else assert.deepEqual([result.code, new RegExp(`${count} objects, 0 failed`).test(result.out)], [0, true], result.err)

  await until('an empty outbox', 30_000, async () => (await readdir(join(site.dataDir, 'outbox'))).length === 0)
  const everything = await filesBelow(opened)
  const names = [...there.keys(), ...everything.keys()].join('\n')
  for (const marker of markers) {
    assert.ok(!names.includes(marker), `${marker} in a name`)
    for (const [name, bytes] of everything) assert.ok(!bytes.includes(marker), `${marker} in ${name}`)
    assert.ok(!JSON.stringify(lines).includes(marker), `${marker} in a log`)
  }
}

const units = ['file', 'series', 'study']
const containers = ['folder', 'zip']
/** Unit, container and number of the encryption. */
const share = new Set(['study folder 0', 'series zip 1', 'study zip 2'])

test('by SFTP in each packaging', { skip: tools }, async t => {
  const kit = await makeKit(t)
  for (const unit of units)
    for (const container of containers)
      for (const [number, encryption] of kit.encryptions.entries()) {
        if (!isSoak && !share.has(`${unit} ${container} ${number}`)) continue
        await t.test(`${unit}, ${container}, ${String(encryption['kind'])}`, async each => {
          const { port, user, root, hostKey, privateKey } = await startSshd(each)
          const settings = { host: '127.0.0.1', port, user, root, hostKey }
          await travel(each, kit, {
            place: { kind: 'sftp', settings, secrets: { privateKey } },
            packaging: { unit, container, encryption },
            count: 300,
            files: () => filesBelow(root),
          })
        })
      }
})

const count = isSoak ? 300 : 30
for (const [name, tls] of [
  ['FTP', 'none'],
  ['FTPS', 'explicit'],
  ['implicit FTPS', 'implicit'],
] as const)
  test(`by ${name}`, { skip: tools }, async t => {
    const kit = await makeKit(t)
    const { port, user, password, root, ca } = await startFtpd(t, tls)
    await travel(t, kit, {
      place: {
        kind: 'ftp',
        settings: { host: '127.0.0.1', port, user, tls, ...(tls !== 'none' && { ca }) },
        secrets: { password },
      },
      packaging: { unit: 'series', container: 'zip', encryption: kit.encryptions[1] },
      count,
      files: () => filesBelow(root),
    })
  })

test('by vsftpd with TLS', { skip: tools || missingVsftpd }, async t => {
  const kit = await makeKit(t)
  const { port, user, password, ca, upload } = await startVsftpd(t, 'explicit')
  await travel(t, kit, {
    place: {
      kind: 'ftp',
      settings: { host: '127.0.0.1', port, user, tls: 'explicit', ca, root: '/upload' },
      secrets: { password },
    },
    packaging: { unit: 'study', container: 'folder' },
    count,
    files: () => filesBelow(upload),
  })
})

test('by OpenSSH with a password and a chroot', { skip: tools || missingRoot }, async t => {
  const kit = await makeKit(t)
  const { port, user, password, hostKey, upload } = await startChrootedSshd(t)
  await travel(t, kit, {
    place: {
      kind: 'sftp',
      settings: { host: '127.0.0.1', port, user, hostKey, root: '/upload' },
      secrets: { password },
    },
    packaging: { unit: 'series', container: 'zip', encryption: kit.encryptions[1] },
    count,
    files: () => filesBelow(upload),
  })
})

test('to an S3 bucket', { skip: tools }, async t => {
  const kit = await makeKit(t)
  const { endpoint, bucket, accessKeyId, secretAccessKey, folder } = await startS3(t)
  const suffix = '._S3rver_object'
  await travel(t, kit, {
    place: { kind: 's3', settings: { endpoint, bucket, accessKeyId }, secrets: { secretAccessKey } },
    packaging: { unit: 'file', container: 'folder' },
    count,
    files: async () => {
      const all = [...(await filesBelow(folder))].filter(([path]) => path.endsWith(suffix))
      return new Map(all.map(([path, bytes]) => [path.slice(0, -suffix.length), bytes]))
    },
  })
})

test('to a folder', { skip: tools }, async t => {
  const kit = await makeKit(t)
  const root = await endpointFolder(t)
  await travel(t, kit, {
    place: { kind: 'folder', settings: { root } },
    packaging: { unit: 'series', container: 'folder', encryption: kit.encryptions[1] },
    count,
    files: () => filesBelow(root),
  })
})
