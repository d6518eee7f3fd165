import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { missingOrthanc } from '../support/orthanc.ts'
import { modifyApp, orthancWith } from './modify-app.ts'

const file = (study: number, series: number, instance: number) =>
  buildInstance({
    seed: study * 100 + series * 10 + instance,
    studyInstanceUid: `1.2.${study}`,
    seriesInstanceUid: `1.2.${study}.${series}`,
    patientId: `TEST-${study}`,
    patientName: `TEST^Patient ${study}`,
    instanceNumber: instance,
    extra: [
      { tag: 0x00081030, value: `Study ${study}` },
      { tag: 0x0008103e, value: `Series ${series}` },
      ...(study === 1 ? [{ tag: 0x00080050, value: 'A1' }] : [{ tag: 0x00102160, value: 'E' }]),
    ],
  }).bytes
const files = [file(1, 1, 1), file(1, 2, 1), file(2, 1, 1), file(2, 1, 2), file(2, 2, 1)]

type Side = Awaited<ReturnType<typeof modifyApp>> | Awaited<ReturnType<typeof orthancWith>>
const json = async (side: Side, url: string): Promise<unknown> =>
  JSON.parse((await side.bytes('GET', url)).bytes.toString())

/** The whole store without what is made up: studies with their tags, series and numbers of instances. */
async function storeOf(side: Side): Promise<string[]> {
  const out = []
  const studies = await json(side, '/studies?expand')
  assert.ok(Array.isArray(studies))
  for (const study of studies) {
    const { StudyInstanceUID: uid, ...tags } = study.MainDicomTags
    const series = []
    for (const id of study.Series) {
      const one = await json(side, `/series/${id}`)
      assert.ok(isObject(one) && isObject(one['MainDicomTags']) && Array.isArray(one['Instances']))
      series.push(`${one['MainDicomTags']['SeriesDescription']} ${one['Instances'].length}`)
    }
    const isOld = /^1\.2\.\d$/.test(uid)
    out.push(
      JSON.stringify({ tags, patient: study.PatientMainDicomTags, series: series.sort(), uid: isOld ? uid : 'new' }),
    )
  }
  return out.sort()
}

test('studies are merged and split as Orthanc does it', { skip: missingOrthanc }, async t => {
  const [app, orthanc] = [await modifyApp(t), await orthancWith(t, files)]
  const instances = []
  for (const each of files) instances.push(await app.upload(each))
  const studies = await json(app, '/studies?expand')
  assert.ok(Array.isArray(studies))
  const [one, two] = [1, 2].map(number => studies.find(each => each.MainDicomTags.StudyInstanceUID === `1.2.${number}`))
  const [oneSeries, twoSeries] = [one.Series, two.Series]
  const shape = ({ status, bytes }: { status: number; bytes: Buffer }) => {
    const body: unknown = JSON.parse(bytes.toString())
    if (status !== 200 || !isObject(body)) return { status }
    const { TargetStudy: target, TargetStudyUID: uid, ...rest } = body
    return { status, rest, isOld: target === one.ID || target === two.ID, hasUid: uid !== undefined }
  }
  const requests: [string, unknown][] = [
    [`/studies/${one.ID}/merge`, {}],
    [`/studies/${one.ID}/merge`, { Resources: ['nope'] }],
    [`/studies/${one.ID}/merge`, { Resources: [one.ID] }],
    [`/studies/${one.ID}/merge`, { Resources: [oneSeries[0]] }],
    ['/studies/nope/merge', { Resources: [two.ID] }],
    [`/studies/${one.ID}/merge`, { Resources: [] }],
    [`/studies/${one.ID}/split`, {}],
    [`/studies/${one.ID}/split`, { Series: 'x' }],
    [`/studies/${one.ID}/split`, { Series: ['nope'] }],
    [`/studies/${one.ID}/split`, { Series: [twoSeries[0]] }],
    ['/studies/nope/split', { Series: [oneSeries[0]] }],
    [`/studies/${one.ID}/split`, { Series: [oneSeries[0]], Replace: { SeriesDescription: 'x' } }],
    [`/studies/${one.ID}/split`, { Series: [oneSeries[0]], Remove: ['StudyInstanceUID'] }],
    [`/studies/${one.ID}/split`, { Series: [oneSeries[0]], KeepSource: true, Replace: { PatientName: 'TEST^Split' } }],
    [
      `/studies/${two.ID}/split`,
      { Instances: [instances[3]], Replace: { PatientID: 'TEST-3' }, Remove: ['StudyDescription'] },
    ],
    [`/studies/${one.ID}/merge`, { Resources: [twoSeries[1]], KeepSource: true }],
    [`/studies/${one.ID}/merge`, { Resources: [two.ID] }],
  ]

  for (const [url, body] of requests) {
    const [ours, theirs] = await Promise.all([app, orthanc].map(each => each.bytes('POST', url, body)))
    assert.ok(ours && theirs)
    assert.deepEqual(shape(ours), shape(theirs), `${url} ${JSON.stringify(body)} ${ours.bytes}`)
    assert.deepEqual(await storeOf(app), await storeOf(orthanc), `${url} ${JSON.stringify(body)}`)
  }
})
