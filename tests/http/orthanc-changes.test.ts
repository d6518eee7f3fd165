import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { recordChanges } from '../../gateway/store/changes.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { missingOrthanc } from '../support/orthanc.ts'
import { orthancPair } from './orthanc-pair.ts'
import { storeApp } from './store-app.ts'

/** Without the time of each change. */
function untimed(body: unknown): unknown {
  if (!isObject(body) || !Array.isArray(body['Changes'])) return body
  const changes = body['Changes'].map(change => {
    const { Date: _, ...rest } = isObject(change) ? change : {}
    return rest
  })
  return { ...body, Changes: changes }
}

test('changes are told, paged and forgotten as by Orthanc', { skip: missingOrthanc }, async t => {
  const pair = await orthancPair(t)
  const same = (query: string) => pair.same(`/changes${query}`, untimed)

  const { body } = await same('')
  for (const query of [
    '?limit=3',
    '?since=5&limit=2',
    '?last',
    '?limit=0',
    '?since=1000',
    '?since=2',
    '?limit=a',
    '?since=0',
  ]) {
    await same(query)
  }
  assert.ok(isObject(body) && Array.isArray(body['Changes']) && body['Changes'].length > 10)
  await pair.same('/exports')
  await pair.same({ method: 'DELETE', path: '/changes' })
  await same('')
  await same('?last')
  await pair.both(buildInstance({ seed: 77 }).bytes)
  await same('')
})

test('deleting answers with the nearest ancestor that is left, and takes its changes along', {
  skip: missingOrthanc,
}, async t => {
  const one = { studyInstanceUid: '1.2.3', seriesInstanceUid: '1.2.3.1', patientId: 'ONE' }
  const files = [1, 2, 3, 4].map(seed => buildInstance({ ...one, seed }).bytes)
  files.push(buildInstance({ ...one, seriesInstanceUid: '1.2.3.2', seed: 5 }).bytes)
  files.push(buildInstance({ ...one, studyInstanceUid: '1.2.4', seriesInstanceUid: '1.2.4.1', seed: 6 }).bytes)
  const pair = await orthancPair(t, { files })
  const drop = (path: string) => pair.same({ method: 'DELETE', path })
  const [first, second, , , fifth, sixth] = pair.instances
  assert.ok(first && second && fifth && sixth)

  const told = async (body: Promise<{ body: unknown }>) => {
    const { body: page } = await body
    return isObject(page) && Array.isArray(page['Changes']) ? page['Changes'].map(change => change.Path).sort() : []
  }

  await drop(`/instances/${first.ID}`)
  await drop(`/instances/${first.ID}`)
  await drop(`/instances/${sixth.ID}`)
  await drop(`/series/${fifth.ParentSeries}`)
  for (const path of ['patients', 'studies', 'series', 'instances']) await pair.same(`/${path}?expand`)
  await pair.same('/statistics')
  const asked = { method: 'GET', path: '/changes' } as const
  assert.deepEqual(await told(pair.ours(asked)), await told(pair.theirs(asked)))
  await drop(`/patients/${second.ParentPatient}`)
  await drop(`/studies/${second.ParentStudy}`)
  await pair.same('/statistics')
  assert.deepEqual(await told(pair.ours(asked)), [])
  const deletions = await pair.ours({ method: 'GET', path: '/changes?type=Deleted' })
  // Six instances, three series, two studies, one patient.
  assert.equal((await told(Promise.resolve(deletions))).length, 12)
})

test('a change that is committed later has a later position, whenever it began', async t => {
  const { db, get, upload } = await storeApp(t)
  const { promise: held, resolve: commit } = Promise.withResolvers<void>()
  const { promise: begun, resolve: begin } = Promise.withResolvers<void>()
  const slow = db.inTransaction(async tx => {
    await recordChanges(tx, [{ kind: 'UpdatedMetadata', level: 'study', orthancId: 'slow' }])
    begin()
    await held
  })
  await begun

  await upload(buildInstance({ seed: 1 }).bytes)
  const before = (await get('/changes')).body as { Changes: { Seq: number; ID: string }[]; Last: number }
  commit()
  await slow
  const after = (await get(`/changes?since=${before.Last}`)).body as typeof before

  assert.deepEqual(
    before.Changes.map(change => change.Seq),
    [1, 2, 3, 4],
  )
  assert.deepEqual(
    after.Changes.map(change => [change.Seq, change.ID]),
    [[5, 'slow']],
  )
})

test('changes are filtered by kind, and read backwards from a position', async t => {
  const { get, upload } = await storeApp(t)
  for (const seed of [1, 2, 3]) await upload(buildInstance({ seed }).bytes)
  const list = async (query: string) => {
    const { body } = await get(`/changes${query}`)
    const { Changes, Done, First, Last } = body as {
      Changes: { Seq: number }[]
      Done: boolean
      First: number
      Last: number
    }
    return { seqs: Changes.map(change => change.Seq), Done, First, Last }
  }

  assert.deepEqual(await list('?type=NewStudy'), { seqs: [3, 7, 11], Done: true, First: 3, Last: 11 })
  assert.deepEqual(await list('?type=NewStudy;NewPatient&limit=2'), { seqs: [3, 4], Done: false, First: 3, Last: 4 })
  assert.deepEqual(await list('?to=9&limit=3'), { seqs: [7, 8, 9], Done: false, First: 7, Last: 9 })
  assert.deepEqual(await list('?to=2&limit=3'), { seqs: [1, 2], Done: true, First: 1, Last: 2 })
  assert.deepEqual(await list('?since=2&to=4'), { seqs: [3, 4], Done: true, First: 3, Last: 4 })
  assert.equal((await get('/changes?type=Nonsense')).status, 400)
})
