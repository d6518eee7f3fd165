import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { readUndeclaredAs } from '../../gateway/dicom/charset.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { missingOrthanc } from '../support/orthanc.ts'
import { orthancPair } from './orthanc-pair.ts'
import { storeApp } from './store-app.ts'

/** Tags whose values both decoders print alike; private names and binary values are each decoder's own. */
function standardTags(body: unknown): unknown {
  if (Array.isArray(body)) return body.map(standardTags)
  if (!isObject(body)) return typeof body === 'string' ? body.trim() : body
  return Object.fromEntries(
    Object.entries(body)
      .filter(
        ([key, value]) => !/^....,0000$|^...[13579bdf],|GroupLength$|Private|^Unknown/.test(key) && !isPrivate(value),
      )
      .filter(([key]) => key !== 'Name')
      // DCMTK's dictionary marks what is retired.
      .map(([key, value]) => [key.replace('RETIRED_', ''), standardTags(value)]),
  )
}

/** Without sequences: a module is read from any one instance, and those of one series refer to different ones. */
const plainTags = (body: unknown): unknown =>
  Object.fromEntries(
    Object.entries(Object(standardTags(body))).filter(
      ([, value]) => !Array.isArray(value) && !(isObject(value) && Array.isArray(value['Value'])),
    ),
  )
const isPrivate = (value: unknown): boolean => isObject(value) && /Private|^Unknown/.test(String(value['Name'] ?? ''))

test('every way between the levels, and what each level holds, is answered as Orthanc does', {
  skip: missingOrthanc,
}, async t => {
  const pair = await orthancPair(t)

  for (const { ID, ParentSeries, ParentStudy, ParentPatient } of pair.instances.filter((_, at) => at % 3 === 0)) {
    const paths = { patients: ParentPatient, studies: ParentStudy, series: ParentSeries, instances: ID }
    for (const [path, id] of Object.entries(paths)) {
      const names = [
        '',
        '?short',
        '?full',
        '/statistics',
        '/patient',
        '/study',
        '/series',
        '/studies',
        '/instances',
        '/nothing',
      ]
      for (const name of names) await pair.same(`/${path}/${id}${name}`)
      await pair.same(`/${path}/00000000-00000000-00000000-00000000-00000000`)
    }
  }
  await pair.same('/statistics', body => {
    const { TotalDiskSize: _1, TotalUncompressedSize: _2, ...rest } = isObject(body) ? body : {}
    return rest
  })
  for (const path of ['patients', 'studies', 'series', 'instances']) {
    await pair.same(`/${path}`)
    await pair.same(`/${path}?since=1&limit=2`)
    await pair.same(`/${path}?since=0&limit=3&expand`)
    await pair.same(`/${path}?limit=2`)
    await pair.same(`/${path}?since=0&limit=x`)
  }
})

test('tags, headers, modules, shared tags and raw values are those that Orthanc reads from the files', {
  skip: missingOrthanc,
}, async t => {
  const pair = await orthancPair(t)

  for (const { ID, ParentSeries, ParentStudy, ParentPatient } of pair.instances) {
    for (const form of ['', '?short', '?simplify']) {
      await pair.same(`/instances/${ID}/tags${form}`, standardTags)
      await pair.same(`/instances/${ID}/module${form}`, plainTags)
      await pair.same(`/instances/${ID}/header${form}`)
      await pair.same(`/series/${ParentSeries}/module${form}`, plainTags)
      await pair.same(`/studies/${ParentStudy}/module${form}`, plainTags)
      await pair.same(`/studies/${ParentStudy}/module-patient${form}`, plainTags)
      await pair.same(`/patients/${ParentPatient}/module${form}`, plainTags)
      // The level of the resource is not looked at.
      await pair.same(`/studies/${ParentPatient}/module-patient${form}`, plainTags)
      await pair.same(`/patients/${ParentStudy}/instances-tags${form}`, plainTags)
      await pair.same(`/patients/${ID}/module${form}`, plainTags)
      await pair.same(`/series/${ParentSeries}/shared-tags${form}`, standardTags)
      await pair.same(`/studies/${ParentStudy}/instances-tags${form}`, standardTags)
    }
    await pair.same(`/instances/${ID}/simplified-tags`, standardTags)
    const elements = (await pair.same(`/instances/${ID}/content`)).body
    assert.ok(Array.isArray(elements))
    for (const element of elements) await pair.same(`/instances/${ID}/content/${element}`)
    for (const path of [
      'PatientName',
      'PixelData/0',
      'PixelData/7',
      'ContentSequence/0',
      'ContentSequence/99',
      '0010-9999',
      'PatientID/0',
    ]) {
      await pair.same(`/instances/${ID}/content/${path}`)
    }
  }
})

test('text without a character set is read as the default encoding says, like Orthanc does', {
  skip: missingOrthanc,
}, async t => {
  const pair = await orthancPair(t, { files: [] })
  t.after(() => readUndeclaredAs('Latin1'))
  const texts = { Windows1251: 'Рентгенография', Greek: 'Διονύσιος', Latin2: 'Wałęsa', Utf8: '山田', Latin1: 'Müller' }
  for (const [seed, [encoding, expected]] of Object.entries(texts).entries()) {
    await pair.same({ method: 'PUT', path: '/tools/default-encoding', body: encoding })
    const label = { Windows1251: 'windows-1251', Greek: 'iso-8859-7', Latin2: 'iso-8859-2' }[encoding]
    const bytes = label ? encodedAs(label, expected) : Buffer.from(expected, encoding === 'Utf8' ? 'utf8' : 'latin1')
    const file = Buffer.from(buildInstance({ seed, charset: [] }).bytes)
    const description = 'Synthetic study '
    Buffer.from(bytes.toString('latin1').padEnd(description.length), 'latin1').copy(
      file,
      file.indexOf(description.trim()),
    )
    await pair.both(file)
    const { ID } = pair.instances.at(-1) ?? assert.fail()
    const { body } = await pair.same(`/instances/${ID}/study`)
    assert.match(JSON.stringify(body), new RegExp(expected))
    await pair.same(`/instances/${ID}/tags?simplify`)
  }
})

