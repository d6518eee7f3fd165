/** Most answers of a search, as `LimitFindResults` and `LimitFindInstances` of Orthanc. */
import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { findScu } from '../../gateway/dimse/find-scu.ts'
import { queryRetrieveSopClass } from '../../gateway/dimse/query-retrieve.ts'
import { temporaryDir } from '../support/blobs.ts'
import { buildInstance, seededUid } from '../support/dicom-builder.ts'
import { startProcessGateway } from '../support/process-gateway.ts'

test('C-FIND and /tools/find answer no more than is configured', async t => {
  const config = join(await temporaryDir(t), 'config.json')
  await writeFile(config, JSON.stringify({ orthanc: { limitFindResults: 2, limitFindInstances: 3 } }))
  const gateway = await startProcessGateway(t, 'limits', { HANSE_CONFIG: config })
  const added = await gateway.hanse('modality', 'add', 'test', '--aet', 'TEST', '--host', '127.0.0.1')
  assert.equal(added.code, 0, added.output)
  for (let seed = 1; seed <= 4; seed += 1) {
    const { bytes } = buildInstance({ seed, rows: 8, cols: 8, studyInstanceUid: seededUid('study', seed) })
    await fetch(`${gateway.url}/instances`, { method: 'POST', body: Buffer.from(bytes) })
  }
  const found = async (Level: string, more: object = {}): Promise<number> =>
    (await gateway.api<string[] & Record<string, unknown>>('POST', '/tools/find', { Level, Query: {}, ...more })).length
  assert.deepEqual([await found('Study'), await found('Instance')], [2, 3])
  assert.deepEqual([await found('Study', { Limit: 1 }), await found('Study', { Limit: 9 })], [1, 2])
  assert.equal(await found('Study', { Since: 3 }), 1)

  const target = {
    host: '127.0.0.1',
    port: gateway.ports.dicom,
    callingAe: 'TEST',
    calledAe: 'HANSE',
    timeoutMs: 30_000,
  }
  const identifier = [
    { tag: 0x00080052, value: 'STUDY' },
    { tag: 0x0020000d, value: '' },
  ]
  const answers: unknown[] = []
  const sopClassUid = queryRetrieveSopClass('study-root', 'find')
  await assert.rejects(async () => {
    for await (const answer of findScu(target, { sopClassUid, identifier })) answers.push(answer)
  }, /FE00/)
  assert.equal(answers.length, 2)
})
