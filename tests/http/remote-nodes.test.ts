/** Orthanc's routes about other nodes, answer by answer beside a real Orthanc that asks the same archive. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { buildInstance, seededUid } from '../support/dicom-builder.ts'
import { missingOrthanc, type OrthancPeer, orthancAe, startOrthanc } from '../support/orthanc.ts'
import { type ProcessGateway, prepareProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'

const referenceAe = 'REF'
const studyInstanceUid = seededUid('study', 900)
const seriesInstanceUid = seededUid('series', 900)
const patientId = 'TEST-900'
const instances = [1, 2, 3].map(number =>
  buildInstance({ seed: 900 + number, studyInstanceUid, seriesInstanceUid, patientId, instanceNumber: number }),
)
const other = buildInstance({ seed: 950, patientId: 'TEST-950', patientName: 'TEST^Other' })

interface Answer {
  readonly status: number
  readonly body: unknown
}

async function call(url: string, method: string, path: string, body?: unknown): Promise<Answer> {
  const payload =
    body instanceof Uint8Array ? Buffer.from(body) : typeof body === 'string' ? body : JSON.stringify(body)
  const answer = await fetch(`${url}${path}`, { method, ...(body !== undefined && { body: payload }) })
  const text = await answer.text()
  const isJson = answer.headers.get('content-type')?.includes('json')
  return { status: answer.status, body: isJson && text !== '' ? JSON.parse(text) : text }
}

const field = (value: unknown, name: string): unknown => Reflect.get(Object(value), name)

/** Without what may differ: ids of queries and jobs, our own title, the character set of the answers. */
function comparable(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(comparable)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value)
      .filter(([key]) => !['ID', 'Path', 'SpecificCharacterSet', '0008,0005'].includes(key))
      .map(([key, inner]) => [key, key === 'LocalAet' ? 'us' : comparable(inner)]),
  )
}

test('other nodes, as Orthanc asks them', { skip: missingOrthanc }, async t => {
  const gateway = await prepareProcessGateway(t, 'remote')
  const archive = await startOrthanc(t, { hanse: ['HANSE', '127.0.0.1', gateway.ports.dicom] })
  const reference = await startOrthanc(
    t,
    { archive: [orthancAe, '127.0.0.1', archive.port], dead: ['DEAD', '127.0.0.1', 9] },
    { DicomAet: referenceAe },
  )
  await archive.call('PUT', '/modalities/reference', [referenceAe, '127.0.0.1', reference.port])
  await gateway.start()
  await gateway.api('PUT', '/api/v1/modalities/archive', { aeTitle: orthancAe, host: '127.0.0.1', port: archive.port })
  await gateway.api('PUT', '/api/v1/modalities/dead', { aeTitle: 'DEAD', host: '127.0.0.1', port: 9 })
  for (const { bytes } of [...instances, other]) {
    assert.equal((await call(archive.url, 'POST', '/instances', bytes)).status, 200)
  }
  const site = { gateway, archive, reference }

  await t.test('a query is kept, with its answers in all forms and what is below them', t => queries(t, site))
  await t.test('the deprecated queries answer at once', t => finds(t, site))
  await t.test('what a query found is retrieved, one answer or all', t => retrieves(t, site))
  await t.test('stored resources and loose files are sent', t => sends(t, site))
  await t.test('out of the hospital there is no way but a transfer that the policy knows', t => outside(t, site))
})

interface Site {
  readonly gateway: ProcessGateway
  readonly archive: OrthancPeer
  readonly reference: OrthancPeer
}

/** Both servers answer alike. */
async function same(
  { gateway, reference }: Site,
  method: string,
  path: string | readonly [string, string],
  body?: unknown,
) {
  const [ours, theirs] = typeof path === 'string' ? [path, path] : path
  const answer = await call(gateway.url, method, ours, body)
  const expected = await call(reference.url, method, theirs, body)
  assert.equal(answer.status, expected.status, `${method} ${ours}: ${JSON.stringify(answer.body)}`)
  if (expected.status === 200) assert.deepEqual(comparable(answer.body), comparable(expected.body), `${method} ${ours}`)
  return [answer.body, expected.body] as const
}

