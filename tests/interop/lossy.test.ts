/** Orthanc's requests that name a lossy transfer syntax, asked of a gateway and of a real Orthanc with the same instances. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { itemsOf, numbersOf, stringOf } from '../../gateway/dicom/dataset.ts'
import { toJson } from '../../gateway/dicom/json.ts'
import { type Part10, readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { openCorpus } from '../support/corpus.ts'
import { missingOrthanc, startOrthanc } from '../support/orthanc.ts'
import { startProcessGateway } from '../support/process-gateway.ts'
import { unzip } from '../support/unzip.ts'

const baseline = '1.2.840.10008.1.2.4.50'
const extended = '1.2.840.10008.1.2.4.51'
const nearLossless = '1.2.840.10008.1.2.4.81'
const plain = '1.2.840.10008.1.2.1'
const lossless = ['1.2.840.10008.1.2.4.57', '1.2.840.10008.1.2.4.70', '1.2.840.10008.1.2.4.80']

const names = {
  gray: 'modalities/DX/highdicom__dx_image.dcm',
  color: 'modalities/US/pydicom__examples_rgb_color.dcm',
  palette: 'modalities/US/pydicom__examples_palette.dcm',
  ybr: 'modalities/US/weasis-dicom-tools__ybr422-raw.dcm',
  lossy: 'transfer-syntaxes/JPEG-Baseline/dicom-test-files__SC_rgb_dcmtk_+eb+cy+s2.dcm',
  deep: 'modalities/MR/dicom__3.dcm',
  signed: 'modalities/CT/cornerstone3D__CTImage.dcm_LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1.dcm',
} as const
type Name = keyof typeof names

interface Answer {
  readonly status: number
  readonly bytes: Buffer
}

interface Side {
  ask(method: string, path: string, body?: unknown): Promise<Answer>
  json(method: string, path: string, body?: unknown): Promise<ReturnType<typeof JSON.parse>>
}

function sideOf(url: string): Side {
  const ask = async (method: string, path: string, body?: unknown): Promise<Answer> => {
    const payload = body instanceof Uint8Array ? Buffer.from(body) : JSON.stringify(body)
    const answer = await fetch(`${url}${path}`, { method, ...(body !== undefined && { body: payload }) })
    return { status: answer.status, bytes: Buffer.from(await answer.arrayBuffer()) }
  }
  return {
    ask,
    async json(method, path, body) {
      const { status, bytes } = await ask(method, path, body)
      assert.equal(status, 200, `${method} ${path}: ${bytes}`)
      return JSON.parse(bytes.toString())
    },
  }
}

/** An instance that both have, under ids that are the same on both sides. */
interface Uploaded {
  readonly ID: string
  readonly ParentSeries: string
  readonly ParentStudy: string
  readonly ParentPatient: string
  readonly file: Part10
}

interface Both {
  readonly ours: Side
  readonly theirs: Side
  readonly uploaded: Readonly<Record<Name, Uploaded>>
}

async function both(t: TestContext): Promise<Both | undefined> {
  const corpus = openCorpus(t)
  if (corpus === undefined) return undefined
  const far = await startOrthanc(t, {})
  const [orthanc, gateway] = [await startOrthanc(t, {}), await startProcessGateway(t, 'lossy')]
  const [ours, theirs] = [sideOf(gateway.url), sideOf(orthanc.url)]
  const upload = async (name: Name): Promise<Uploaded> => {
    const bytes = await corpus.find(file => file.name === names[name])?.bytes()
    assert.ok(bytes, name)
    const mine = await ours.json('POST', '/instances', bytes)
    assert.equal((await theirs.json('POST', '/instances', bytes)).ID, mine.ID)
    return { ...mine, file: await read(bytes) }
  }
  await ours.ask('PUT', '/peers/far', { Url: far.url, Zone: 'inside' })
  await theirs.ask('PUT', '/peers/far', { Url: far.url })
  const uploaded = {
    gray: await upload('gray'),
    color: await upload('color'),
    palette: await upload('palette'),
    ybr: await upload('ybr'),
    deep: await upload('deep'),
    signed: await upload('signed'),
    lossy: await upload('lossy'),
  }
  return { ours, theirs, uploaded }
}

const read = async (bytes: Uint8Array): Promise<Part10> => await readPart10(bufferSource(bytes))

/**
 * What differs by nature: identifiers, the words of the description, the ratio, pixel data; and the modality
 * transformation, which stays here, where DCMTK takes it out of the image.
 */
const ownTags = ['00080018', '0020000D', '0020000E', '00082111', '00282112', '7FE00010']
const rescaleTags = ['00281052', '00281053', '00281054']

