/** A trial from its protocol to the sponsor's disk, by the API of a running gateway. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { stringOf } from '../../gateway/dicom/dataset.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { type BuiltInstance, buildInstance, seededUid } from '../support/dicom-builder.ts'
import { endpointFolder, filesBelow } from '../support/endpoints.ts'
import { type ProcessGateway, startProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'

const visits = ['BASELINE', 'WEEK-4', 'WEEK-8', 'END'] as const
const subjects = ['017-001', '017-002', '017-003'] as const
const days = [0, 28, 56, 84]
const dayZero = '2026-01-01'

const protocol = (change: object = {}) => ({
  ...{ sponsor: 'ACME', protocol: 'ABC-123', site: '017', endpoint: 'CRO', profile: 'trial', title: 'A study of 1' },
  contacts: [{ role: 'Monitor', name: 'M. Monitor', email: 'm@example.org' }],
  visits: visits.map((name, index) => ({
    ...{ name, day: days[index], before: 3, after: 7 },
    series: [
      { name: 'CT thin', modality: 'CT', sliceThickness: { max: 3 }, images: { min: 2 } },
      { name: 'CT thick', modality: 'CT', sliceThickness: { min: 5 } },
    ],
  })),
  ...change,
})

const dateOf = (day: number): string =>
  new Date(Date.parse(dayZero) + day * 86_400_000).toISOString().slice(0, 10).replaceAll('-', '')

interface Wish {
  readonly subject: number
  readonly day: number
  readonly modality?: 'CT' | 'MR'
  /** Slice thickness of each series, mm. */
  readonly series?: readonly string[]
}

/** Two thin images and a thick one, of a patient of their own. */
function study(seed: number, { subject, day, modality = 'CT', series = ['2.5', '2.5', '5'] }: Wish): BuiltInstance[] {
  return series.map((thickness, index) =>
    buildInstance({
      ...{ modality, seed: seed * 10 + index, rows: 8, cols: 8 },
      ...{ patientId: `QZPAT-${subject}`, patientName: `QZNAME^${subject}` },
      studyInstanceUid: seededUid('trial study', seed),
      seriesInstanceUid: seededUid(`trial series ${thickness}`, seed),
      extra: [
        { tag: 0x00080020, value: dateOf(day) },
        { tag: 0x00180050, value: thickness },
        { tag: 0x00200011, value: thickness === '5' ? '2' : '1' },
      ],
    }),
  )
}

interface Upload {
  readonly id: string
  readonly progress: string
  readonly findings: readonly { readonly code: string; readonly severity: string; readonly message: string }[]
  readonly studies: readonly { readonly transfer: string | null; readonly state: string | null }[]
}