async function queries(_t: TestContext, site: Site): Promise<void> {
  const pathsOf = (bodies: readonly [unknown, unknown]) =>
    [String(field(bodies[0], 'Path')), String(field(bodies[1], 'Path'))] as const
  const below = ([ours, theirs]: readonly [string, string], path: string) =>
    [`${ours}${path}`, `${theirs}${path}`] as const
  const Query = { PatientID: 'TEST-9*', PatientName: '', StudyDate: '', '0008,0061': '', SeriesDescription: '' }

  const paths = pathsOf(await same(site, 'POST', '/modalities/archive/query', { Level: 'Study', Query }))
  for (const path of ['', '/level', '/modality', '/answers', '/answers/0']) await same(site, 'GET', below(paths, path))
  for (const form of ['', '&simplify', '&short']) {
    await same(site, 'GET', below(paths, `/answers?expand${form}`))
    await same(site, 'GET', below(paths, `/answers/1/content?${form}`))
  }
  for (const path of ['/answers/2', '/answers/x/content', '/nothing']) await same(site, 'GET', below(paths, path))

  const child = pathsOf(await same(site, 'POST', below(paths, '/answers/0/query-series'), { Query: { Modality: '' } }))
  await same(site, 'GET', below(child, '/answers?expand&simplify'))
  await same(site, 'GET', below(child, '/level'))
  await same(site, 'GET', below(child, '/query?simplify'))
  await same(site, 'POST', below(child, '/answers/0/query-studies'), {})
  const leaves = pathsOf(await same(site, 'POST', below(paths, '/answers/0/query-instances'), {}))
  await same(site, 'GET', below(leaves, '/answers'))

  for (const body of [
    {},
    { Level: 'Nothing', Query: {} },
    { Level: 'Study', Query: { Nothing: '' } },
    'text',
    { Level: 'Study', Query: [] },
  ]) {
    await same(site, 'POST', '/modalities/archive/query', body)
  }
  await same(site, 'POST', '/modalities/none/query', { Level: 'Study', Query: {} })
  await same(site, 'GET', '/queries/none')
  await same(site, 'GET', '/modalities/archive')
  await same(site, 'DELETE', '/queries/none')
  await same(site, 'DELETE', below(child, ''))
  await same(site, 'GET', below(child, ''))
  assert.equal(field((await call(site.gateway.url, 'GET', '/queries')).body, 'length'), 2)
}

async function finds(_t: TestContext, site: Site): Promise<void> {
  await same(site, 'POST', '/modalities/archive/find-patient', {})
  await same(site, 'POST', '/modalities/archive/find-study', { PatientID: patientId })
  await same(site, 'POST', '/modalities/archive/find-study', { PatientID: '*' })
  await same(site, 'POST', '/modalities/archive/find-series', {
    PatientID: patientId,
    StudyInstanceUID: studyInstanceUid,
  })
  await same(site, 'POST', '/modalities/archive/find', { PatientID: patientId })
  await same(site, 'POST', '/modalities/archive/echo', { CheckFind: true })
  assert.equal((await call(site.gateway.url, 'POST', '/modalities/archive/find-worklist', { Query: {} })).status, 502)
}

async function retrieves(_t: TestContext, site: Site): Promise<void> {
  const { gateway, reference } = site
  const wish = { Level: 'Study', Query: { PatientID: patientId } }
  const [ours, theirs] = await same(site, 'POST', '/modalities/archive/query', wish)
  const paths = [String(field(ours, 'Path')), String(field(theirs, 'Path'))] as const
  const held = async (url: string) => field((await call(url, 'GET', '/instances')).body, 'length')

  await same(site, 'POST', [`${paths[0]}/answers/0/retrieve`, `${paths[1]}/answers/0/retrieve`], {})
  for (const url of [gateway.url, reference.url]) await until('it is here', 60_000, async () => (await held(url)) === 3)
  await same(site, 'POST', [`${paths[0]}/retrieve`, `${paths[1]}/retrieve`], { Simplify: true })

  const Resources = [{ StudyInstanceUID: other.studyInstanceUid }]
  await same(site, 'POST', '/modalities/archive/move', { Level: 'Study', Resources })
  for (const url of [gateway.url, reference.url]) await until('it is here', 60_000, async () => (await held(url)) === 4)
  await same(site, 'POST', '/modalities/archive/move', { Level: 'Study' })
  await same(site, 'POST', '/modalities/archive/move', { Level: 'Study', Resources: ['x'] })
  // Who is not registered may be anybody: Orthanc asks, and the archive does not know the title either.
  const stranger = await call(gateway.url, 'POST', '/modalities/archive/move', {
    Level: 'Study',
    Resources,
    TargetAet: 'WHO',
  })
  assert.equal(stranger.status, 403)
}

