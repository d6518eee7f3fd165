/**
 * DCMTK sends the whole corpus to a gateway, which forwards it to another one. What DCMTK really sent
 * is noted on the wire, and DCMTK's own storescp takes the same send as a second witness.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { temporaryDir } from '../support/blobs.ts'
import { type CorpusFile, openCorpus, transferSyntaxUids } from '../support/corpus.ts'
import { missing, run, runOk, startStorescp } from '../support/dcmtk.ts'
import {
  assertSound,
  datasetOffset,
  digestAll,
  type FileDigests,
  listConflicts,
  listInstances,
  startHospitals,
  untilReceipted,
} from './hospitals.ts'
import { startWireTap, type TappedStore } from './wire-tap.ts'

const skip = missing('echoscu', 'storescu', 'storescp', 'dcmsend')

/** Files that are no instance: nothing in them says which one they would be. */
const notInstances: Readonly<Record<string, string>> = {
  'charsets/pydicom__chrSQEncoding.dcm': 'no SOP Class and SOP Instance UID',
  'charsets/pydicom__chrSQEncoding1.dcm': 'no SOP Class and SOP Instance UID',
  'dicomdir/pydicom/DICOMDIR': 'a media directory',
  'dicomdir/pydicom/DICOMDIR-bigEnd': 'a media directory',
  'dicomdir/pydicom/DICOMDIR-empty.dcm': 'a media directory',
  'dicomdir/pydicom/DICOMDIR-implicit': 'a media directory',
  'dicomdir/pydicom/DICOMDIR-nooffset': 'a media directory',
  'dicomdir/pydicom/DICOMDIR-nopatient': 'a media directory',
  'dicomdir/pydicom/DICOMDIR-reordered': 'a media directory',
  'dicomdir/pydicom/TINY_ALPHA/DICOMDIR': 'a media directory',
  'modalities/MR/nibabel__decimal_rescale.dcm': 'no SOP Class and SOP Instance UID',
  'non-image/dicom-test-files__nested_priv_SQ.dcm': 'no SOP Class and SOP Instance UID',
  'non-image/dicom-test-files__priv_SQ.dcm': 'no SOP Class and SOP Instance UID',
  'non-image/pydicom__priv_SQ.dcm': 'no SOP Class and SOP Instance UID',
}

/** Instances that DCMTK 3.6.7 opens but cannot send as they are; they are uploaded over HTTP instead. */
const notSentByDcmtk: Readonly<Record<string, string>> = {
  'non-image/pydicom-data__liver_deflate.dcm': 'does not know Deflated Image Frame Compression',
  'transfer-syntaxes/HTJ2K-Lossless/pydicom-data__HTJ2KLossless_08_RGB.dcm': 'does not know HTJ2K',
  'transfer-syntaxes/JPEGXL-Lossless/orthanc-jxl__test_ct1_jxl.dcm': 'does not know JPEG XL',
  'rt/dicom-test-files__rtdose_rle.dcm': 'UIDs with VR UN: it sends "31" as SOP Class UID',
  'rt/dicom-test-files__rtdose_rle_1frame.dcm': 'UIDs with VR UN',
  'transfer-syntaxes/J2K-Lossless/cornerstone3D__CTImage.dcm_JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90.dcm':
    'UIDs with VR UN',
  'transfer-syntaxes/J2K/cornerstone3D__CTImage.dcm_JPEG2000TransferSyntax_1.2.840.10008.1.2.4.91.dcm':
    'UIDs with VR UN',
  'transfer-syntaxes/JPEG-LS-Near/cornerstone3D__CTImage.dcm_JPEGLSLossyTransferSyntax_1.2.840.10008.1.2.4.81.dcm':
    'UIDs with VR UN',
}

/** How storescu is told to send each syntax as it is; without more it would convert or send nothing. */
const storescuProposals: Readonly<Record<string, string>> = {
  ImplicitLE: '-xi',
  ExplicitBE: '-xb',
  DeflatedLE: '-xd',
  RLE: '-xr',
  'JPEG-Baseline': '-xy',
  'JPEG-Extended': '-xx',
  'JPEG-Lossless-SV1': '-xs',
  'J2K-Lossless': '-xv',
  J2K: '-xw',
  'JPEG-LS-Lossless': '-xt',
  'JPEG-LS-Near': '-xu',
}