/** What the API answers, also where it refuses. */
async function ask<T>(gateway: ProcessGateway, method: string, path: string, body?: unknown) {
  const response = await fetch(`${gateway.url}/api/v1${path}`, {
    method,
    ...(body !== undefined && { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
  })
  const text = await response.text()
  return { status: response.status, answer: JSON.parse(text) as T & { readonly detail?: string } }
}

async function started(t: Parameters<typeof startProcessGateway>[0]) {
  const root = await endpointFolder(t)
  const gateway = await startProcessGateway(t, 'trials')
  await gateway.api('PUT', '/api/v1/policy', { format: 'hanse-policy-2', destinations: {}, rules: [], incoming: [] })
  const packaging = { names: { template: '{protocol}/{site}/{subject}/{visit}/' } }
  await gateway.api('PUT', '/api/v1/endpoints/CRO', { kind: 'folder', settings: { root }, profile: 'trial', packaging })
  const store = async (instances: readonly BuiltInstance[]): Promise<string> => {
    for (const { bytes } of instances) {
      const response = await fetch(`${gateway.url}/instances`, { method: 'POST', body: Buffer.from(bytes) })
      assert.equal(response.status, 200, await response.text())
    }
    return instances[0]?.studyInstanceUid ?? ''
  }
  const trial = async (name: string, document: object): Promise<void> => {
    await gateway.api('PUT', `/api/v1/trials/${name}`, document)
    for (const task of ['upload', 'approve', 'answer'])
      await gateway.api('POST', `/api/v1/trials/${name}/delegations`, { person: 'local', task, from: '2026-01-01' })
  }
  const consent = (of: string): Promise<unknown> =>
    gateway.api('POST', '/api/v1/consents', { study: of, purpose: 'trial', recipient: 'CRO', source: 'form' })
  const untilDelivered = async (name: string, id: string): Promise<Upload> => {
    let seen: Upload | undefined
    return await until(`upload ${id} delivered`, 120_000, async () => {
      seen = await gateway.api<Upload & Record<string, unknown>>('GET', `/api/v1/trials/${name}/uploads/${id}`)
      return seen.progress === 'delivered' && seen
    }).catch(error => {
      throw new Error(`${String(error)}; it is ${JSON.stringify(seen)}`)
    })
  }
  return { root, gateway, store, trial, consent, untilDelivered }
}

test('three subjects and four visits go to the sponsor, and what is wrong is said in a sentence', async t => {
  const { root, gateway, store, trial, consent, untilDelivered } = await started(t)
  await trial('abc', protocol())
  const choose = (subject: string, visit: string, of: string, more: object = {}) =>
    ask<Upload>(gateway, 'POST', '/trials/abc/uploads', { subject, visit, studies: [{ study: of }], ...more })
  const act = (id: string, verb: string, body?: object) =>
    ask<Upload>(gateway, 'POST', `/trials/abc/uploads/${id}/${verb}`, body)
  const foundIn = (upload: Upload): string =>
    upload.findings.map(({ severity, message }) => `${severity}: ${message}`).join('\n')

  assert.deepEqual(await gateway.api('POST', '/api/v1/trials/abc/subjects', { codes: [...subjects] }), { added: 3 })
  const studies = new Map<string, string>()
  for (const [subject, code] of subjects.entries())
    for (const [index, day] of days.entries())
      studies.set(`${code} ${visits[index]}`, await store(study(subject * 4 + index, { subject, day: day + subject })))
  const studyOf = (code: string, visit: string): string => studies.get(`${code} ${visit}`) ?? ''

  // Nobody is a subject yet, nobody has consented.
  const unknown = await choose('017-099', 'BASELINE', studyOf('017-001', 'BASELINE'))
  assert.equal(unknown.status, 404)
  assert.match(unknown.answer.detail ?? '', /^subject 017-099 is not on the list of the trial abc: correct the number/)
  const unlinked = await choose('017-001', 'BASELINE', studyOf('017-001', 'BASELINE'))
  assert.match(foundIn(unlinked.answer), /^stop: Subject 017-001 is not linked with a patient yet/)
  await act(unlinked.answer.id, 'cancel')
  for (const code of subjects)
    await gateway.api('POST', `/api/v1/trials/abc/subjects/${code}/enrol`, {
      ...{ study: studyOf(code, 'BASELINE'), dayZero },
    })
  const early = await choose('017-001', 'BASELINE', studyOf('017-001', 'BASELINE'))
  assert.match(foundIn(early.answer), /^stop: No consent of subject 017-001 to "trial" is in force: record it first/)
  const refused = await act(early.answer.id, 'approve', {})
  assert.deepEqual([refused.status, refused.answer.detail?.slice(0, 29)], [409, 'No consent of subject 017-001'])
  await act(early.answer.id, 'cancel')
  for (const code of subjects) await consent(studyOf(code, 'BASELINE'))

  // What is wrong with what was chosen.
  const mr = await store(study(100, { subject: 0, day: 0, modality: 'MR' }))
  const wrong = await choose('017-001', 'BASELINE', mr)
  assert.match(foundIn(wrong.answer), /^stop: Visit BASELINE asks for CT; the chosen studies have MR only/)
  const thinOnly = await store(study(101, { subject: 0, day: 0, series: ['2.5', '2.5'] }))
  await act(wrong.answer.id, 'cancel')
  const lacking = await choose('017-001', 'BASELINE', thinOnly)
  assert.match(
    foundIn(lacking.answer),
    /^deviation: Visit BASELINE asks for 1 series "CT thick" \(CT, slices of at least 5 mm\)/,
  )
  const asked = await act(lacking.answer.id, 'approve', {})
  assert.match(asked.answer.detail ?? '', /^say why it is sent all the same: Visit BASELINE/)
  await act(lacking.answer.id, 'cancel')
  const late = await choose('017-001', 'WEEK-4', studyOf('017-001', 'WEEK-8'))
  assert.match(
    foundIn(late.answer),
    /^deviation: Visit WEEK-4 is due from 2026-01-26 to 2026-02-05; .* 21 days too late/,
  )
  await act(late.answer.id, 'cancel')
  const other = await choose('017-001', 'BASELINE', studyOf('017-002', 'BASELINE'))
  assert.match(foundIn(other.answer), /^stop: A chosen study is of another patient than the one who is subject 017-001/)
  await act(other.answer.id, 'cancel')

  // All twelve.
  for (const code of subjects)
    for (const visit of visits) {
      const { answer: upload } = await choose(code, visit, studyOf(code, visit))
      assert.deepEqual([upload.progress, foundIn(upload)], ['draft', ''])
      assert.equal((await act(upload.id, 'approve', {})).answer.progress, 'approved')
      assert.equal((await act(upload.id, 'send')).answer.progress, 'sending')
    }
  const { uploads } = await gateway.api<{ uploads: Upload[] }>('GET', '/api/v1/trials/abc/uploads')
  const sent = uploads.filter(({ progress }) => progress !== 'cancelled')
  assert.equal(sent.length, 12)
  for (const { id } of sent) await untilDelivered('abc', id)

  const files = await filesBelow(root)
  for (const code of subjects)
    for (const visit of visits) {
      const folder = `ABC-123/017/${code}/${visit}/`
      const mine = [...files].filter(([path]) => path.startsWith(folder))
      const images = mine.filter(([, bytes]) => bytes.subarray(128, 132).toString() === 'DICM' && bytes.length > 600)
      const ids = new Set<string>()
      for (const [path, bytes] of images) {
        if (path.endsWith('DICOMDIR')) continue
        const { dataset } = await readPart10(bufferSource(bytes))
        ids.add(stringOf(dataset, 0x00100020) ?? '')
      }
      assert.deepEqual([...ids], [code], `${folder}: ${mine.map(([path]) => path).join(' ')}`)
    }
  const everything = [...files].map(([path, bytes]) => `${path}\n${bytes.toString('latin1')}`).join('\n')
  for (const marker of ['QZPAT', 'QZNAME']) assert.ok(!everything.includes(marker), `${marker} at the sponsor`)

  // The same again is a duplicate; a replacement is not.
  const again = await choose('017-001', 'BASELINE', studyOf('017-001', 'BASELINE'))
  assert.match(
    foundIn(again.answer),
    /^stop: Visit BASELINE of subject 017-001 was uploaded on .* already, with the same study/,
  )
  await act(again.answer.id, 'cancel')
  const elsewhere = await choose('017-001', 'WEEK-4', studyOf('017-001', 'BASELINE'))
  assert.match(foundIn(elsewhere.answer), /already, as visit BASELINE of subject 017-001\./)
  await act(elsewhere.answer.id, 'cancel')
  const first = sent.at(-1)
  assert.ok(first)
  assert.equal((await act(first.id, 'query', { text: 'Series 2 is blurred' })).answer.progress, 'queried')
  const anew = await choose('017-001', 'BASELINE', studyOf('017-001', 'BASELINE'), { replaces: first.id })
  assert.equal(foundIn(anew.answer), '')
  await act(anew.answer.id, 'approve', {})
  await act(anew.answer.id, 'send')
  await untilDelivered('abc', anew.answer.id)
  assert.ok([...(await filesBelow(root)).keys()].some(path => path.startsWith('ABC-123/017/017-001/BASELINE.2/')))
  const replaced = await gateway.api<Upload & Record<string, unknown>>('GET', `/api/v1/trials/abc/uploads/${first.id}`)
  assert.equal(replaced.progress, 'replaced')

  // The preview shows what would leave; the logs tell their readers what is theirs.
  const shown = await gateway.api<{
    instances: { outcome: string; changes: { path: string; after: string | null }[] }[]
  }>(...(['GET', `/api/v1/trials/abc/uploads/${anew.answer.id}/preview`] as const))
  assert.deepEqual(
    shown.instances.map(({ outcome }) => outcome),
    ['go', 'go'],
  )
  const forSponsor = await (await fetch(`${gateway.url}/api/v1/trials/abc/log.csv`)).text()
  assert.equal(forSponsor.split('\r\n').filter(line => line.includes(',upload-sent,')).length, 13)
  assert.ok(!/QZPAT|local/.test(forSponsor))
  const forSite = await (await fetch(`${gateway.url}/api/v1/trials/abc/log.csv?reader=site`)).text()
  assert.match(forSite, /017-003,END,upload-sent,.*QZPAT-2/)
  const page = await (await fetch(`${gateway.url}/api/v1/trials/abc/subjects/017-002/log.html`)).text()
  assert.match(page, /<h1>Export log: subject 017-002<\/h1>/)
  assert.match(page, /QZPAT-1/)
  assert.ok(!gateway.output().includes('QZ'), 'a marker in the log')

  // The same by the command line.
  assert.match((await gateway.hanse('trial', 'list')).output, /^abc +open +ACME +ABC-123 +017 +CRO +trial$/m)
  assert.match((await gateway.hanse('trial', 'subjects', 'abc')).output, /^017-003 +enrolled +2026-01-01$/m)
  const chosen = await gateway.hanse('trial', 'upload', 'abc', mr, '--subject', '017-001', '--visit', 'END')
  assert.deepEqual([chosen.code, /stop: Visit END asks for CT/.test(chosen.output)], [1, true])
  assert.match((await gateway.hanse('trial', 'work', 'abc')).output, /^upload +correct +017-001 +END/m)
  assert.match((await gateway.hanse('trial', 'log', 'abc')).output, /^at,protocol,site,subject,visit,event,upload/m)
  const nobody = await gateway.hanse('trial', 'log', 'abc', '--subject', '017-009')
  assert.deepEqual([nobody.code, /subject 017-009 is not on the list/.test(nobody.output)], [1, true])
})

test('two trials of one patient have nothing in common; who withdraws gets no further; tasks need the log', async t => {
  const { root, gateway, store, trial, consent, untilDelivered } = await started(t)
  const of = await store(study(1, { subject: 7, day: 0 }))
  await consent(of)
  for (const [name, change] of [
    ['one', { protocol: 'P-1' }],
    ['two', { protocol: 'P-2', twoPeople: true }],
  ] as const) {
    await trial(name, protocol(change))
    await gateway.api('POST', `/api/v1/trials/${name}/subjects/${name}-001/enrol`, { study: of, dayZero })
  }
  const choose = async (name: string, code: string): Promise<string> => {
    const body = { subject: code, visit: 'BASELINE', studies: [{ study: of }] }
    return (await ask<Upload>(gateway, 'POST', `/trials/${name}/uploads`, body)).answer.id
  }
  const act = (name: string, id: string, verb: string, body?: object) =>
    ask<Upload>(gateway, 'POST', `/trials/${name}/uploads/${id}/${verb}`, body)

  const [mine, theirs] = [await choose('one', 'one-001'), await choose('two', 'two-001')]
  const alone = await act('two', theirs, 'approve', {})
  assert.deepEqual([alone.status, /asks for two people/.test(alone.answer.detail ?? '')], [403, true])
  await gateway.api('PUT', '/api/v1/trials/two', protocol({ protocol: 'P-2' }))
  for (const [name, id] of [
    ['one', mine],
    ['two', theirs],
  ] as const) {
    await act(name, id, 'approve', {})
    await act(name, id, 'send')
    await untilDelivered(name, id)
  }
  const uids: string[][] = []
  for (const folder of ['P-1/017/one-001/', 'P-2/017/two-001/']) {
    const found = new Set<string>()
    for (const [path, bytes] of await filesBelow(root)) {
      if (!path.startsWith(folder) || path.endsWith('DICOMDIR')) continue
      if (bytes.subarray(128, 132).toString() !== 'DICM') continue
      const { dataset } = await readPart10(bufferSource(bytes))
      for (const tag of [0x00080018, 0x0020000d, 0x0020000e, 0x00100020, 0x00080020])
        found.add(stringOf(dataset, tag) ?? '')
    }
    uids.push([...found].filter(value => value !== ''))
  }
  assert.ok((uids[0]?.length ?? 0) >= 6)
  assert.deepEqual(
    uids[0]?.filter(value => uids[1]?.includes(value) && value.includes('.')),
    [],
  )

  // Without the log's line nobody acts; a revoked one counts no more.
  const { delegations } = await gateway.api<{ delegations: { id: string; task: string }[] }>(
    ...(['GET', '/api/v1/trials/one/delegations'] as const),
  )
  const line = delegations.find(({ task }) => task === 'upload')
  await fetch(`${gateway.url}/api/v1/trials/one/delegations/${line?.id}`, { method: 'DELETE' })
  const without = await ask(gateway, 'POST', '/trials/one/uploads', {
    ...{ subject: 'one-001', visit: 'WEEK-4', studies: [{ study: of }] },
  })
  assert.equal(without.status, 403)
  assert.match(without.answer.detail ?? '', /does not give the task "upload" to local today/)

  // A withdrawal stops what is on its way and says what is there.
  await gateway.api('POST', '/api/v1/endpoints/CRO/stop', { reason: 'maintenance' })
  const next = await store(study(2, { subject: 7, day: 28 }))
  const body = { subject: 'two-001', visit: 'WEEK-4', studies: [{ study: next }] }
  const { answer: second } = await ask<Upload>(gateway, 'POST', '/trials/two/uploads', body)
  await act('two', second.id, 'approve', {})
  const { answer: waiting } = await act('two', second.id, 'send')
  const why = { why: 'The subject withdrew on the phone' }
  const withdrawn = await ask<{ cancelled: string[]; delivered: string[] }>(
    ...([gateway, 'POST', '/trials/two/subjects/two-001/withdraw', why] as const),
  )
  assert.deepEqual(withdrawn.answer.cancelled, [waiting.studies[0]?.transfer])
  assert.deepEqual(withdrawn.answer.delivered, [theirs])
  const after = await ask<Upload>(gateway, 'POST', '/trials/two/uploads', { ...body, visit: 'WEEK-8' })
  assert.match(after.answer.findings[0]?.message ?? '', /^Subject two-001 has withdrawn: nothing more of them is sent/)
  const { work } = await gateway.api<{ work: { what: string; task: string; people: string[] }[] }>(
    ...(['GET', '/api/v1/trials/two/work'] as const),
  )
  assert.ok(work.some(({ what, people }) => what === 'attend' && people.includes('local')))
})
