import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Db } from '../../gateway/db/db.ts'
import { jsonItems, jsonText } from '../../gateway/dicom/json-read.ts'
import { type WorklistEntry, worklistEntriesFromJson } from '../../gateway/dicom/worklist-item.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { openWorklist } from '../../gateway/services/worklist.ts'
import { testDatabase } from '../support/database.ts'
import { caller } from '../support/principals.ts'
import { worklistDocument } from './documents.ts'

const principal = caller('alice')

async function entryOf(options: Parameters<typeof worklistDocument>[0]): Promise<WorklistEntry> {
  const [entry] = await worklistEntriesFromJson(worklistDocument(options), 'seed')
  assert.ok(entry)
  return entry
}

async function auditsOf(db: Db): Promise<string[]> {
  const rows = await db.kysely.selectFrom('audit_events').select('payload').orderBy('id').execute()
  return rows.map(({ payload }) => {
    const { event, action } = JSON.parse(payload ?? '{}')
    return `${event} ${action}`
  })
}

test('an item is kept, found by its keys, replaced and removed, each with its audit event', async t => {
  const db = await testDatabase(t)
  const worklist = openWorklist({ db })
  const id = '6b1f6f0e-6f0e-4c8e-9a53-1d2f3a4b5c6d'

  await worklist.put(principal, worklistDocument({ accession: 'A-1' }), id)
  await worklist.put(principal, worklistDocument({ accession: 'A-1' }), id)
  await worklist.put(principal, worklistDocument({ accession: 'A-2' }), id)
  await worklist.put(principal, worklistDocument({ stationAe: 'MR_1', modality: 'MR', date: '20260302' }))

  const page = { limit: 10 }
  const accession = async (filter: Parameters<typeof worklist.list>[1]): Promise<string[]> =>
    (await worklist.list(principal, filter, page)).items.map(item => jsonText(item.document, 0x00080050))
  assert.deepEqual(await accession({}), ['A-2', 'A-1'])
  assert.deepEqual(await accession({ stationAe: 'CT_1' }), ['A-2'])
  assert.deepEqual(await accession({ modality: 'MR', startFrom: '20260302', startTo: '20260302' }), ['A-1'])
  assert.deepEqual(await accession({ patientId: 'TEST-1', states: ['completed'] }), [])

  await worklist.remove(principal, id)
  await assert.rejects(worklist.get(principal, id), (error: unknown) => isGatewayError(error, 'NOT_FOUND'))
  assert.deepEqual(await auditsOf(db), [
    '110109 C',
    '110109 U',
    '110109 C',
    '110112 E',
    '110112 E',
    '110112 E',
    '110112 E',
    '110109 D',
  ])
})

test('a document without what modalities need is refused by the attribute, and identifiers are filled in', async t => {
  const db = await testDatabase(t)
  const worklist = openWorklist({ db })
  const { '00400100': _, ...noStep } = worklistDocument()
  const { '0020000D': __, '00401001': ___, ...bare } = worklistDocument()

  await assert.rejects(worklist.put(principal, noStep), (error: unknown) => isGatewayError(error, 'BAD_REQUEST'))
  await assert.rejects(worklist.put(principal, worklistDocument({ date: 'soon' })), /Start Date/)
  await assert.rejects(worklist.put(principal, { '00400100': { vr: 'SQ', Value: 'x' } }), /expected a list/)
  await assert.rejects(
    worklist.put(principal, { ...worklistDocument(), '00104000': { vr: 'LT', Value: ['x'.repeat(300_000)] } }),
    (error: unknown) => isGatewayError(error),
  )

  const { document } = await worklist.put(principal, bare)
  assert.match(jsonText(document, 0x0020000d), /^2\.25\.\d+$/)
  assert.match(jsonText(document, 0x00401001), /^H[0-9A-F]{15}$/)
  assert.equal(jsonText(jsonItems(document, 0x00400100)[0] ?? {}, 0x00400020), 'SCHEDULED')
})

test('orders make, change, cancel and revive their steps, all of a message or none', async t => {
  const db = await testDatabase(t)
  const worklist = openWorklist({ db })
  const states = async (): Promise<string[]> =>
    (await worklist.list(principal, {}, { limit: 10 })).items.map(item => `${item.externalKey} ${item.state}`)
  const first = { externalKey: 'O1^S1', entry: await entryOf({ stepId: 'S1', time: '0800' }) }
  const second = { externalKey: 'O1^S2', entry: await entryOf({ stepId: 'S2', time: '0900' }) }

  await worklist.apply(principal, [{ kind: 'schedule', orderKey: 'O1', entries: [first, second] }])
  assert.deepEqual(await states(), ['O1^S1 scheduled', 'O1^S2 scheduled'])

  await worklist.apply(principal, [{ kind: 'state', orderKey: 'O1', externalKey: 'O1^S2', state: 'cancelled' }])
  assert.deepEqual(await states(), ['O1^S1 scheduled', 'O1^S2 cancelled'])

  await assert.rejects(
    worklist.apply(principal, [
      { kind: 'state', orderKey: 'O1', state: 'cancelled' },
      { kind: 'state', orderKey: 'O2', state: 'cancelled' },
    ]),
    (error: unknown) => isGatewayError(error, 'NOT_FOUND'),
  )
  assert.deepEqual(await states(), ['O1^S1 scheduled', 'O1^S2 cancelled'])

  await worklist.apply(principal, [{ kind: 'schedule', orderKey: 'O1', entries: [second] }])
  assert.deepEqual(await states(), ['O1^S1 scheduled', 'O1^S2 scheduled'])
})

test('pages follow each other in the order of the schedule', async t => {
  const db = await testDatabase(t)
  const worklist = openWorklist({ db })
  for (let hour = 9; hour >= 0; hour--) await worklist.put(principal, worklistDocument({ time: `0${hour}0000` }))

  const times: string[] = []
  let after: Awaited<ReturnType<typeof worklist.list>>['next']
  do {
    const page = await worklist.list(principal, {}, { limit: 3, after })
    for (const item of page.items) times.push(jsonText(jsonItems(item.document, 0x00400100)[0] ?? {}, 0x00400003))
    after = page.next
  } while (after)

  assert.deepEqual(
    times,
    Array.from({ length: 10 }, (_, hour) => `0${hour}0000`),
  )
})