/** What dcmsend sends and storescp does not take: retired JPEG processes, color palettes, hanging protocols. */
const notTakenByStorescp = new Set([
  '1.2.840.10008.1.2.4.53',
  '1.2.840.10008.1.2.4.55',
  '1.2.840.10008.1.2.4.57',
  '1.2.840.10008.5.1.4.39.1',
  '1.2.840.10008.5.1.4.38.1',
])

/** DCMTK's storescp and dcmsend compare UIDs and stop at the first oddity unless told not to. */
const dcmsendOptions = ['-aec', 'HANSE', '--decompress-never', '--no-halt', '--no-uid-checks']

test('everything DCMTK can send is kept as it was sent and arrives at the peer', { skip }, async t => {
  const corpus = openCorpus(t)
  if (!corpus) return
  const files = corpus.filter(file => !file.isMalformed && file.isReadByDcmtk)
  const { a, b } = await startHospitals(t)
  const tap = await startWireTap(t, a.ports.dicom)

  await runOk(t, 'echoscu', ['-aec', 'HANSE', '127.0.0.1', String(a.ports.dicom)])
  const { sent, left } = await dcmsend(t, tap.port, files)
  await storescu(t, tap.port, files)
  const uploaded = await upload(a.url, files)

  await t.test('each file is an instance that was taken, or is listed here with its reason', () => {
    assert.deepEqual(left.toSorted(), [...Object.keys(notInstances), ...Object.keys(notSentByDcmtk)].toSorted())
    assert.equal(sent.length + left.length, files.length)
    assert.deepEqual(
      uploaded.filter(({ status }) => status !== 'Success' && status !== 'Conflict' && status !== 'Variant'),
      [],
    )
    assert.deepEqual(new Set(tap.stores.map(({ status }) => status)), new Set([0x0000, 0x0122]))
    const refused = tap.stores.filter(({ status }) => status !== 0x0000)
    assert.deepEqual(new Set(refused.map(store => store.sopClassUid)), new Set(['31']))
    assert.equal(refused.length, Object.values(notSentByDcmtk).filter(reason => reason.includes('VR UN')).length)
  })

  await t.test('every transfer syntax of the corpus went over the wire as it is', () => {
    const syntaxes = new Set(tap.stores.map(store => store.transferSyntaxUid))
    for (const name of Object.keys(storescuProposals)) assert.ok(syntaxes.has(transferSyntaxUids[name] ?? ''), name)
    for (const uid of ['1.2.840.10008.1.2.4.53', '1.2.840.10008.1.2.4.55', '1.2.840.10008.1.2.4.57'])
      assert.ok(syntaxes.has(uid), uid)
  })

  const instances = await listInstances(a)
  const conflicts = await listConflicts(a)
  const atA = await digestAll(a, [
    ...instances.map(({ id }) => `/instances/${id}/file`),
    ...conflicts.map(({ id }) => `/api/v1/conflicts/${id}/file`),
  ])

  await t.test('what was sent and what is kept are the same data sets under the same UIDs and syntaxes', () => {
    const kept = [
      ...instances.map(({ id, sopInstanceUid }) => describe(sopInstanceUid, atA.get(`/instances/${id}/file`))),
      ...conflicts.map(({ id, sopInstanceUid }) => describe(sopInstanceUid, atA.get(`/api/v1/conflicts/${id}/file`))),
    ]
    const wanted = [
      ...tap.stores.filter(({ status }) => status === 0x0000).map(describeSent),
      ...uploaded.map(describeSent),
    ]
    assertSame(kept, [...new Set(wanted)])
  })

  await t.test('storescp receives the same data sets from dcmsend, bit by bit', async () => {
    const captured = await capture(t, files)
    const isTaken = ({ transferSyntaxUid, sopClassUid }: TappedStore): boolean =>
      !notTakenByStorescp.has(transferSyntaxUid) && !notTakenByStorescp.has(sopClassUid)
    const byDcmsend = tap.stores.filter(store => store.callingAe === 'DCMSEND' && isTaken(store))
    assertSame(
      captured,
      byDcmsend.map(store => store.dataset),
    )
  })

  await t.test('B has every instance of A, identical byte for byte', async () => {
    const transfers = await untilReceipted(a, instances.length)
    const arrived = await listInstances(b)
    const atB = await digestAll(
      b,
      arrived.map(({ id }) => `/instances/${id}/file`),
    )
    const stored = [...atA].filter(([path]) => path.startsWith('/instances/'))
    assertSame(
      [...atB.values()].map(digests => digests.file),
      stored.map(([, digests]) => digests.file),
    )
    assert.equal(arrived.length, instances.length)
    assert.equal(
      transfers.reduce((sum, transfer) => sum + transfer.objectCount, 0),
      instances.length,
    )
    assert.equal((await listConflicts(b)).length, 0)
  })

  await t.test('both sites are sound', async () => {
    await assertSound(a)
    await assertSound(b)
  })
})

