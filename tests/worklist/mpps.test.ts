import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { DicomJson } from '../../gateway/dicom/json.ts'
import { openIngest } from '../../gateway/services/ingest.ts'
import { openMpps } from '../../gateway/services/mpps.ts'
import { openWorklist } from '../../gateway/services/worklist.ts'
import { testBlobs } from '../support/blobs.ts'
import { testDatabase } from '../support/database.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { caller } from '../support/principals.ts'
import { worklistDocument } from './documents.ts'

const principal = caller('CT_1')

const begun = (studyUid = '2.25.4711'): DicomJson => ({
  '00080060': { vr: 'CS', Value: ['CT'] },
  '00100010': { vr: 'PN', Value: [{ Alphabetic: 'TEST^ONE', Ideographic: '試験' }] },
  '00100020': { vr: 'LO', Value: ['TEST-1'] },
  '00400241': { vr: 'AE', Value: ['CT_1'] },
  '00400244': { vr: 'DA', Value: ['20260301'] },
  '00400245': { vr: 'TM', Value: ['101700'] },
  '00400252': { vr: 'CS', Value: ['IN PROGRESS'] },
  '00400253': { vr: 'SH', Value: ['PPS1'] },
  '00400270': {
    vr: 'SQ',
    Value: [{ '0020000D': { vr: 'UI', Value: [studyUid] }, '00400009': { vr: 'SH', Value: ['S1'] } }],
  },
})

const ended = (status: string, series: DicomJson[] = [{ '0020000E': { vr: 'UI', Value: ['2.25.5'] } }]): DicomJson => ({
  '00400250': { vr: 'DA', Value: ['20260301'] },
  '00400251': { vr: 'TM', Value: ['103000'] },
  '00400252': { vr: 'CS', Value: [status] },
  '00400340': { vr: 'SQ', Value: series },
})

test('a step begins and ends once, and its scheduled step goes along', async t => {
  const db = await testDatabase(t)
  const worklist = openWorklist({ db })
  const mpps = openMpps({ db })
  const item = await worklist.put(principal, worklistDocument())
  const other = await worklist.put(principal, worklistDocument({ stepId: 'S2' }))
  const stateOf = async ({ id }: { id: string }): Promise<string> => (await worklist.get(principal, id)).state
  const step = { sopInstanceUid: '2.25.77', callingAe: 'CT_1', document: begun() }

  assert.deepEqual(await mpps.begin(principal, step), { kind: 'done' })
  assert.deepEqual(await mpps.begin(principal, step), { kind: 'duplicate' })
  assert.deepEqual([await stateOf(item), await stateOf(other)], ['started', 'scheduled'])

  assert.deepEqual(await mpps.change(principal, '2.25.78', ended('COMPLETED')), { kind: 'unknown' })
  assert.deepEqual(await mpps.change(principal, '2.25.77', { '00400254': { vr: 'LO', Value: ['Head'] } }), {
    kind: 'done',
  })
  assert.deepEqual(await mpps.change(principal, '2.25.77', { ...begun(), ...ended('COMPLETED') }), { kind: 'done' })
  assert.deepEqual([await stateOf(item), await stateOf(other)], ['completed', 'scheduled'])
  assert.deepEqual(await mpps.change(principal, '2.25.77', ended('DISCONTINUED')), { kind: 'final' })

  const found = await mpps.get(principal, '2.25.77')
  assert.deepEqual([found.state, found.callingAe], ['completed', 'CT_1'])
  assert.equal((await mpps.list(principal, { studyInstanceUid: '2.25.4711', limit: 10 })).length, 1)
  const events = await db.kysely.selectFrom('audit_events').select('payload').orderBy('id').execute()
  const kinds = events
    .map(({ payload }) => JSON.parse(payload ?? '{}'))
    .map(({ event, action }) => `${event} ${action}`)
  assert.equal(kinds.filter(kind => kind === '110111 C').length, 1)
  assert.equal(kinds.filter(kind => kind === '110111 U').length, 2)
})

test('what the standard wants of a step is asked for by attribute', async t => {
  const db = await testDatabase(t)
  const mpps = openMpps({ db })
  const { '00400270': _, ...unscheduled } = begun()
  const refusal = async (document: DicomJson) => {
    const outcome = await mpps.begin(principal, { sopInstanceUid: '2.25.1', callingAe: 'CT_1', document })
    return outcome.kind === 'refused' ? [outcome.problem.kind, outcome.problem.tag] : outcome.kind
  }

  assert.deepEqual(await refusal(unscheduled), ['missing-attribute', 0x00400270])
  assert.deepEqual(await refusal({ ...begun(), ...ended('COMPLETED') }), ['invalid-value', 0x00400252])
  assert.deepEqual(await refusal({ ...begun(), '00400253': { vr: 'SH' } }), ['missing-value', 0x00400253])
  assert.deepEqual(await refusal({ ...begun(), '00400270': { vr: 'SQ', Value: [{}] } }), ['missing-value', 0x0020000d])

  assert.equal(await refusal(begun()), 'done')
  const change = async (document: DicomJson) => {
    const outcome = await mpps.change(principal, '2.25.1', document)
    return outcome.kind === 'refused' ? [outcome.problem.kind, outcome.problem.tag] : outcome.kind
  }
  assert.deepEqual(await change({ '00100020': { vr: 'LO', Value: ['TEST-2'] } }), ['invalid-value', 0x00100020])
  assert.deepEqual(await change(ended('FINISHED')), ['invalid-value', 0x00400252])
  assert.deepEqual(await change(ended('COMPLETED', [])), ['missing-value', 0x00400340])
  assert.equal(await change(ended('DISCONTINUED', [])), 'done')
})

test('a completed step ends the waiting of a study when all that it names is here', async t => {
  const db = await testDatabase(t)
  const later = new Date(Date.now() + 3_600_000)
  const ingest = openIngest({ db, blobs: await testBlobs(t), dueAt: () => later })
  t.after(() => ingest.close())
  const instances = [1, 2].map(seed =>
    buildInstance({ seed, studyInstanceUid: '2.25.90', seriesInstanceUid: '2.25.91', patientId: 'TEST-1' }),
  )
  for (const instance of instances) {
    const staged = await ingest.stage()
    await staged.append([instance.bytes])
    await ingest.store(await staged.finish(), {
      kind: 'dimse',
      principal: 'CT_1',
      callingAe: 'CT_1',
      calledAe: 'HANSE',
    })
  }
  const mpps = openMpps({ db })
  const series = (uids: readonly string[]): DicomJson => ({
    '0020000E': { vr: 'UI', Value: ['2.25.91'] },
    '00081140': { vr: 'SQ', Value: uids.map(uid => ({ '00081155': { vr: 'UI', Value: [uid] } })) },
  })
  const uids = instances.map(({ sopInstanceUid }) => sopInstanceUid)
  const complete = async (sopInstanceUid: string, named: readonly string[]): Promise<boolean> => {
    await mpps.begin(principal, { sopInstanceUid, callingAe: 'CT_1', document: begun('2.25.90') })
    const outcome = await mpps.change(principal, sopInstanceUid, ended('COMPLETED', [series(named)]))
    assert.equal(outcome.kind, 'done')
    const study = await db.kysely.selectFrom('studies').select('due_at').executeTakeFirstOrThrow()
    return study.due_at !== null && study.due_at.getTime() <= Date.now() + 1000
  }

  assert.equal(await complete('2.25.1', [...uids, '2.25.999']), false)
  assert.equal(await complete('2.25.2', uids), true)
})
