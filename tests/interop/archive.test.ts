/** From a modality through a real gateway process to Orthanc as the hospital's archive, and its API for commitment. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { planStudy } from '../crash/modality.ts'
import { missingOrthanc, orthancAe, startOrthanc } from '../support/orthanc.ts'
import { prepareProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'

const policy = {
  format: 'hanse-policy-1',
  destinations: { pacs: { modality: 'PACS' } },
  rules: [
    {
      id: 'on',
      when: { always: true },
      send: {
        to: ['pacs'],
        purpose: 'treatment',
        profile: 'as-is',
        archive: { commitment: true, count: true },
      },
    },
  ],
}

interface Listed {
  readonly transfers: readonly {
    readonly id: string
    readonly state: string
    readonly safeIn: string | null
    readonly bytesDone: number
    readonly bytesTotal: number
    readonly errorCode: string | null
  }[]
}

test('a study reaches the archive although that is killed in the middle, and is archived when it has committed', {
  skip: missingOrthanc,
}, async t => {
  const gateway = await prepareProcessGateway(t, 'archive', { HANSE_STABLE_AGE_MS: '1000' })
  const orthanc = await startOrthanc(t, { hanse: ['HANSE', '127.0.0.1', gateway.ports.dicom] })
  await gateway.start()
  const registered = { aeTitle: orthancAe, host: '127.0.0.1', port: orthanc.port }
  await gateway.api('PUT', '/api/v1/modalities/PACS', registered)
  await gateway.api('PUT', '/api/v1/policy', policy)
  const study = planStudy(1, 80, 256)
  const transfer = async () => (await gateway.api<Listed>('GET', '/api/v1/transfers')).transfers[0]

  for (const exposure of study.exposures) {
    const answer = await fetch(`${gateway.url}/instances`, {
      method: 'POST',
      body: Buffer.from(exposure.build().bytes),
    })
    assert.equal(answer.status, 200)
  }
  await until('some of it is there', 120_000, async () => ((await transfer())?.bytesDone ?? 0) > 0)
  await orthanc.kill()
  const before = await until('the gateway waits for the archive', 120_000, async () => {
    const now = await transfer()
    return (now?.errorCode === 'PEER_UNREACHABLE' || now?.state === 'archived') && now
  })
  await orthanc.start()
  const after = await until('it is archived', 180_000, async () => {
    const now = await transfer()
    return now?.state === 'archived' && now
  })

  assert.equal(after.safeIn, 'archive')
  if (before.state !== 'archived') assert.equal(before.safeIn, 'gateway')
  const there = await orthanc.call('GET', '/instances')
  assert.ok(Array.isArray(there))
  assert.equal(there.length, study.exposures.length)

  // The same through the routes that Orthanc's clients know.
  const studies: unknown = await (await fetch(`${gateway.url}/studies`)).json()
  assert.ok(Array.isArray(studies))
  const ask = await fetch(`${gateway.url}/modalities/PACS/storage-commitment`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ Resources: studies }),
  })
  const asked: unknown = await ask.json()
  assert.ok(isObject(asked))
  const report = await until('the archive answers', 120_000, async () => {
    const now: unknown = await (await fetch(`${gateway.url}${String(asked['Path'])}`)).json()
    return isObject(now) && now['Status'] !== 'Pending' && now
  })
  assert.deepEqual([report['Status'], report['RemoteAET'], report['Failures']], ['Success', orthancAe, []])
  const remove = await fetch(`${gateway.url}${String(asked['Path'])}/remove`, { method: 'POST' })
  assert.equal(remove.status, 200)
  assert.deepEqual(await (await fetch(`${gateway.url}/instances`)).json(), [])
})