/** The same values, as often each; says only what differs. */
function assertSame(actual: readonly string[], expected: readonly string[]): void {
  const surplus = (all: readonly string[], less: readonly string[]): string[] => {
    const left = [...less]
    return all.filter(value => left.splice(left.indexOf(value) >>> 0, 1).length === 0)
  }
  assert.deepEqual(
    { surplus: surplus(actual, expected), lacking: surplus(expected, actual) },
    { surplus: [], lacking: [] },
  )
}

const describe = (sopInstanceUid: string, digests: FileDigests | undefined): string =>
  `${sopInstanceUid} ${digests?.transferSyntaxUid} ${digests?.dataset}`
const describeSent = (store: Pick<TappedStore, 'sopInstanceUid' | 'transferSyntaxUid' | 'dataset'>): string =>
  `${store.sopInstanceUid} ${store.transferSyntaxUid} ${store.dataset}`

/** Sends all files in one call; `left` are those that it did not send or whose status was no success. */
async function dcmsend(
  t: TestContext,
  port: number,
  files: readonly CorpusFile[],
): Promise<{ sent: string[]; left: string[] }> {
  const report = join(await temporaryDir(t), 'report')
  await run(t, 'dcmsend', [...dcmsendOptions, '+crf', report, '127.0.0.1', String(port), ...files.map(f => f.path)])
  const stored = new Set<string>()
  for (const entry of (await readFile(report, 'latin1')).split('\n\n')) {
    const path = /^Filename +: (.*)$/m.exec(entry)?.[1]
    if (path !== undefined && /^DIMSE Status +: 0x0000/m.test(entry)) stored.add(path)
  }
  return {
    sent: files.filter(file => stored.has(file.path)).map(file => file.name),
    left: files.filter(file => !stored.has(file.path)).map(file => file.name),
  }
}

/** Sends the files of each syntax once more, as they are, over an association that proposes just that. */
async function storescu(t: TestContext, port: number, files: readonly CorpusFile[]): Promise<void> {
  for (const [syntax, proposal] of Object.entries(storescuProposals)) {
    const paths = files.filter(file => file.transferSyntax === syntax).map(file => file.path)
    const options = ['-aec', 'HANSE', '--no-halt', '--required', proposal]
    const { code, output } = await run(t, 'storescu', [...options, '127.0.0.1', String(port), ...paths])
    assert.equal(code, 0, output.slice(-2000))
  }
}

interface Uploaded {
  readonly status: string
  readonly sopInstanceUid: string
  readonly transferSyntaxUid: string
  readonly dataset: string
}

/** Uploads what DCMTK could not send. */
async function upload(url: string, files: readonly CorpusFile[]): Promise<Uploaded[]> {
  const chosen = files.filter(file => Object.hasOwn(notSentByDcmtk, file.name))
  return await Promise.all(
    chosen.map(async file => {
      const bytes = await file.bytes()
      const response = await fetch(`${url}/instances`, { method: 'POST', body: bytes })
      const { Status, ID, HeldConflict }: { Status?: string; ID?: string; HeldConflict?: number } = JSON.parse(
        await response.text(),
      )
      const instance = await (await fetch(`${url}/instances/${ID}?`)).json()
      return {
        status: Status ?? `HTTP ${response.status}`,
        sopInstanceUid: Object(instance).MainDicomTags?.SOPInstanceUID ?? `no instance ${HeldConflict}`,
        transferSyntaxUid: transferSyntaxUids[file.transferSyntax] ?? '',
        dataset: sha256(bytes.subarray(datasetOffset(bytes))),
      }
    }),
  )
}

/** The digests of the data sets that a bit-preserving storescp receives. */
async function capture(t: TestContext, files: readonly CorpusFile[]): Promise<string[]> {
  const directory = await temporaryDir(t)
  const { port } = await startStorescp(t, ['+B', '+xa', '--promiscuous', '+uf', '-od', directory])
  await run(t, 'dcmsend', [...dcmsendOptions, '127.0.0.1', String(port), ...files.map(file => file.path)])
  const names = await readdir(directory)
  return await Promise.all(
    names.map(async name => {
      const bytes = await readFile(join(directory, name))
      return sha256(bytes.subarray(datasetOffset(bytes)))
    }),
  )
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')
