import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { findElement, itemsOf, numbersOf, stringOf, stringsOf } from '../../gateway/dicom/dataset.ts'
import { toJson } from '../../gateway/dicom/json.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { missingOrthanc } from '../support/orthanc.ts'
import { until } from '../support/until.ts'
import { idOf, modifyApp, orthancWith, read, textsOf } from './modify-app.ts'

const study = '1.2.3'
const requested = 0x00400275
const files = [1, 2, 3].map(
  number =>
    buildInstance({
      seed: number,
      studyInstanceUid: study,
      seriesInstanceUid: number === 3 ? '1.2.3.2' : '1.2.3.1',
      patientId: 'TEST-1',
      patientName: 'TEST^Müller',
      charset: 'ISO_IR 100',
      instanceNumber: number,
      extra: [
        { tag: 0x00081030, value: 'Thorax' },
        { tag: 0x00090010, vr: 'LO', value: 'ACME' },
        { tag: 0x00091001, vr: 'LO', value: 'private' },
        {
          tag: requested,
          items: [
            [{ tag: 0x00400009, value: 'STEP1' }],
            [
              { tag: 0x00400009, value: 'STEP2' },
              { tag: 0x00110010, vr: 'LO', value: 'ACME' },
            ],
          ],
        },
      ],
    }).bytes,
)
const first = files[0] ?? new Uint8Array()

/** What Orthanc writes itself, or makes up anew. */
const madeUp = ['00080018', '0020000D', '0020000E']

test('an instance is modified as Orthanc does it, with the same statuses', { skip: missingOrthanc }, async t => {
  const [app, orthanc] = [await modifyApp(t), await orthancWith(t, [first])]
  const id = await app.upload(first)
  const original = await read(first)
  const bodies = [
    {},
    { Replace: { PatientName: 'TEST^Other', StudyDescription: null } },
    { Replace: { '0008,1030': 'Abdomen', '00080050': 'A1' }, Remove: ['InstanceNumber', 'Modality'] },
    { Replace: { Rows: '65' } },
    { Replace: { Rows: 'x' } },
    { Replace: { PatientName: 5 } },
    { Replace: { PatientName: [] } },
    { Replace: ['PatientName'] },
    { Remove: { PatientName: 1 } },
    { RemovePrivateTags: 1 },
    { Replace: { PatientID: 'B' } },
    { Replace: { PatientID: 'B' }, Force: true },
    { Replace: { StudyInstanceUID: '1.2.9', SeriesInstanceUID: '1.2.9.1', SOPInstanceUID: '1.2.9.1.1' }, Force: true },
    { Replace: { SOPInstanceUID: '1.2.9' } },
    { Remove: ['PatientID'] },
    { Remove: ['StudyInstanceUID'], Force: true },
    { Keep: ['SOPInstanceUID'] },
    { Keep: ['SOPInstanceUID'], Force: true },
    { Keep: ['PatientName'] },
    { Replace: { RequestAttributesSequence: [{ ScheduledProcedureStepID: '1' }, { '0040,1001': '2' }] } },
    { Replace: { RequestAttributesSequence: 'x' } },
    { Replace: { 'RequestAttributesSequence[0].ScheduledProcedureStepID': 'NEW' } },
    { Replace: { 'RequestAttributesSequence[*].ScheduledProcedureStepID': 'NEW' } },
    { Replace: { 'RequestAttributesSequence[5].ScheduledProcedureStepID': 'NEW' } },
    { Replace: { 'ReferencedStudySequence[0].ReferencedSOPInstanceUID': '1.2' } },
    { Replace: { 'RequestAttributesSequence[x].ScheduledProcedureStepID': 'NEW' } },
    { Remove: ['RequestAttributesSequence[1].ScheduledProcedureStepID'] },
    { Remove: ['RequestAttributesSequence[*].0040,0009'] },
    { Replace: { SOPInstanceUID: 'no uid' } },
    { Replace: { SOPInstanceUID: 'no uid' }, Force: true },
    { Replace: { SeriesInstanceUID: 'series' }, Force: true },
    { Transcode: '1.2.3' },
    { Transcode: 5 },
    { Transcode: '1.2.840.10008.1.2' },
  ]

  for (const body of bodies) {
    const [ours, theirs] = await Promise.all(
      [app, orthanc].map(each => each.bytes('POST', `/instances/${id}/modify`, body)),
    )
    const about = JSON.stringify(body)
    assert.equal(ours?.status, theirs?.status, about)
    if (ours?.status !== 200 || !theirs) continue
    const [mine, other] = [await read(ours.bytes), await read(theirs.bytes)]
    assert.equal(mine.transferSyntaxUid, other.transferSyntaxUid, about)
    assert.equal(stringOf(mine.meta, 0x00020003), stringOf(mine.dataset, 0x00080018))
    const [my, its] = [mine, other].map(({ dataset }) =>
      Object.fromEntries(Object.entries(toJson(dataset)).filter(([tag]) => !madeUp.includes(tag))),
    )
    assert.deepEqual(my, its, about)
    for (const tag of madeUp) {
      const [was, a, b] = [original, mine, other].map(({ dataset }) => stringOf(dataset, Number.parseInt(tag, 16)))
      assert.deepEqual([a === was, a?.startsWith('1.2.9')], [b === was, b?.startsWith('1.2.9')], `${about} ${tag}`)
    }
  }
  assert.equal((await app.bytes('POST', '/instances/nope/modify', {})).status, 404)
  assert.equal((await app.bytes('POST', `/instances/${id}/modify`)).status, 400)
})