function comparable({ dataset }: Part10): Record<string, unknown> {
  const all: Record<string, unknown> = { ...toJson(dataset) }
  for (const tag of [...ownTags, ...rescaleTags]) delete all[tag]
  // DCMTK names the UID that Orthanc has just made up.
  all['00082112'] = itemsOf(dataset, 0x00082112).map(item => ({
    class: stringOf(item, 0x00081150),
    purpose: itemsOf(item, 0x0040a170).map(code => stringOf(code, 0x00080100)),
  }))
  return all
}

/** The same object but for what is made up, compressed as far. */
function assertAlike(ours: Part10, theirs: Part10, about: string): void {
  assert.equal(ours.transferSyntaxUid, theirs.transferSyntaxUid, about)
  assert.equal(stringOf(ours.meta, 0x00020003), stringOf(ours.dataset, 0x00080018), about)
  assert.deepEqual(comparable(ours), comparable(theirs), about)
  const [ratio = 1, other = 1] = [ours, theirs].map(({ dataset }) => numbersOf(dataset, 0x00282112).at(-1))
  // DCMTK counts six bytes for each pixel of a palette, and three of one that has two.
  if (/^(palette|ybr)/.test(about)) return
  // It also takes the modality transformation into the samples, which then are as many as there is room for.
  if (ours.transferSyntaxUid === extended && numbersOf(ours.dataset, 0x00280101)[0] === 12) return
  assert.ok(Math.abs(ratio / other - 1) < 0.15, `${about}: ${ratio} and ${other}`)
}

const uidOf = ({ dataset }: Part10): string => stringOf(dataset, 0x00080018) ?? ''
const sourcesOf = ({ dataset }: Part10) => itemsOf(dataset, 0x00082112).map(item => stringOf(item, 0x00081155))

