import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { InstanceAccess } from '../../gateway/services/instance-access.ts'
import { ReadingSessions } from '../../gateway/services/reading-sessions.ts'
import { storeApp } from '../http/store-app.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { caller } from '../support/principals.ts'

test('accesses at the same time are found and recorded each for itself, also beside unknown ones', async t => {
  const store = await storeApp(t)
  const built = [1, 2, 3].map(seed => buildInstance({ seed }))
  const ids: string[] = []
  for (const { bytes } of built) ids.push(String((await store.upload(bytes)).body['ID']))
  const access = new InstanceAccess(store.db, new ReadingSessions())
  const asked = Array.from({ length: 200 }, (_, i) => (i % 10 === 9 ? 'nope' : (ids[i % 3] ?? '')))

  const outcomes = await Promise.allSettled(asked.map((id, i) => access.open(caller(`reader-${i}`), id)))

  for (const [i, outcome] of outcomes.entries()) {
    if (asked[i] === 'nope') assert.ok(outcome.status === 'rejected' && isGatewayError(outcome.reason, 'NOT_FOUND'))
    else assert.ok(outcome.status === 'fulfilled' && outcome.value.sopInstanceUid === built[i % 3]?.sopInstanceUid)
  }
  const { rows } = await store.db.pool.query<{ user: string; uid: string }>(`
    select payload::jsonb #>> '{participants,0,userId}' as user, payload::jsonb #>> '{objects,2,sopInstanceUid}' as uid
      from audit_events where payload::jsonb ->> 'event' = '110103' and payload::jsonb ->> 'action' = 'R'`)
  const recorded = new Map(rows.map(({ user, uid }) => [user, uid]))
  assert.equal(recorded.size, 180)
  for (const [i, id] of asked.entries()) {
    if (id !== 'nope') assert.equal(recorded.get(`reader-${i}`), built[i % 3]?.sopInstanceUid)
  }
})

test('what somebody reads of a study in the minutes after the first read belongs to its event', async t => {
  const store = await storeApp(t)
  const ids: string[] = []
  for (const seed of [1, 2]) ids.push(String((await store.upload(buildInstance({ seed }).bytes)).body['ID']))
  let now = 0
  const access = new InstanceAccess(store.db, new ReadingSessions(() => now))
  const events = async (): Promise<number> => {
    const { rows } = await store.db.pool.query(`
      select 1 from audit_events where payload::jsonb ->> 'event' = '110103' and payload::jsonb ->> 'action' = 'R'`)
    return rows.length
  }
  const read = async (id: string, address?: string): Promise<number> => {
    for (const instance of ids) await access.open(caller(id, address === undefined ? {} : { address }), instance)
    return await events()
  }
  const studies = await read('anna')

  assert.equal(await read('anna'), studies)
  assert.equal(await read('bert'), 2 * studies)
  assert.equal(await read('anna', '10.0.0.9'), 3 * studies)
  now = 5 * 60_000
  assert.equal(await read('anna'), 4 * studies)
})
