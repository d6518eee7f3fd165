/** STOW-RS over a real store. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { stringOf } from '../../gateway/dicom/dataset.ts'
import { type DicomJson, toJson } from '../../gateway/dicom/json.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { toXml } from '../../gateway/dicom/xml.ts'
import { openCorpus } from '../support/corpus.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { multipartRequest } from './multipart-body.ts'
import { type WebApp, webApp } from './web-app.ts'

const dicom = 'application/dicom'
const part = ({ bytes }: { readonly bytes: Uint8Array }) => ({ type: dicom, bytes })

interface Report {
  readonly status: number
  readonly stored: readonly string[]
  /** SOP Instance UID, or '' where it is not known, and reason. */
  readonly failed: readonly (readonly [string, unknown])[]
  readonly warned: readonly string[]
  readonly url: unknown
}

async function store(web: WebApp, path: string, init: RequestInit): Promise<Report> {
  const answer = await web.call(path, init)
  const dataset: unknown = await answer.json()
  assert.equal(answer.headers.get('content-type'), 'application/dicom+json', JSON.stringify(dataset))
  const items = (tag: string): Record<string, unknown>[] => {
    const values: unknown = Object(Object(dataset)[tag]).Value
    return Array.isArray(values) ? values.filter(isObject) : []
  }
  const first = (item: unknown, tag: string): unknown => Object(Object(Object(item)[tag]).Value)[0]
  const uid = (item: unknown): string => String(first(item, '00081155') ?? '')
  return {
    status: answer.status,
    stored: items('00081199').map(uid),
    failed: [...items('00081198'), ...items('0008119A')].map(item => [uid(item), first(item, '00081197')] as const),
    warned: items('00081199')
      .filter(item => first(item, '00081196') !== undefined)
      .map(uid),
    url: first(dataset, '00081190'),
  }
}

const ids = { patientId: 'P1', studyInstanceUid: '1.2.3.1', seriesInstanceUid: '1.2.3.1.0' } as const
const instance = (number: number, options: Parameters<typeof buildInstance>[0] = {}) =>
  buildInstance({ ...ids, seed: number, sopInstanceUid: `1.2.3.1.0.${number}`, ...options })

test('instances are stored as they are, and the answer names each of them', async t => {
  const web = await webApp(t)
  const [one, two] = [instance(1), instance(2)]
  const request = multipartRequest(dicom, [part(one), part(two)])
  const expected = {
    status: 200,
    stored: ['1.2.3.1.0.1', '1.2.3.1.0.2'],
    failed: [],
    warned: [],
    url: `${web.url}/studies/1.2.3.1`,
  }
  assert.deepEqual(await store(web, '/studies', request), expected)
  assert.deepEqual(await store(web, '/studies/1.2.3.1', request), expected)

  const answer = await web.call('/studies/1.2.3.1/series/1.2.3.1.0/instances/1.2.3.1.0.2', {
    headers: { accept: 'application/dicom; transfer-syntax=*' },
  })
  assert.deepEqual(Buffer.from(await answer.arrayBuffer()), Buffer.from(two.bytes))
  const single = { method: 'POST', headers: { 'content-type': dicom }, body: Buffer.from(instance(3).bytes) }
  assert.deepEqual((await store(web, '/studies', single)).stored, ['1.2.3.1.0.3'])
})

test('what is not stored is told with its reason, and what is stays', async t => {
  const web = await webApp(t)
  const other = buildInstance({ seed: 9 })
  const garbage = { type: dicom, bytes: Buffer.from('no DICOM at all') }
  const some = await store(web, '/studies/1.2.3.1', multipartRequest(dicom, [garbage, part(instance(1)), part(other)]))
  assert.deepEqual([some.status, some.stored], [202, ['1.2.3.1.0.1']])
  assert.deepEqual(some.failed, [
    [other.sopInstanceUid, 0xa900],
    ['', 0xc000],
  ])
  assert.equal((await store(web, '/studies', multipartRequest(dicom, [garbage]))).status, 409)

  const changed = instance(1, { patientName: 'Other^Name' })
  const conflict = await store(web, '/studies', multipartRequest(dicom, [part(changed)]))
  assert.deepEqual([conflict.status, conflict.failed], [409, [['1.2.3.1.0.1', 0x0111]]])
  const variant = instance(1, { transferSyntaxUid: '1.2.840.10008.1.2' })
  const warned = await store(web, '/studies', multipartRequest(dicom, [part(variant), part(instance(2))]))
  assert.deepEqual([warned.status, warned.warned, warned.stored.length], [202, ['1.2.3.1.0.1'], 2])
})

