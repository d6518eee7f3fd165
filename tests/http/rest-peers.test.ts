/** Orthanc's `/peers`, beside a real Orthanc that has the same peer. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { buildInstance } from '../support/dicom-builder.ts'
import { missingOrthanc, startOrthanc } from '../support/orthanc.ts'
import { startProcessGateway } from '../support/process-gateway.ts'

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

/** `Zone` is ours; of a peer in a job Orthanc tells the headers with their values, which are secrets. */
function comparable(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.fromEntries(
    Object.entries(value)
      .filter(([key]) => !['Zone', 'ID', 'Path', 'Peer'].includes(key))
      .map(([key, inner]) => [key, comparable(inner)]),
  )
}

test('servers that are called by REST are registered and sent to as Orthanc does', {
  skip: missingOrthanc,
}, async t => {
  const far = await startOrthanc(t, {})
  const reference = await startOrthanc(t, {})
  const gateway = await startProcessGateway(t, 'peers')
  const same = async (method: string, path: string, body?: unknown): Promise<unknown> => {
    const [ours, theirs] = [await call(gateway.url, method, path, body), await call(reference.url, method, path, body)]
    const status = theirs.status === 500 ? 502 : theirs.status
    assert.equal(ours.status, status, `${method} ${path}: ${JSON.stringify(ours.body)}`)
    if (status === 200) assert.deepEqual(comparable(ours.body), comparable(theirs.body), `${method} ${path}`)
    return ours.body
  }
  const inside = {
    Url: far.url,
    Username: 'u',
    Password: 'top secret',
    HttpHeaders: { 'X-Key': 'hidden' },
    Timeout: 20,
  }
  const instances = [1, 2].map(seed => buildInstance({ seed, studyInstanceUid: '1.2.3', patientId: 'TEST-1' }))
  for (const { bytes } of instances) await same('POST', '/instances', bytes)
  const [study] = Object(await same('GET', '/studies'))

  await same('PUT', '/peers/far', [`${far.url}/`, 'u', 'top secret'])
  await same('GET', '/peers')
  await same('GET', '/peers/far')
  await same('GET', '/peers/far/configuration')
  await same('PUT', '/peers/far', { ...inside, Zone: 'inside' })
  await same('GET', '/peers?expand')
  await same('GET', '/peers/far/system')
  for (const body of [{}, { Url: far.url, HttpHeaders: ['a'] }, []]) await same('PUT', '/peers/bad', body)
  for (const path of ['/peers/none', '/peers/none/configuration', '/peers/none/system']) await same('GET', path)
  await same('DELETE', '/peers/none')

  await same('POST', '/peers/far/store', study)
  const squeezed = await call(gateway.url, 'POST', '/peers/far/store', { Resources: [study], Compress: true })
  assert.deepEqual([squeezed.status, Object(squeezed.body).FailedInstancesCount], [200, 0])
  const plainBytes = instances.reduce((total, { bytes }) => total + bytes.length, 0)
  assert.ok(Number(Object(squeezed.body).Size) < plainBytes, 'its size is what was sent')
  assert.equal(Object(await far.call('GET', '/instances')).length, 2)
  for (const id of Object(await far.call('GET', '/studies'))) await far.call('DELETE', `/studies/${id}`)
  const jpegLossless = '1.2.840.10008.1.2.4.70'
  const smaller = await call(gateway.url, 'POST', '/peers/far/store', { Resources: [study], Transcode: jpegLossless })
  assert.deepEqual([smaller.status, Object(smaller.body).Transcode], [200, jpegLossless])
  const there = Object(await far.call('GET', '/instances'))
  assert.equal(there.length, 2)
  for (const id of there)
    assert.equal(await (await fetch(`${far.url}/instances/${id}/metadata/TransferSyntax`)).text(), jpegLossless)
  for (const Transcode of ['1.2.3', 5]) await same('POST', '/peers/far/store', { Resources: [study], Transcode })
  const loose = buildInstance({ seed: 3 }).bytes
  assert.equal((await call(gateway.url, 'POST', '/peers/far/store-straight', loose)).status, 200)
  await same('POST', '/peers/far/store-straight', loose)
  assert.equal(Object(await far.call('GET', '/instances')).length, 3)
  await same('PUT', '/peers/gone', { Url: 'http://127.0.0.1:9/', Zone: 'inside' })
  await same('POST', '/peers/gone/store', study)
  await same('GET', '/peers/gone/system')

  // Outside is what nobody has said to be inside: only a transfer goes there, by the policy.
  for (const id of Object(await far.call('GET', '/studies'))) await far.call('DELETE', `/studies/${id}`)
  await gateway.api('PUT', '/peers/far', inside)
  assert.equal((await call(gateway.url, 'POST', '/peers/far/store', study)).status, 403)
  assert.equal(
    (await call(gateway.url, 'POST', '/peers/far/store-straight', buildInstance({ seed: 4 }).bytes)).status,
    403,
  )
  assert.equal(Object(await far.call('GET', '/instances')).length, 0)
  const destinations = { clinic: { modality: 'peer:far' } }
  await gateway.api('PUT', '/api/v1/policy', { format: 'hanse-policy-1', destinations, rules: [] })
  const sent = await call(gateway.url, 'POST', '/peers/far/store', study)
  assert.equal(sent.status, 200, JSON.stringify(sent.body))
  const { transfers } = Object(await gateway.api('GET', '/api/v1/transfers'))
  assert.deepEqual([transfers.length, transfers[0].state, transfers[0].destination], [1, 'delivered', 'clinic'])
  assert.equal(Object(await far.call('GET', '/instances')).length, 2)

  assert.doesNotMatch(gateway.output(), /top secret|hidden/)
  const admin = await gateway.admin()
  try {
    const { rows } = await admin.query("select value::text as text from settings where name = 'rest-peers'")
    assert.match(rows[0].text, /sealed/)
    assert.doesNotMatch(rows[0].text, /top secret|hidden/)
  } finally {
    await admin.end()
  }
})