test('studies, series and patients are modified by jobs with the answers of Orthanc', {
  skip: missingOrthanc,
}, async t => {
  const [app, orthanc] = [await modifyApp(t), await orthancWith(t, files)]
  const uploaded: string[] = []
  for (const file of files) uploaded.push(await app.upload(file))
  const { body: studies } = await app.ask('GET', '/studies?expand')
  assert.ok(Array.isArray(studies))
  const { ID: studyId, ParentPatient: patient, Series: series } = studies[0]
  const seriesIds: readonly string[] = series
  const shape = (answer: { status: number; bytes: Buffer }) => {
    const body: unknown = JSON.parse(answer.bytes.toString())
    if (answer.status !== 200 || !isObject(body)) return { status: answer.status }
    // What is new has new ids: whether a resource is new or was there is what counts.
    return {
      status: answer.status,
      keys: Object.keys(body).sort(),
      counts: [body['InstancesCount'], body['FailedInstancesCount'], body['IsAnonymization'], body['Type']],
      patient: body['PatientID'],
      isOld: body['ID'] === studyId || series.includes(body['ID']) || body['ID'] === patient,
      resources: Array.isArray(body['Resources']) ? body['Resources'].map(each => each.Type) : undefined,
    }
  }
  const requests: [string, unknown][] = [
    [`/studies/${studyId}/modify`, { Remove: ['StudyInstanceUID'], Force: true }],
    [`/studies/${studyId}/modify`, { Replace: { PatientID: 'B' }, Force: true }],
    [`/studies/${studyId}/modify`, { Replace: { PatientID: 'B' } }],
    [`/studies/${studyId}/modify`, { Priority: 'a' }],
    [`/series/${series[0]}/modify`, { Replace: { StudyInstanceUID: '1.2.9' }, Force: true }],
    [`/series/${series[0]}/modify`, { Replace: { SeriesDescription: 'x' } }],
    [`/patients/${patient}/modify`, {}],
    [`/patients/${patient}/modify`, { Replace: { PatientID: 'B' } }],
    ['/tools/bulk-modify', { Resources: ['nope'] }],
    ['/tools/bulk-modify', {}],
    ['/tools/bulk-modify', { Resources: [], Level: 'X' }],
    ['/tools/bulk-modify', { Resources: [] }],
    ['/tools/bulk-modify', { Resources: [series[1]], Level: 'Series' }],
    ['/studies/nope/modify', {}],
    [`/patients/${patient}/modify`, { Replace: { PatientID: 'B', PatientName: 'TEST^B' }, Force: true }],
    [`/studies/${studyId}/modify`, { Replace: { StudyInstanceUID: '1.2.77' }, Force: true, Permissive: true }],
  ]
  for (const [url, body] of requests) {
    const [ours, theirs] = await Promise.all([app, orthanc].map(each => each.bytes('POST', url, body)))
    assert.ok(ours && theirs)
    assert.deepEqual(shape(ours), shape(theirs), `${url} ${JSON.stringify(body)}: ${ours.bytes}`)
  }

  // The last one: what it made says what it was made of.
  const lineage = await Promise.all(
    [app, orthanc].map(async each => {
      const json = async (url: string) => JSON.parse((await each.bytes('GET', url)).bytes.toString())
      const made = (await json('/studies?expand')).find(
        (one: { MainDicomTags: { StudyInstanceUID: string } }) => one.MainDicomTags.StudyInstanceUID === '1.2.77',
      )
      const from = async (url: string) => {
        const { ModifiedFrom } = await json(`${url}/metadata?expand`)
        assert.equal((await json(url)).ModifiedFrom, ModifiedFrom)
        return ModifiedFrom
      }
      const inner = await json(`/studies/${made.ID}/instances`)
      const [instances, series] = [inner, await json(`/studies/${made.ID}/series`)].map(list =>
        Promise.all(
          list.map((one: { Path?: string; ID: string; Type: string }) =>
            from(`/${one.Type === 'Series' ? 'series' : 'instances'}/${one.ID}`),
          ),
        ),
      )
      // Earlier requests have added to the study, under ids of their own on each side.
      const common = (ids: readonly string[] = []) =>
        ids.filter(id => seriesIds.includes(id) || uploaded.includes(id)).sort()
      return [await from(`/studies/${made.ID}`), common(await series), common(await instances)]
    }),
  )
  assert.deepEqual(lineage[0], lineage[1])
  assert.deepEqual(lineage[0]?.[2], uploaded.toSorted())
})