test('bodies that are no store transaction are refused', async t => {
  const web = await webApp(t)
  const send = async (type: string, body: string | Buffer, accept = '*/*'): Promise<number> => {
    const answer = await web.call('/studies', { method: 'POST', headers: { 'content-type': type, accept }, body })
    await answer.arrayBuffer()
    return answer.status
  }
  const related = 'multipart/related; type="application/dicom"; boundary=x'
  assert.equal(await send('text/plain', 'x'), 415)
  assert.equal(await send('multipart/related; type="image/png"; boundary=x', '--x--'), 415)
  assert.equal(await send('application/zip', 'x'), 415)
  assert.equal(await send(related, '--x--\r\n'), 400)
  assert.equal(await send(related, 'nothing here'), 400)
  assert.equal(await send('multipart/related; type="application/dicom"', '--x--\r\n'), 400)
  assert.equal(await send(related, '--x\r\nContent-Type: text/html\r\n\r\nx\r\n--x--\r\n'), 415)
  const cut = Buffer.concat([Buffer.from('--x\r\nContent-Type: application/dicom\r\n\r\n'), instance(1).bytes])
  assert.equal(await send(related, cut), 400)
  assert.equal(await send('application/dicom+json', '[{"00100010":5}]'), 400)
  assert.equal(await send('application/dicom+json', '{'), 400)
  assert.equal(await send('application/dicom+xml', '<!DOCTYPE a [<!ENTITY b "c">]><a/>'), 400)
  assert.equal(await send(related, '--x--\r\n', 'image/png'), 406)
  assert.deepEqual(await web.json('/instances'), [])
})

test('metadata with bulk data in JSON and XML become instances of the same content', async t => {
  const web = await webApp(t)
  const long = Buffer.alloc(200_001, 7)
  for (const [number, type] of [
    [1, 'application/dicom+json'],
    [2, 'application/dicom+xml'],
  ] as const) {
    const built = instance(number, { patientName: 'Müller^Ä', extra: [{ tag: 0x00420011, vr: 'OB', value: long }] })
    const { dataset } = await readPart10(bufferSource(built.bytes), { maxValueBytes: 1e9 })
    const bulk = new Map<string, Uint8Array>()
    const json = toJson(dataset, {
      decimals: 'text',
      bulkDataUri: ({ tag, value }) => {
        bulk.set(`urn:bulk:${tag}`, value ?? new Uint8Array())
        return `urn:bulk:${tag}`
      },
    })
    const metadata = type === 'application/dicom+xml' ? toXml(json) : JSON.stringify([json])
    const request = multipartRequest(type, [
      { type, bytes: Buffer.from(metadata) },
      ...[...bulk].map(([uri, bytes]) => ({
        type: 'application/octet-stream',
        bytes,
        headers: { 'Content-Location': uri },
      })),
    ])
    const report = await store(web, '/studies', request)
    assert.deepEqual([report.status, report.stored], [200, [built.sopInstanceUid]], JSON.stringify(report))
    const answer = await web.call(`/studies/1.2.3.1/series/1.2.3.1.0/instances/${built.sopInstanceUid}`, {
      headers: { accept: 'application/dicom; transfer-syntax=*' },
    })
    const stored = await readPart10(bufferSource(Buffer.from(await answer.arrayBuffer())), { maxValueBytes: 1e9 })
    assert.deepEqual(withoutCharset(toJson(stored.dataset)), withoutCharset(toJson(dataset)))
  }

  // A compressed frame in its transfer syntax becomes a fragment.
  const { dataset } = await readPart10(bufferSource(instance(3, { rows: 4, cols: 4 }).bytes))
  const json = { ...toJson(dataset), '7FE00010': { vr: 'OB', BulkDataURI: 'frame' } }
  const request = multipartRequest('application/dicom+json', [
    { type: 'application/dicom+json', bytes: Buffer.from(JSON.stringify([json])) },
    {
      type: 'image/jls; transfer-syntax=1.2.840.10008.1.2.4.80',
      bytes: Buffer.from('frame bytes'),
      headers: { 'Content-Location': 'frame' },
    },
  ])
  assert.equal((await store(web, '/studies', request)).status, 200)
  const frame = await web.call('/studies/1.2.3.1/series/1.2.3.1.0/instances/1.2.3.1.0.3/frames/1', {
    headers: { accept: 'image/jls' },
  })
  assert.equal(await frame.text(), 'frame bytes\0')

  const missing = multipartRequest('application/dicom+json', [
    { type: 'application/dicom+json', bytes: Buffer.from(JSON.stringify([json])) },
  ])
  assert.deepEqual((await store(web, '/studies', missing)).failed, [['1.2.3.1.0.3', 0xc000]])
})

