/** QIDO-RS over a real store. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { type WebApp, webApp } from './web-app.ts'

/** Data sets of an answer as first values by tag. */
function valuesOf(raw: unknown): Record<string, unknown>[] {
  assert.ok(Array.isArray(raw))
  return raw.map((dataset: unknown) => {
    assert.ok(isObject(dataset))
    return Object.fromEntries(
      Object.entries(dataset).map(([tag, element]) => {
        const values = isObject(element) ? element['Value'] : undefined
        return [tag, Array.isArray(values) ? values[0] : undefined]
      }),
    )
  })
}

const find = async (web: WebApp, path: string) => valuesOf(await web.json(path))

/** Three studies: two CT of one patient with two series, one MR. */
async function storeStudies(web: WebApp): Promise<void> {
  for (const [seed, series] of [
    [1, 0],
    [2, 0],
    [3, 1],
  ] as const) {
    await web.store(
      buildInstance({
        seed,
        studyInstanceUid: '1.2.3.1',
        seriesInstanceUid: `1.2.3.1.${series}`,
        sopInstanceUid: `1.2.3.1.${series}.${seed}`,
        patientId: 'P1',
        patientName: 'Müller^Anna',
        instanceNumber: seed,
        extra: [
          { tag: 0x00080020, value: '20260105' },
          {
            tag: 0x00400275,
            items: [
              [
                { tag: 0x00400009, value: 'STEP-1' },
                { tag: 0x00401001, value: 'RP-1' },
              ],
            ],
          },
        ],
      }).bytes,
    )
  }
  const other = { seed: 4, studyInstanceUid: '1.2.3.2', patientId: 'P2', patientName: 'Doe^John' } as const
  await web.store(buildInstance({ ...other, extra: [{ tag: 0x00080020, value: '20260210' }] }).bytes)
  const third = { seed: 5, studyInstanceUid: '1.2.3.3', patientId: 'P3', modality: 'MR' } as const
  await web.store(buildInstance({ ...third, extra: [{ tag: 0x00080020, value: '20260301' }] }).bytes)
}

test('searches of studies match, count, and name where to retrieve', async t => {
  const web = await webApp(t)
  assert.equal((await web.call('/studies')).status, 204)
  await storeStudies(web)

  const all = await find(web, '/studies')
  assert.deepEqual(
    all.map(study => study['0020000D']),
    ['1.2.3.3', '1.2.3.2', '1.2.3.1'],
  )
  const first = all[2] ?? {}
  assert.deepEqual(first['00100010'], { Alphabetic: 'Müller^Anna' })
  assert.equal(first['00201206'], 2)
  assert.equal(first['00201208'], 3)
  assert.equal(first['00080061'], 'CT')
  assert.equal(first['00080056'], 'ONLINE')
  assert.equal(first['00081190'], `${web.url}/studies/1.2.3.1`)
  assert.deepEqual(Object.keys(first), Object.keys(first).toSorted())

  const uidsOf = async (query: string) => (await find(web, `/studies?${query}`)).map(study => study['0020000D']).sort()
  assert.deepEqual(await uidsOf('PatientID=P1'), ['1.2.3.1'])
  assert.deepEqual(await uidsOf('00100020=P*&StudyDate=20260101-20260215'), ['1.2.3.1', '1.2.3.2'])
  assert.deepEqual(await uidsOf('PatientName=MULLER*'), ['1.2.3.1'])
  assert.deepEqual(await uidsOf('PatientName=anna%20mul&fuzzymatching=true'), ['1.2.3.1'])
  assert.deepEqual(await uidsOf('PatientName=anna%20mul&fuzzymatching=false'), [])
  assert.deepEqual(await uidsOf('StudyInstanceUID=1.2.3.1,1.2.3.3'), ['1.2.3.1', '1.2.3.3'])
  assert.deepEqual(await uidsOf('ModalitiesInStudy=MR'), ['1.2.3.3'])
  assert.deepEqual(await uidsOf('ModalitiesInStudy=MR,CT'), ['1.2.3.1', '1.2.3.2', '1.2.3.3'])
})

test('pages are cut by the standard and tell how many matches follow', async t => {
  const web = await webApp(t)
  await storeStudies(web)
  const page = async (query: string) => {
    const answer = await web.call(`/studies?${query}`)
    const body: unknown = answer.status === 204 ? [] : await answer.json()
    return { warning: answer.headers.get('warning'), uids: valuesOf(body).map(study => study['0020000D']) }
  }
  const two = {
    warning: '299 hanse "There are 1 additional results that can be requested"',
    uids: ['1.2.3.3', '1.2.3.2'],
  }
  assert.deepEqual(await page('limit=2'), two)
  assert.deepEqual(await page('limit=2&PatientID=P*'), two)
  assert.deepEqual(await page('limit=2000'), { warning: null, uids: ['1.2.3.3', '1.2.3.2', '1.2.3.1'] })
  assert.deepEqual(await page('limit=2&offset=2'), { warning: null, uids: ['1.2.3.1'] })
  assert.deepEqual(await page('offset=1&PatientID=P*'), { warning: null, uids: ['1.2.3.2', '1.2.3.1'] })
  assert.deepEqual(await page('offset=7&limit=1'), { warning: null, uids: [] })
  assert.deepEqual((await page('limit=0')).uids, [])
})

