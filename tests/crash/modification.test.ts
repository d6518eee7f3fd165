import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { startProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'

const count = 30

test('a modification that is killed goes on after the restart, and makes each instance once', async t => {
  const gateway = await startProcessGateway(t, 'modification')
  let study = ''
  for (let seed = 1; seed <= count; seed++) {
    const { bytes } = buildInstance({
      seed,
      studyInstanceUid: '1.2.3',
      seriesInstanceUid: '1.2.3.4',
      patientId: 'TEST-1',
    })
    const answer = await fetch(`${gateway.url}/instances`, { method: 'POST', body: Buffer.from(bytes) })
    const stored: unknown = await answer.json()
    assert.ok(isObject(stored))
    study = String(stored['ParentStudy'])
  }
  const body = { Replace: { StudyDescription: 'Modified' }, KeepSource: false, Asynchronous: true }
  const job = await gateway.api('POST', `/studies/${study}/modify`, body)
  const load = () => gateway.api('GET', String(job['Path']))
  await until('the job runs', 30_000, async () => (await load())['State'] !== 'Pending')

  await gateway.kill('SIGKILL')
  await gateway.start()

  const ended = await until('the job has ended', 90_000, async () => {
    const now = await load()
    return now['State'] === 'Success' || now['State'] === 'Failure' ? now : undefined
  })
  assert.equal(ended['State'], 'Success', JSON.stringify(ended))
  const { CountStudies, CountSeries, CountInstances } = await gateway.api('GET', '/statistics')
  assert.deepEqual([CountStudies, CountSeries, CountInstances], [1, 1, count])
})