/** The bytes of a text in a single-byte encoding. */
function encodedAs(label: string, text: string): Buffer {
  const all = new TextDecoder(label).decode(Uint8Array.from({ length: 256 }, (_, i) => i))
  return Buffer.from([...text].map(character => all.indexOf(character)))
}

test('tools answer as Orthanc’s do', { skip: missingOrthanc }, async t => {
  const pair = await orthancPair(t, { files: [] })
  const put = (path: string, body: string) => pair.same({ method: 'PUT', path, body })

  await pair.same('/tools')
  for (const level of ['patient', 'study', 'series', 'instance']) {
    const { body } = await pair.ours({ method: 'GET', path: `/tools/generate-uid?level=${level}` })
    assert.match(String(body), level === 'patient' ? /^[0-9a-f-]{36}$/ : /^2\.25\.\d{20,39}$/)
  }
  await pair.same('/tools/generate-uid?level=other')
  await pair.same('/tools/now', body => String(body).length)
  await pair.same('/tools/now-local', body => String(body).length)
  await pair.same('/tools/dicom-conformance', body => typeof body)
  for (const name of [
    'default-encoding',
    'log-level',
    'log-level-dicom',
    'unknown-sop-class-accepted',
    'metrics',
    'nothing',
  ]) {
    await pair.same(`/tools/${name}`)
  }
  await put('/tools/default-encoding', 'Latin1')
  await put('/tools/default-encoding', 'nonsense')
  await put('/tools/log-level-jobs', 'verbose')
  await pair.same('/tools/log-level-jobs')
  await put('/tools/log-level-jobs', 'nonsense')
  await put('/tools/log-level', 'trace')
  await pair.same('/tools/log-level')
  await put('/tools/metrics', '1')
  await put('/tools/metrics', 'nonsense')
  await put('/tools/accepted-transfer-syntaxes', '1.2.840.10008.1.2.1')
  const all = await pair.ours({ method: 'PUT', path: '/tools/accepted-transfer-syntaxes', body: '*' })
  assert.ok(Array.isArray(all.body) && all.body.length > 20)
  // What is no media type is passed over.
  const headers = { 'content-type': 'nope' }
  await pair.same({ method: 'PUT', path: '/tools/log-level', body: 'default', headers })
  for (const body of ['', '1.2.3']) await pair.same({ method: 'POST', path: '/tools/lookup', body })
  await pair.same({ method: 'POST', path: '/tools/invalidate-tags', body: '' })
  for (const body of ['print(1)', 'function OnStoredInstance() end', "print('a') -- b"]) {
    await pair.same({ method: 'POST', path: '/tools/execute-script', body })
  }
  assert.match(
    String((await pair.same('/tools/metrics-prometheus', () => '')).body),
    /^orthanc_count_instances 0 \d+$/m,
  )
  await pair.same('/plugins/explorer.js', body => String(body).trim())
})

test('a look-up finds every level by its DICOM identifier', { skip: missingOrthanc }, async t => {
  const pair = await orthancPair(t)
  const { ParentPatient, ParentStudy, ParentSeries, ID } = pair.instances[0] ?? assert.fail()

  for (const [path, id, name] of [
    ['patients', ParentPatient, 'PatientID'],
    ['studies', ParentStudy, 'StudyInstanceUID'],
    ['series', ParentSeries, 'SeriesInstanceUID'],
    ['instances', ID, 'SOPInstanceUID'],
  ]) {
    const { body } = await pair.ours({ method: 'GET', path: `/${path}/${id}` })
    const tags = isObject(body) && isObject(body['MainDicomTags']) ? body['MainDicomTags'] : {}
    const { body: found } = await pair.same({ method: 'POST', path: '/tools/lookup', body: String(tags[name ?? '']) })
    assert.ok(Array.isArray(found) && found.length === 1)
  }
})

test('attributes are read anew from the files, at every level', async t => {
  const { app, db, get, upload } = await storeApp(t)
  const { body } = await upload(buildInstance({ seed: 1 }).bytes)
  const paths = [
    `/patients/${body['ParentPatient']}`,
    `/studies/${body['ParentStudy']}`,
    `/series/${body['ParentSeries']}`,
    `/instances/${body['ID']}`,
  ]
  const post = async (url: string) => {
    const answer = await app.inject({ method: 'POST', url, headers: { host: 'localhost' } })
    return [answer.statusCode, answer.body]
  }
  const before = await Promise.all(paths.map(async path => (await get(path)).body))

  for (const path of ['/tools', ...paths]) {
    for (const table of ['patients', 'studies', 'series', 'instances'])
      await db.pool.query(`update ${table} set attributes = '{}'`)
    assert.deepEqual(await post(`${path}/reconstruct`), [200, ''])
    assert.deepEqual(await Promise.all(paths.map(async each => (await get(each)).body)), before)
  }
  assert.equal((await post('/studies/nothing/reconstruct'))[0], 404)
})
