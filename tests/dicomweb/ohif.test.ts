/** The requests that OHIF 3.13 makes, header for header, as its viewers and its slide microscope send them. */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { openCorpus } from '../support/corpus.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { webApp } from './web-app.ts'

const json = { headers: { accept: 'application/dicom+json' } }
const study = '1.2.3.1'
const series = `/studies/${study}/series/1.2.3.1.0`
const studyFields = 'limit=101&offset=0&fuzzymatching=true&includefield=00081030%2C00080060%2C00080090%2C00100030'
const slideAccept = [
  ...['80', '81'].map(syntax => `multipart/related; type="image/jls"; transfer-syntax=1.2.840.10008.1.2.4.${syntax}`),
  ...['90', '91'].map(syntax => `multipart/related; type="image/jp2"; transfer-syntax=1.2.840.10008.1.2.4.${syntax}`),
  ...['92', '93'].map(syntax => `multipart/related; type="image/jpx"; transfer-syntax=1.2.840.10008.1.2.4.${syntax}`),
  'multipart/related; type="application/octet-stream"; transfer-syntax=*',
  'multipart/related; type="image/jpeg"; transfer-syntax=1.2.840.10008.1.2.4.50',
].join(', ')

function firstValue(dataset: unknown, tag: string): unknown {
  const element = isObject(dataset) ? dataset[tag] : undefined
  const values = isObject(element) ? element['Value'] : undefined
  return Array.isArray(values) ? values[0] : undefined
}

test('OHIF lists studies, opens one, and gets its frames as they are stored', async t => {
  const web = await webApp(t)
  for (const seed of [1, 2]) {
    const uids = { studyInstanceUid: study, seriesInstanceUid: '1.2.3.1.0', sopInstanceUid: `1.2.3.1.0.${seed}` }
    await web.store(buildInstance({ ...uids, patientId: 'P1', seed }).bytes)
  }

  for (const path of [
    `/studies?${studyFields}`,
    `/studies?${studyFields}&StudyInstanceUID=${study}`,
    `/studies?00100020=P1&${studyFields}`,
    `/studies/${study}/series?includefield=00080021%2C00080031%2C0008103E%2C00200011`,
  ]) {
    const answer = await web.call(path, json)
    assert.equal(answer.status, 200, path)
    const list: unknown = await answer.json()
    assert.ok(Array.isArray(list) && list.length === 1, path)
    assert.equal(firstValue(list[0], '0020000D'), study)
  }
  const metadata: unknown = await (await web.call(`${series}/metadata`, json)).json()
  assert.ok(Array.isArray(metadata) && metadata.length === 2)
  assert.equal(firstValue(metadata[0], '00080018'), '1.2.3.1.0.1')

  const frame = await web.call(`${series}/instances/1.2.3.1.0.1/frames/1`, {
    headers: { accept: 'multipart/related; type=application/octet-stream; transfer-syntax=*' },
  })
  assert.equal(frame.status, 200)
  assert.match(frame.headers.get('content-type') ?? '', /^multipart\/related; ?type="?application\/octet-stream/)
  await frame.bytes()
  // Segmentations and structure sets are fetched whole.
  const whole = await web.call(`${series}/instances/1.2.3.1.0.1`, {
    headers: { accept: 'multipart/related; type="application/dicom"' },
  })
  assert.equal(whole.status, 200)
  await whole.bytes()
  const none = await web.call(`/studies?${studyFields}&StudyInstanceUID=9.9.9`, json)
  assert.ok(none.status === 204 || (none.status === 200 && (await none.text()) === '[]'))
})

test("OHIF's slide microscope gets tiles and colour profiles", async t => {
  const files = openCorpus(t)
  const file = files?.find(({ path }) => path.endsWith('highdicom__sm_image_numbers.dcm'))
  if (!files) return
  assert.ok(file)
  const web = await webApp(t)
  await web.store(await readFile(file.path))
  const [found] = Object.values(Object(await web.json('/instances')))
  const uids = ['0020000D', '0020000E', '00080018'].map(tag => String(firstValue(found, tag)))
  const slide = `/studies/${uids[0]}/series/${uids[1]}`
  const [metadata] = Object.values(Object(await (await web.call(`${slide}/metadata`, json)).json()))

  const tile = await web.call(`${slide}/instances/${uids[2]}/frames/1`, { headers: { accept: slideAccept } })
  assert.equal(tile.status, 200)
  assert.ok((await tile.bytes()).length > 100)
  const profile = /"(https?:[^"]*00282000)"/.exec(JSON.stringify(metadata))?.[1]
  assert.ok(profile, 'the ICC profile is bulk data')
  const bulk = await fetch(profile)
  assert.equal(bulk.status, 200)
  assert.ok((await bulk.bytes()).length > 100)
})

test('OHIF shows an encapsulated PDF in the page, by its URL alone or as bulk data', async t => {
  const web = await webApp(t)
  const pdf = Buffer.from(`%PDF-1.4\r\n${'%padding\n'.repeat(10_000)}%%EOF\n`)
  const uids = { studyInstanceUid: study, seriesInstanceUid: '1.2.3.1.0', sopInstanceUid: '1.2.3.1.0.1' }
  const built = buildInstance({
    ...{ ...uids, modality: 'OT', sopClassUid: '1.2.840.10008.5.1.4.1.1.104.1' },
    extra: [
      { tag: 0x00420011, vr: 'OB', value: pdf },
      { tag: 0x00420012, value: 'application/pdf' },
    ],
  })
  await web.store(built.bytes)

  // The browser asks, as for any page.
  const accept = 'text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8'
  const shown = await web.call(`${series}/instances/1.2.3.1.0.1/rendered`, { headers: { accept } })
  assert.equal(shown.status, 200)
  assert.equal(shown.headers.get('content-type'), 'application/pdf')
  assert.match(shown.headers.get('content-disposition') ?? '', /^inline;/)
  assert.deepEqual(Buffer.from(await shown.bytes()), pdf)
  const uri = `${web.url.replace('/dicom-web', '/wado')}?requestType=WADO&studyUID=${study}&seriesUID=1.2.3.1.0&objectUID=1.2.3.1.0.1`
  for (const contentType of ['', '&contentType=application/pdf']) {
    const document = await fetch(`${uri}${contentType}`)
    assert.equal(document.headers.get('content-type'), 'application/pdf')
    assert.deepEqual(Buffer.from(await document.bytes()), pdf)
  }
  const picture = await web.call(`${series}/instances/1.2.3.1.0.1/rendered`, { headers: { accept: 'image/png' } })
  assert.equal(picture.status, 406)

  const [metadata] = Object.values(Object(await (await web.call(`${series}/metadata`, json)).json()))
  const bulkDataUri = /"(https?:[^"]*00420011)"/.exec(JSON.stringify(metadata))?.[1]
  assert.ok(bulkDataUri)
  assert.deepEqual(Buffer.from(await (await fetch(bulkDataUri)).bytes()), pdf)
})