test('series and instances are found everywhere and below their study and series', async t => {
  const web = await webApp(t)
  await storeStudies(web)
  const series = await find(web, '/studies/1.2.3.1/series')
  assert.deepEqual(
    series.map(each => [each['0020000E'], each['00201209'], each['00080060']]),
    [
      ['1.2.3.1.0', 2, 'CT'],
      ['1.2.3.1.1', 1, 'CT'],
    ],
  )
  assert.equal(series[0]?.['00100020'], undefined)
  assert.equal((await find(web, '/series?Modality=CT&PatientID=P1'))[0]?.['00100020'], 'P1')
  assert.equal((await find(web, '/series')).length, 4)
  assert.equal((await find(web, '/instances')).length, 5)
  assert.equal((await find(web, '/studies/1.2.3.1/instances')).length, 3)
  const below = await find(web, '/studies/1.2.3.1/series/1.2.3.1.0/instances?InstanceNumber=2')
  assert.deepEqual(
    below.map(each => [each['00080018'], each['00280010'], each['00081190']]),
    [['1.2.3.1.0.2', 64, `${web.url}/studies/1.2.3.1/series/1.2.3.1.0/instances/1.2.3.1.0.2`]],
  )
  assert.equal((await web.call('/studies/9.9/series')).status, 204)
  assert.equal((await web.call('/studies/1.2.3.1/series?StudyInstanceUID=1.2.3.2')).status, 204)
})

test('includefield gives attributes by keyword, by tag, by path and all of them', async t => {
  const web = await webApp(t)
  await storeStudies(web)
  const path = '/studies/1.2.3.1/series?SeriesInstanceUID=1.2.3.1.1'
  const one = async (query: string): Promise<Record<string, unknown>> => {
    const [dataset] = [await web.json(`${path}${query}`)].flat()
    assert.ok(isObject(dataset))
    return dataset
  }
  assert.equal((await one(''))['00080070'], undefined)
  assert.ok('00100020' in (await one('&includefield=PatientID')))
  assert.ok('00100010' in (await one('&includefield=00100010,00100020&includefield=PatientSex')))
  assert.deepEqual((await one('&includefield=RequestAttributesSequence.ScheduledProcedureStepID'))['00400275'], {
    vr: 'SQ',
    Value: [{ '00400009': { vr: 'SH', Value: ['STEP-1'] } }],
  })
  const all = await one('&includefield=all')
  assert.ok('00100010' in all && '00080020' in all && '00080056' in all)
  assert.equal((await find(web, '/series?00400275.00401001=RP-1')).length, 2)
  assert.equal((await find(web, '/series?RequestAttributesSequence.RequestedProcedureID=RP-2')).length, 0)
})

test('answers are JSON or parts of XML, and what is not understood is refused or told', async t => {
  const web = await webApp(t)
  await storeStudies(web)
  const json = await web.call('/studies', { headers: { accept: 'text/html;q=0.5, application/json' } })
  assert.match(json.headers.get('content-type') ?? '', /^application\/dicom\+json/)
  const xml = await web.call('/studies', { headers: { accept: 'multipart/related; type="application/dicom+xml"' } })
  assert.match(xml.headers.get('content-type') ?? '', /^multipart\/related; type="application\/dicom\+xml"; boundary=/)
  const parts = await xml.text()
  assert.equal(parts.match(/<NativeDicomModel /g)?.length, 3)
  assert.match(
    parts,
    /<DicomAttribute keyword="PatientName" tag="00100010" vr="PN"><PersonName number="1"><Alphabetic><FamilyName>Müller</,
  )
  const byParameter = await web.call('/studies?accept=application/dicom%2Bxml')
  assert.match(byParameter.headers.get('content-type') ?? '', /dicom\+xml/)

  assert.equal((await web.call('/studies', { headers: { accept: 'image/png' } })).status, 406)
  assert.equal((await web.call('/studies', { headers: { accept: ';;' } })).status, 400)
  assert.equal((await web.call('/studies?NoSuchName=1')).status, 400)
  assert.equal((await web.call('/studies?limit=-1')).status, 400)
  assert.equal((await web.call('/studies?fuzzymatching=perhaps')).status, 400)
  assert.equal((await web.call('/studies/not-a-uid/series')).status, 400)
  const unused = await web.call('/studies?Modality=CT&includefield=Modality')
  assert.match(unused.headers.get('warning') ?? '', /Modality/)
  assert.equal((await web.call('/studies?StudyDate=yesterday')).status, 204)
})

test('each search is an audit event that tells by what was searched, not for whom', async t => {
  const web = await webApp(t)
  await storeStudies(web)
  await web.call('/studies?PatientName=Doe*&limit=10')
  const { rows } = await web.db.pool.query(
    `select payload from audit_events where payload like '%"110112"%' order by id desc limit 1`,
  )
  const payload = String(Object(rows[0]).payload)
  assert.match(payload, /"userId":"local"/)
  assert.match(payload, /00100010/)
  assert.doesNotMatch(payload, /Doe/)
})
