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
    patientId: 'TEST-1',
    instanceNumber: instance,
  }).bytes
const files = [file(1, 1, 1), file(1, 1, 2), file(1, 2, 1), file(2, 1, 1)]

/** What differs by design: times, what only one of them has, and details of how the bytes came. */
function comparable(raw: unknown): unknown {
  if (Array.isArray(raw)) return raw.map(comparable)
  if (!isObject(raw)) return raw
  const {
    LastUpdate: _,
    FileUuid: __,
    IsStable: ___,
    Labels: ____,
    IsProtected: _____,
    Metadata: metadata,
    ...rest
  } = raw
  const kept = isObject(metadata)
    ? Object.fromEntries(
        Object.entries(metadata).filter(([name]) => /^(SopClassUid|TransferSyntax|IndexInSeries)$/.test(name)),
      )
    : metadata
  return { ...rest, ...(metadata !== undefined && { Metadata: kept }) }
}

test('resources are described and deleted together as Orthanc does it', { skip: missingOrthanc }, async t => {
  const [app, orthanc] = [await modifyApp(t), await orthancWith(t, files)]
  const instances = []
  for (const each of files) instances.push(await app.upload(each))
  const { body } = await app.ask('GET', '/studies?expand')
  assert.ok(Array.isArray(body))
  const studies = body.toSorted((one, other) => one.Series.length - other.Series.length).map(study => study.ID)
  const byId = (one: { ID: string }, other: { ID: string }) => (one.ID < other.ID ? -1 : 1)
  const ask = async (path: string, asked: unknown) => {
    const answers = await Promise.all([app, orthanc].map(each => each.bytes('POST', path, asked)))
    return answers.map(({ status, bytes }) => {
      const text = bytes.toString()
      const content: unknown = status === 200 && text !== '' ? JSON.parse(text) : undefined
      return { status, content: Array.isArray(content) ? comparable(content.toSorted(byId)) : content }
    })
  }

  for (const asked of [
    {},
    { Resources: 'x' },
    { Resources: ['nope'] },
    { Resources: studies },
    { Resources: [instances[3], studies[1]], Metadata: false },
    { Resources: studies, Level: 'Instance' },
    { Resources: [instances[0], instances[1], studies[0]], Level: 'Patient', Short: true },
    { Resources: [studies[1]], Level: 'Series', Full: true },
    { Resources: studies, Level: 'Page' },
  ]) {
    const [ours, theirs] = await ask('/tools/bulk-content', asked)
    assert.deepEqual(ours, theirs, JSON.stringify(asked))
  }
  for (const asked of [{}, { Resources: ['nope', instances[3], studies[0]] }, { Resources: [instances[0]] }]) {
    const [ours, theirs] = await ask('/tools/bulk-delete', asked)
    assert.equal(ours?.status, theirs?.status, JSON.stringify(asked))
    const counts = await Promise.all([app, orthanc].map(each => each.bytes('GET', '/statistics')))
    const [a, b] = counts.map(({ bytes }) => JSON.parse(bytes.toString()))
    for (const key of ['CountPatients', 'CountStudies', 'CountSeries', 'CountInstances'])
      assert.equal(a[key], b[key], key)
  }
})