test('requests that name a lossy transfer syntax get what Orthanc gives', { skip: missingOrthanc }, async t => {
  const sides = await both(t)
  if (sides === undefined) return
  const { ours, theirs, uploaded } = sides

  await t.test('one instance, modified or anonymized', async () => {
    for (const name of ['gray', 'color', 'palette', 'ybr', 'deep', 'signed'] as const) {
      for (const syntax of [baseline, extended, nearLossless]) {
        for (const more of [{}, { Keep: ['SOPInstanceUID'], Force: true }]) {
          const about = `${name} ${syntax} ${JSON.stringify(more)}`
          const path = `/instances/${uploaded[name].ID}/modify`
          const [mine, other] = await Promise.all(
            [ours, theirs].map(side => side.ask('POST', path, { Transcode: syntax, ...more })),
          )
          assert.ok(mine && other)
          // Orthanc has no other word for it than an internal error.
          assert.equal(
            mine.status,
            other.status === 500 ? 406 : other.status,
            `${about}: ${mine.bytes.subarray(0, 300)}`,
          )
          if (mine.status !== 200) continue
          const made = await read(mine.bytes)
          assertAlike(made, await read(other.bytes), about)
          assert.notEqual(uidOf(made), uidOf(uploaded[name].file), about)
          assert.equal(sourcesOf(made).at(-1), uidOf(uploaded[name].file), about)
        }
      }
    }
    for (const syntax of ['1.2.840.10008.1.2', plain, '1.2.840.10008.1.2.2', ...lossless, baseline, extended]) {
      const body = { Transcode: syntax, Keep: ['SOPInstanceUID'], Force: true }
      const made = []
      for (const side of [ours, theirs]) {
        const { bytes } = await side.ask('POST', `/instances/${uploaded.gray.ID}/modify`, body)
        const file = await read(bytes)
        made.push([file.transferSyntaxUid, uidOf(file) === uidOf(uploaded.gray.file)])
      }
      assert.deepEqual(made[0], made[1])
    }
    for (const syntax of [plain, ...lossless, extended, nearLossless]) {
      const body = { Transcode: syntax, Keep: ['SOPInstanceUID'], Force: true }
      const [mine, other] = await Promise.all(
        [ours, theirs].map(side => side.ask('POST', `/instances/${uploaded.lossy.ID}/modify`, body)),
      )
      assert.deepEqual([mine?.status, other?.status], [200, 200], syntax)
      const [made, reference] = [await read(mine?.bytes ?? Buffer.of()), await read(other?.bytes ?? Buffer.of())]
      assert.equal(made.transferSyntaxUid, syntax)
      const isNew = [extended, nearLossless].includes(syntax)
      // Of a new one DCMTK drops earlier sources, and applies the modality transformation.
      if (!isNew) assert.deepEqual(comparable(made), comparable(reference), syntax)
      else assert.equal(sourcesOf(made).length, sourcesOf(uploaded.lossy.file).length + 1, syntax)
      assert.deepEqual(
        [made, reference].map(file => uidOf(file) !== uidOf(uploaded.lossy.file)),
        [isNew, isNew],
        syntax,
      )
    }
    // Orthanc 1.10.1 anonymizes an instance in its own transfer syntax only; what is asked for is done here.
    for (const [name, syntax] of [
      ['gray', baseline],
      ['deep', plain],
    ] as const) {
      const { status, bytes } = await ours.ask('POST', `/instances/${uploaded[name].ID}/anonymize`, {
        Transcode: baseline,
      })
      assert.equal(status, 200)
      const made = await read(bytes)
      assert.equal(made.transferSyntaxUid, syntax, name)
      assert.deepEqual(sourcesOf(made), [], name)
    }
  })

  await t.test('archives and media', async () => {
    const paths = (['gray', 'deep', 'color'] as const).flatMap(name => [
      [`/studies/${uploaded[name].ParentStudy}/archive?transcode=${baseline}`, undefined],
      [`/series/${uploaded[name].ParentSeries}/media?transcode=${baseline}`, undefined],
      [`/patients/${uploaded[name].ParentPatient}/archive`, { Transcode: nearLossless }],
      [`/studies/${uploaded[name].ParentStudy}/media`, { Transcode: baseline }],
      ['/tools/create-archive', { Resources: [uploaded[name].ID], Transcode: extended }],
      ['/tools/create-media', { Resources: [uploaded[name].ParentStudy], Transcode: baseline }],
      ['/tools/create-media-extended', { Resources: [uploaded[name].ParentStudy], Transcode: lossless[0] }],
    ])
    for (const [path, body] of paths) {
      const about = `${path} ${JSON.stringify(body)}`
      const made = await Promise.all(
        [ours, theirs].map(async side => {
          const { status, bytes } = await side.ask(body ? 'POST' : 'GET', String(path), body)
          assert.equal(status, 200, about)
          const unzipped = await unzip(bytes)
          const parts = await Promise.all(unzipped.map(async file => await read(file.bytes)))
          const directory = unzipped.findIndex(file => file.name === 'DICOMDIR')
          const images = parts.filter((_, index) => index !== directory)
          const records = itemsOf(parts[directory]?.dataset ?? images[0]?.dataset ?? emptyOf(parts), 0x00041220)
          const named = records.flatMap(record => stringOf(record, 0x00041511) ?? [])
          if (directory >= 0) assert.deepEqual(named.sort(), images.map(uidOf).sort(), about)
          return images
        }),
      )
      const [mine = [], other = []] = made
      assert.equal(mine.length, other.length, about)
      for (const [index, one] of mine.entries()) {
        const reference = other[index]
        assert.ok(reference)
        if (reference.transferSyntaxUid === plain) assert.equal(one.transferSyntaxUid, plain, about)
        else if (lossless.includes(reference.transferSyntaxUid)) {
          assert.deepEqual([one.transferSyntaxUid, uidOf(one)], [reference.transferSyntaxUid, uidOf(reference)], about)
        } else assertAlike(one, reference, about)
      }
    }
    for (const path of [
      `/studies/${uploaded.gray.ParentStudy}/archive?transcode=nope`,
      `/studies/${uploaded.gray.ParentStudy}/media?transcode=1.2.3`,
    ]) {
      const statuses = await Promise.all([ours, theirs].map(async side => (await side.ask('GET', path)).status))
      assert.equal(statuses[0], statuses[1], path)
    }
  })

  await t.test('a quality in the request, as newer Orthancs have it', async () => {
    const { ID: id, ParentStudy: study } = uploaded.gray
    const ratioOf = async (bytes: Buffer): Promise<number> =>
      numbersOf((await read(bytes)).dataset, 0x00282112).at(-1) ?? 0
    const unzipped = async ({ bytes }: Answer): Promise<Buffer> => (await unzip(bytes))[0]?.bytes ?? Buffer.of()
    const ratios = []
    for (const LossyQuality of [20, 60, 95]) {
      const body = { Transcode: baseline, LossyQuality }
      const asked = `/studies/${study}/archive?transcode=${baseline}&lossy-quality=${LossyQuality}`
      const [modified, archived, posted] = [
        (await ours.ask('POST', `/instances/${id}/modify`, body)).bytes,
        await unzipped(await ours.ask('GET', asked)),
        await unzipped(await ours.ask('POST', '/tools/create-archive', { Resources: [id], ...body })),
      ]
      const [ratio, second, third] = await Promise.all([modified, archived, posted].map(ratioOf))
      assert.deepEqual([second, third], [ratio, ratio])
      ratios.push(ratio ?? 0)
    }
    const file = async (query: string): Promise<Answer> => await ours.ask('GET', `/instances/${id}/file${query}`)
    const lossless = await read((await file('?transcode=1.2.840.10008.1.2.4.80')).bytes)
    assert.deepEqual(
      [lossless.transferSyntaxUid, uidOf(lossless)],
      ['1.2.840.10008.1.2.4.80', uidOf(uploaded.gray.file)],
    )
    const coarse = await file(`?transcode=${baseline}&lossy-quality=20`)
    assert.equal(await ratioOf(coarse.bytes), ratios[0])
    assert.notEqual(uidOf(await read(coarse.bytes)), uidOf(uploaded.gray.file))
    assert.ok((await file(`?transcode=${plain}`)).bytes.equals((await file('')).bytes))
    assert.deepEqual(
      [(await file('?transcode=1.2.3')).status, (await file(`?transcode=${baseline}&lossy-quality=x`)).status],
      [400, 400],
    )
    assert.equal((await ours.ask('GET', `/instances/${uploaded.deep.ID}/file?transcode=${baseline}`)).status, 406)
    assert.equal((await ours.ask('GET', `/instances/nope/file?transcode=${baseline}`)).status, 404)
    assert.ok((ratios[0] ?? 0) > 1.5 * (ratios[1] ?? 0) && (ratios[1] ?? 0) > 1.5 * (ratios[2] ?? 0), `${ratios}`)
    for (const LossyQuality of [0, 101, 'x', 2.5]) {
      const body = { Transcode: baseline, LossyQuality }
      assert.equal((await ours.ask('POST', `/instances/${id}/modify`, body)).status, 400)
      assert.equal((await ours.ask('POST', `/studies/${study}/archive`, body)).status, 400)
    }
    assert.equal((await ours.ask('GET', `/studies/${study}/media?transcode=${baseline}&lossy-quality=0`)).status, 400)
  })

  await t.test('a REST peer', async () => {
    for (const name of ['gray', 'deep', 'color'] as const) {
      const sent = []
      for (const side of [ours, theirs]) {
        const { bytes } = await side.ask('POST', '/peers/far/store', {
          Resources: [uploaded[name].ID],
          Transcode: baseline,
        })
        sent.push(JSON.parse(bytes.toString()).FailedInstancesCount)
      }
      assert.deepEqual(sent, [0, 0], name)
    }
    const far = sideOf((await theirs.json('GET', '/peers/far/configuration')).Url)
    const arrived = await Promise.all(
      (await far.json('GET', '/instances')).map(async (id: string) =>
        read((await far.ask('GET', `/instances/${id}/file`)).bytes),
      ),
    )
    const kinds = arrived.map(file => [file.transferSyntaxUid, stringOf(file.dataset, 0x00080060)].join(' ')).sort()
    // The MR instance stays as it is, and is the same one from both.
    assert.deepEqual(
      kinds,
      [`${plain} MR`, `${baseline} DX`, `${baseline} DX`, `${baseline} US`, `${baseline} US`].sort(),
    )
  })

  await t.test('resources, modified and anonymized by jobs', async () => {
    for (const [name, kind, more] of [
      ['gray', 'modify', {}],
      ['deep', 'modify', {}],
      ['color', 'modify', { KeepSource: false }],
      ['gray', 'anonymize', {}],
    ] as const) {
      const about = `${name} ${kind}`
      const path = `/studies/${uploaded[name].ParentStudy}/${kind}`
      const made = await Promise.all(
        [ours, theirs].map(async side => {
          const answer = await side.json('POST', path, { Transcode: baseline, ...more })
          const [instance] = await side.json('GET', `/studies/${answer.ID}/instances`)
          const file = await read((await side.ask('GET', `/instances/${instance.ID}/file`)).bytes)
          const source = (await side.ask('GET', `/instances/${uploaded[name].ID}`)).status
          const counts = [answer.InstancesCount, answer.FailedInstancesCount, answer.Transcode, source]
          return { counts, file }
        }),
      )
      const [mine, other] = made
      assert.ok(mine && other)
      assert.deepEqual(mine.counts, other.counts, about)
      assert.equal(mine.file.transferSyntaxUid, other.file.transferSyntaxUid, about)
      assert.notEqual(uidOf(mine.file), uidOf(uploaded[name].file), about)
      if (kind === 'anonymize') assert.deepEqual(sourcesOf(mine.file), [], about)
      else if (name !== 'deep') assertAlike(mine.file, other.file, about)
    }
    const bulk = { Resources: [uploaded.gray.ID], Level: 'Instance', Transcode: baseline }
    const shapes = await Promise.all(
      [ours, theirs].map(async side => {
        const answer = await side.json('POST', '/tools/bulk-modify', bulk)
        const [{ ID: id }] = answer.Resources.filter((each: { Type: string }) => each.Type === 'Instance')
        const header = await side.json('GET', `/instances/${id}/header?simplify`)
        return [answer.Transcode, answer.FailedInstancesCount, header.TransferSyntaxUID]
      }),
    )
    assert.deepEqual(shapes[0], shapes[1])
  })
})

function emptyOf([first]: readonly Part10[]): Part10['dataset'] {
  assert.ok(first)
  return first.dataset
}