test('studies, series and instances are deleted', async t => {
  const web = await webApp(t)
  const parts = [1, 2, 3].map(number => part(instance(number, { seriesInstanceUid: `1.2.3.1.${number % 2}` })))
  await store(web, '/studies', multipartRequest(dicom, parts))
  const remove = async (path: string): Promise<number> => (await web.call(path, { method: 'DELETE' })).status
  const left = async (): Promise<number> => Number(Object(await web.json('/instances')).length)
  assert.equal(await remove('/studies/1.2.3.1/series/1.2.3.1.0/instances/1.2.3.1.0.1'), 404)
  assert.equal(await remove('/studies/1.2.3.1/series/1.2.3.1.1/instances/1.2.3.1.0.1'), 204)
  assert.equal(await left(), 2)
  assert.equal(await remove('/studies/1.2.3.1/series/1.2.3.1.0'), 204)
  assert.equal(await left(), 1)
  assert.equal(await remove('/studies/1.2.3.1'), 204)
  assert.equal(await remove('/studies/1.2.3.1'), 404)
})

test('the service tells what it can do', async t => {
  const web = await webApp(t)
  const ask = (accept: string): Promise<Response> => web.call('/', { method: 'OPTIONS', headers: { accept } })
  const document: unknown = await (await ask('*/*')).json()
  const { base, resource } = Object(document).application.resources
  assert.equal(base, web.url)
  const frames = '/studies/{study}/series/{series}/instances/{instance}/frames/{frames}'
  assert.ok(resource.some((each: unknown) => Object(each).path === frames))
  const studies = resource.find((each: unknown) => Object(each).path === '/studies')
  assert.deepEqual(
    studies.method.map((method: unknown) => Object(method).name),
    ['GET', 'POST'],
  )
  assert.match(await (await ask('application/vnd.sun.wadl+xml')).text(), /<resource path="\/studies">/)
  assert.equal((await ask('image/png')).status, 406)
})

test('what DICOMweb takes and gives is the collection, byte for byte', async t => {
  const files = openCorpus(t)
  if (!files) return
  const web = await webApp(t)
  const seen = new Set<string>()
  const few = files.filter(({ isMalformed }, index) => !isMalformed && index % 25 === 0)
  for (const file of few) {
    const bytes = await file.bytes()
    if (bytes.length > 4_000_000) continue
    const report = await store(web, '/studies', multipartRequest(dicom, [{ type: dicom, bytes }]))
    const [uid] = report.stored
    if (report.status !== 200 || uid === undefined || seen.has(uid)) continue
    seen.add(uid)
    const { dataset, preamble } = await readPart10(bufferSource(bytes))
    const path = [stringOf(dataset, 0x0020000d), stringOf(dataset, 0x0020000e), stringOf(dataset, 0x00080018)]
    if (path.includes(undefined) || preamble.length === 0) continue
    const answer = await web.call(`/studies/${path[0]}/series/${path[1]}/instances/${path[2]}`, {
      headers: { accept: 'application/dicom; transfer-syntax=*' },
    })
    assert.ok(Buffer.from(await answer.arrayBuffer()).equals(bytes), file.name)
  }
  assert.ok(seen.size > 15, `${seen.size}`)
})

function withoutCharset({ '00080005': _, ...rest }: DicomJson): DicomJson {
  return rest
}
