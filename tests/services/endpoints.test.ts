import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readAnswer } from '../../gateway/services/endpoint-answers.ts'
import { nextOpening } from '../../gateway/services/endpoint-window.ts'
import { startEndpointSite } from '../support/endpoints.ts'
import { caller } from '../support/principals.ts'

const sftp = { kind: 'sftp', settings: { host: 'cro.example', user: 'site42' } } as const
const key = `SHA256:${'a'.repeat(43)}`

test('credentials are sealed, never shown, and bound to the place that they are for', async t => {
  const site = await startEndpointSite(t)
  const { endpoints, admin } = site

  const made = await endpoints.put(admin, 'CRO', { ...sftp, secrets: { password: 'QZSECRET' } })

  const { rows } = await site.db.pool.query<{ text: string }>(
    `select row_to_json(e)::text as text from endpoints e union all select payload from audit_events`,
  )
  assert.ok(!JSON.stringify([made, rows]).includes('QZSECRET'))
  assert.deepEqual([made.secretNames, made.state], [['password'], 'unconfirmed'])
  assert.deepEqual((await endpoints.open('CRO')).secrets, { password: 'QZSECRET' })
  // A change of the description keeps them, another host does not get them.
  assert.deepEqual((await endpoints.put(admin, 'CRO', { ...sftp, description: 'new' })).secretNames, ['password'])
  const moved = await endpoints.put(admin, 'CRO', { kind: 'sftp', settings: { host: 'other.example', user: 'site42' } })
  assert.deepEqual(moved.secretNames, [])
  // Written into the row by somebody else, they do not open.
  await endpoints.put(admin, 'CRO', { ...sftp, secrets: { password: 'QZSECRET' } })
  await site.db.pool.query(`update endpoints set settings = jsonb_set(settings, '{host}', '"evil.example"')`)
  await assert.rejects(endpoints.open('CRO'), { code: 'STATE_CONFLICT' })
})

test('an endpoint whose host key changed is stopped with an alarm until the new one is confirmed', async t => {
  const { endpoints, admin, db } = await startEndpointSite(t)
  await endpoints.put(admin, 'CRO', sftp)
  assert.equal((await endpoints.confirm(admin, 'CRO', key)).state, 'active')

  await endpoints.alarm('CRO', 'ENDPOINT_HOST_KEY', `the server shows another host key: SHA256:${'b'.repeat(43)}`)

  const stopped = await endpoints.load(admin, 'CRO')
  assert.deepEqual(
    [stopped.state, stopped.reasonCode, stopped.shownPin],
    ['stopped', 'ENDPOINT_HOST_KEY', `SHA256:${'b'.repeat(43)}`],
  )
  await assert.rejects(endpoints.resume(admin, 'CRO'), { code: 'STATE_CONFLICT' })
  const alarms = await db.pool.query(`select 1 from audit_events where payload like '%ENDPOINT_HOST_KEY%'`)
  assert.equal(alarms.rowCount, 1)
  assert.equal((await endpoints.confirm(admin, 'CRO', `SHA256:${'b'.repeat(43)}`)).state, 'active')
})

test('only administrators manage endpoints; trial coordinators see them', async t => {
  const { endpoints } = await startEndpointSite(t)
  const coordinator = caller('carla', { roles: ['trial-coordinator'] })

  assert.deepEqual(await endpoints.list(coordinator), [])
  await assert.rejects(endpoints.put(coordinator, 'CRO', sftp), { code: 'FORBIDDEN' })
  await assert.rejects(endpoints.remove(coordinator, 'CRO'), { code: 'FORBIDDEN' })
})

test('a window may go over midnight, and opens at its next beginning', () => {
  const night = { from: '20:00', until: '06:00' }

  assert.equal(nextOpening(undefined, new Date()), undefined)
  assert.equal(nextOpening(night, new Date(2026, 0, 5, 23, 30)), undefined)
  assert.equal(nextOpening(night, new Date(2026, 0, 5, 5, 59)), undefined)
  assert.deepEqual(nextOpening(night, new Date(2026, 0, 5, 6, 0)), new Date(2026, 0, 5, 20, 0))
  assert.deepEqual(
    nextOpening({ from: '08:00', until: '09:00' }, new Date(2026, 0, 5, 10, 0)),
    new Date(2026, 0, 6, 8, 0),
  )
})

test('answers of recipients are read as lines or JSON, and anything else says nothing', () => {
  const words = { accepted: ['accepted', 'ok'], rejected: ['rejected', 'error'] }
  const read = (text: string) => readAnswer(Buffer.from(text), words)

  assert.deepEqual(read('\r\nOK\r\n'), { outcome: 'accepted', reason: '' })
  assert.deepEqual(read('{"status":"rejected","reason":"no T1"}'), { outcome: 'rejected', reason: 'no T1' })
  assert.deepEqual(read('Error - unknown subject'), { outcome: 'rejected', reason: 'unknown subject' })
  assert.equal(read('okay, we will look'), undefined)
  assert.equal(read(''), undefined)
})