test('what belongs together keeps together, and a job that runs again makes the same', async t => {
  const app = await modifyApp(t)
  for (const file of files) await app.upload(file)
  const { body: studies } = await app.ask('GET', '/studies')
  assert.ok(Array.isArray(studies))

  const job = idOf(
    (
      await app.ask('POST', `/studies/${studies[0]}/modify`, {
        Replace: { StudyDescription: 'Head' },
        Asynchronous: true,
        Priority: 2,
      })
    ).body,
  )
  const ended = await app.jobs.ended(job)

  assert.equal(ended.state, 'success', ended.error ?? '')
  assert.equal(ended.content['InstancesCount'], 3)
  const made = await app.ask('GET', `/studies/${ended.content['ID']}`)
  assert.ok(isObject(made.body) && Array.isArray(made.body['Series']))
  assert.equal(made.body['Series'].length, 2)
  assert.ok(isObject(made.body['MainDicomTags']))
  assert.equal(made.body['MainDicomTags']['StudyDescription'], 'Head')
  const { rows } = await app.db.pool.query(
    `select payload from audit_events where payload like '%"reason":"modification"%'`,
  )
  assert.equal(rows.length, 1)
  await app.db.pool.query("update background_jobs set state = 'failure' where id = $1", [job])
  assert.equal((await app.ask('POST', `/jobs/${job}/resubmit`)).status, 200)
  await until('it has ended', 20_000, async () => (await app.jobs.load(job))?.endedAt)
  const { body: counts } = await app.ask('GET', '/statistics')
  assert.ok(isObject(counts) && counts['CountInstances'] === 6)
})