async function sends(_t: TestContext, site: Site): Promise<void> {
  const { gateway, archive, reference } = site
  const { body: studies } = await call(gateway.url, 'GET', '/studies')
  const { body: expanded } = await call(gateway.url, 'GET', `/studies/${field(studies, '0')}`)
  const [study, [oneInstance]] = [
    String(field(expanded, 'ID')),
    Object((await call(gateway.url, 'GET', '/instances')).body),
  ]
  for (const { id } of [{ id: study }, { id: oneInstance }]) {
    await same(site, 'POST', '/modalities/archive/store', id)
    await same(site, 'POST', '/modalities/archive/store', [id])
    await same(site, 'POST', '/modalities/archive/store', { Resources: [id] })
  }
  for (const body of [[], {}, ['none'], { Resources: [study, 'none'] }])
    await same(site, 'POST', '/modalities/archive/store', body)
  await same(site, 'POST', '/modalities/none/store', study)
  const wish = { Resources: [study], Asynchronous: true }
  const jobs = await same(site, 'POST', '/modalities/archive/store', wish)
  const at = [gateway.url, reference.url]
  for (const [place, body] of jobs.entries()) {
    const job = async () => (await call(String(at[place]), 'GET', String(field(body, 'Path')))).body
    const done = await until('the job has ended', 60_000, async () => {
      const now = await job()
      return field(now, 'State') === 'Success' ? now : undefined
    })
    assert.deepEqual([field(done, 'Type'), field(field(done, 'Content'), 'InstancesCount')], ['DicomModalityStore', 3])
  }
  assert.equal((await call(gateway.url, 'POST', '/modalities/dead/store', study)).status, 502)

  const loose = buildInstance({ seed: 990, patientId: 'TEST-990' })
  await same(site, 'POST', '/modalities/archive/store-straight', loose.bytes)
  await same(site, 'POST', '/modalities/archive/store-straight', 'no DICOM file')
  assert.equal(field(await archive.call('GET', '/instances'), 'length'), 5)
  assert.equal(field((await call(gateway.url, 'GET', '/instances')).body, 'length'), 4)
}

async function outside(_t: TestContext, { gateway, archive }: Site): Promise<void> {
  const [study] = Object((await call(gateway.url, 'GET', '/studies')).body)
  const entry = { aeTitle: orthancAe, host: '127.0.0.1', port: archive.port, zone: 'outside' }
  await gateway.api('PUT', '/api/v1/modalities/abroad', entry)
  const loose = buildInstance({ seed: 991 }).bytes

  assert.equal((await call(gateway.url, 'POST', '/modalities/abroad/store', study)).status, 403)
  assert.equal((await call(gateway.url, 'POST', '/modalities/abroad/store-straight', loose)).status, 403)
  await gateway.api('PUT', '/api/v1/policy', {
    format: 'hanse-policy-1',
    destinations: { abroad: { modality: 'abroad' } },
    rules: [],
  })
  const sent = await call(gateway.url, 'POST', '/modalities/abroad/store', study)
  assert.equal(sent.status, 200, JSON.stringify(sent.body))
  const { transfers } = Object(await gateway.api('GET', '/api/v1/transfers'))
  assert.deepEqual([transfers.length, transfers[0].state, transfers[0].rule], [1, 'delivered', 'manual'])
}
