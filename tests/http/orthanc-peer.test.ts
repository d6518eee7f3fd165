import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, globSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { temporaryDir } from '../support/blobs.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { freePort } from '../support/free-port.ts'
import { until } from '../support/until.ts'
import { storeApp } from './store-app.ts'

const orthanc = '/usr/sbin/Orthanc'
const samples = join(import.meta.dirname, '../../../shared/dicom')
/** At most this many files, and none larger than this: a full comparison takes minutes. */
const fileLimit = 120
const fileLimitBytes = 700_000

/**
 * Where we differ on purpose: a foreign issuer is part of the patient's identity; Orthanc 1.10 does not
 * decode ISO 2022 IR 87 and prints trailing empty component groups of a name.
 */
const differs = /chrH32|chrX1|chrX2|mono2-CT-16bit|weasis-dicom-tools__mr\.dcm/

async function startOrthanc(t: TestContext): Promise<string> {
  const dir = await temporaryDir(t)
  const port = await freePort()
  const config = join(dir, 'orthanc.json')
  writeFileSync(
    config,
    JSON.stringify({
      StorageDirectory: dir,
      IndexDirectory: dir,
      HttpPort: port,
      DicomServerEnabled: false,
      RemoteAccessAllowed: false,
      Plugins: [],
    }),
  )
  const child: ChildProcess = spawn(orthanc, [config], { stdio: 'ignore' })
  t.after(async () => {
    const ended = new Promise(resolve => child.once('exit', resolve))
    child.kill('SIGKILL')
    await ended
  })
  const url = `http://127.0.0.1:${port}`
  await until('Orthanc answers', 30_000, async () => (await fetch(`${url}/system`).catch(() => undefined))?.ok)
  return url
}

/** What may differ: when it arrived, how Orthanc names its own files, and what depends on the time that passed. */
function comparable(detail: unknown): unknown {
  if (!isObject(detail)) return detail
  const { LastUpdate: _1, FileUuid: _2, IsStable: _3, Labels: _4, IsProtected: _5, ...rest } = detail
  const tags = isObject(rest['MainDicomTags']) ? { MainDicomTags: trimmed(rest['MainDicomTags']) } : {}
  return { ...rest, ...tags, ...sorted(rest, 'Studies'), ...sorted(rest, 'Series'), ...sorted(rest, 'Instances') }
}

/**
 * A tag list without what differs on purpose: group lengths, names of private elements (Orthanc has a
 * dictionary of them), padding, and values whose kind two decoders may see differently (binary, numbers).
 */
function standardTags(tags: unknown): unknown {
  if (Array.isArray(tags)) return tags.map(standardTags)
  if (!isObject(tags)) return typeof tags === 'string' && !/^[-+.\d\\e ]+$/i.test(tags) ? tags.trim() : undefined
  return Object.fromEntries(
    Object.entries(tags)
      .filter(
        ([key, value]) => /^(?!....,0000)...[02468ace],|^[A-Z](?!.*GroupLength|rivate)/.test(key) && isStandard(value),
      )
      .map(([key, value]) => [key, standardTags(value)])
      .filter(([, value]) => value !== undefined),
  )
}

const isStandard = (value: unknown): boolean =>
  !isObject(value) || !/^Unknown|^Private|GroupLength$/.test(String(value['Name'] ?? ''))

/** Only attributes that both decoders have names for: Orthanc's dictionary is another one. */
const named = (tags: unknown): unknown =>
  isObject(tags)
    ? Object.fromEntries(
        Object.entries(tags).filter(([key, value]) =>
          commonKeywords.test(isObject(value) && 'Name' in value ? String(value['Name']) : key),
        ),
      )
    : tags
const commonKeywords =
  /^((Patient(Name|ID|Sex|Age|Position))|(Study|Series|SOP)(InstanceUID|ClassUID|Description|Date|Time)|Modality|Manufacturer|ReferringPhysicianName|AccessionNumber|ImageType|ProtocolName|ContentSequence|ConceptNameCodeSequence|ReferencedSOPSequence|Rows|Columns|PixelData|SpecificCharacterSet)$/

/** Orthanc prints leading padding, which is not significant (PS3.5 §6.2). */
const trimmed = (tags: Record<string, unknown>) =>
  Object.fromEntries(
    Object.entries(tags).map(([name, value]) => [
      name,
      String(value)
        .split('\\')
        .map(part => part.trim())
        .join('\\'),
    ]),
  )

const sorted = (detail: Record<string, unknown>, key: string) =>
  Array.isArray(detail[key]) ? { [key]: [...detail[key]].sort() } : {}

function corpus(): Uint8Array[] {
  if (!existsSync(samples)) return [1, 2, 3].map(seed => buildInstance({ seed }).bytes)
  const files = globSync('{charsets,modalities,non-image,rt/*,series}/**/*.dcm', { cwd: samples })
    .filter(file => !differs.test(file))
    .sort()
  const step = Math.max(1, Math.floor(files.length / fileLimit))
  return files
    .filter((_, index) => index % step === 0)
    .map(file => readFileSync(join(samples, file)))
    .filter(bytes => bytes.length < fileLimitBytes)
}

test('lists, details, ids and main tags are Orthanc’s own for the same instances', {
  skip: !existsSync(orthanc) && 'needs orthanc (apt-get install orthanc)',
}, async t => {
  const url = await startOrthanc(t)
  const { upload, get } = await storeApp(t)
  for (const bytes of corpus()) {
    const theirs = await fetch(`${url}/instances`, { method: 'POST', body: Buffer.from(bytes) })
    const answer: unknown = await theirs.json()
    if (!theirs.ok) continue
    const { body } = await upload(bytes)
    const { HeldConflict: _, Status: ours, ...rest } = body
    const { Status: status, ...expected } = isObject(answer) ? answer : {}
    assert.deepEqual(rest, expected)
    assert.equal(ours === 'Success', status === 'Success')
  }

  for (const level of ['patients', 'studies', 'series', 'instances']) {
    const theirs: unknown = await (await fetch(`${url}/${level}?expand&since=0&limit=1000`)).json()
    const ours = (await get(`/${level}?expand&since=0&limit=1000`)).body
    assert.ok(Array.isArray(theirs) && Array.isArray(ours))
    const byId = new Map(ours.map(detail => [detail.ID, detail]))
    assert.equal(ours.length, theirs.length)
    assert.ok(theirs.length > 1)
    for (const expected of theirs) assert.deepEqual(comparable(byId.get(expected.ID)), comparable(expected))
    // These came with later versions of Orthanc.
    const later = level === 'patients' ? ['IsProtected', 'Labels'] : ['Labels']
    assert.deepEqual(Object.keys(ours[0]).sort(), [...Object.keys(theirs[0]), ...later].sort())
  }
  for (const id of (await get('/instances')).body as string[]) {
    for (const name of ['tags', 'simplified-tags']) {
      const theirs: unknown = await (await fetch(`${url}/instances/${id}/${name}`)).json()
      const [ours, expected] = [standardTags((await get(`/instances/${id}/${name}`)).body), standardTags(theirs)]
      assert.deepEqual(named(ours), named(expected), `${id} ${name}`)
    }
  }
  const [detail] = (await get('/studies?expand&since=0&limit=1')).body as [{ LastUpdate: string }]
  assert.match(detail.LastUpdate, /^\d{8}T\d{6}$/)
})