test('text that the character set lacks makes all text UTF-8, and another set is written where it is asked for', async t => {
  const app = await modifyApp(t)
  const id = await app.upload(first)
  const modify = async (body: unknown) => (await app.bytes('POST', `/instances/${id}/modify`, body)).bytes

  const utf8 = await modify({ Replace: { StudyDescription: '山田' } })
  assert.deepEqual(
    [
      await textsOf(utf8, 'SpecificCharacterSet'),
      await textsOf(utf8, 'StudyDescription'),
      await textsOf(utf8, 'PatientName'),
    ],
    [['ISO_IR 192'], ['山田'], ['TEST^Müller']],
  )
  const other = await modify({ Replace: { SpecificCharacterSet: 'ISO_IR 101' } })
  assert.deepEqual(
    [await textsOf(other, 'SpecificCharacterSet'), await textsOf(other, 'PatientName')],
    [['ISO_IR 101'], ['TEST^Müller']],
  )
  assert.equal(
    (await app.bytes('POST', `/instances/${id}/modify`, { Replace: { SpecificCharacterSet: 'ISO_IR 144' } })).status,
    400,
  )
})

test('private elements go on request at every depth, and new ones come with their creator', async t => {
  const app = await modifyApp(t)
  const id = await app.upload(first)
  const modify = async (body: unknown) => await app.bytes('POST', `/instances/${id}/modify`, body)

  const without = (await read((await modify({ RemovePrivateTags: true })).bytes)).dataset
  assert.equal(findElement(without, 0x00090010), undefined)
  assert.equal(itemsOf(without, requested).length, 2)
  assert.ok(itemsOf(without, requested).every(item => !findElement(item, 0x00110010)))
  const added = (await read((await modify({ Replace: { '0013,1001': 'x' }, PrivateCreator: 'SITE' })).bytes)).dataset
  assert.deepEqual(stringsOf(added, 0x00130010), ['SITE'])
  assert.equal((await modify({ Replace: { '0009,1002': 'x' }, PrivateCreator: 'SITE' })).status, 400)
  assert.equal((await modify({ Replace: { PixelData: 'x' } })).status, 400)
  assert.deepEqual(numbersOf(added, 0x00280010), [64])
})

test('without KeepSource the sources go when all were made, and none goes when one was not', {
  skip: missingOrthanc,
}, async t => {
  const [app, orthanc] = [await modifyApp(t), await orthancWith(t, files)]
  for (const file of files) await app.upload(file)
  const { body: studies } = await app.ask('GET', '/studies')
  assert.ok(Array.isArray(studies))
  const counts = async () => {
    const answers = await Promise.all([app, orthanc].map(each => each.bytes('GET', '/statistics')))
    return answers.map(({ bytes }) => {
      const body: unknown = JSON.parse(bytes.toString())
      assert.ok(isObject(body))
      return [body['CountPatients'], body['CountStudies'], body['CountSeries'], body['CountInstances']].join()
    })
  }
  const url = `/studies/${studies[0]}/modify`

  const failing = { Replace: { SOPInstanceUID: '1.2.3.4' }, KeepSource: false, Force: true }
  assert.equal((await app.ask('POST', url, failing)).status, 409)
  const { body: left } = await app.ask('GET', '/studies')
  assert.ok(Array.isArray(left) && left.includes(studies[0]) && left.length === 2)
  await app.ask('DELETE', `/studies/${left.find(each => each !== studies[0])}`)
  await Promise.all([app, orthanc].map(each => each.bytes('POST', url, { KeepSource: false, Replace: {} })))
  const [ours, theirs] = await counts()
  assert.equal(ours, theirs)
  assert.equal((await app.bytes('GET', `/studies/${studies[0]}`)).status, 404)

  // Where the identifiers stay and nothing changes, what came out is what went in.
  const { body: now } = await app.ask('GET', '/studies')
  assert.ok(Array.isArray(now))
  const body = { Keep: ['SOPInstanceUID', 'SeriesInstanceUID', 'StudyInstanceUID'], Force: true, KeepSource: false }
  const kept = await app.ask('POST', `/studies/${now[0]}/modify`, body)
  assert.equal(kept.status, 200)
  assert.equal((await counts())[0], ours)
})
