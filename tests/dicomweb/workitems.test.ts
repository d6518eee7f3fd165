/** UPS-RS over a real database. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { DicomJson } from '../../gateway/dicom/json.ts'
import { type WebApp, webApp } from './web-app.ts'

const workitem = (label: string): DicomJson => ({
  '00100020': { vr: 'LO', Value: ['P1'] },
  '00741000': { vr: 'CS', Value: ['SCHEDULED'] },
  '00741204': { vr: 'LO', Value: [label] },
})
const send = (web: WebApp, method: string, path: string, document?: DicomJson): Promise<Response> =>
  web.call(`/workitems${path}`, {
    method,
    ...(document && { headers: { 'content-type': 'application/dicom+json' }, body: JSON.stringify([document]) }),
  })
const state = (name: string, transaction: string): DicomJson => ({
  '00741000': { vr: 'CS', Value: [name] },
  '00081195': { vr: 'UI', Value: [transaction] },
})
const status = async (answer: Promise<Response>): Promise<number> => (await answer).status
const stateOf = async (web: WebApp, uid: string): Promise<unknown> =>
  Object(Object(await web.json(`/workitems/${uid}`))[0])['00741000'].Value[0]

test('a workitem is created, found, claimed, changed by its performer, and completed', async t => {
  const web = await webApp(t)
  assert.equal((await web.call('/workitems')).status, 204)
  const created = await send(web, 'POST', '?workitem=1.2.3', workitem('Report'))
  assert.equal(created.status, 201)
  assert.equal(created.headers.get('location'), `${web.url}/workitems/1.2.3`)
  assert.equal(await status(send(web, 'POST', '?1.2.3', workitem('Report'))), 409)
  const other = await send(web, 'POST', '', workitem('Segment'))
  assert.match(other.headers.get('location') ?? '', /\/workitems\/2\.25\.\d+$/)

  const count = async (query: string): Promise<number> => Number(Object(await web.json(`/workitems?${query}`)).length)
  assert.equal(await count(''), 2)
  assert.equal(await count('ProcedureStepLabel=Rep*'), 1)
  assert.equal(await count('ProcedureStepState=IN%20PROGRESS'), 0)
  assert.equal(await count('limit=1&offset=1'), 1)

  const label: DicomJson = { '00741204': { vr: 'LO', Value: ['Report it'] } }
  assert.equal(await status(send(web, 'POST', '/1.2.3', label)), 200)
  assert.equal(await status(send(web, 'PUT', '/1.2.3/state', state('COMPLETED', '1.9'))), 409)
  assert.equal(await status(send(web, 'PUT', '/1.2.3/state', state('IN PROGRESS', '1.9'))), 200)
  assert.equal(await stateOf(web, '1.2.3'), 'IN PROGRESS')
  assert.equal(await count('ProcedureStepState=IN%20PROGRESS'), 1)
  assert.equal(await status(send(web, 'PUT', '/1.2.3/state', state('IN PROGRESS', '1.8'))), 409)
  assert.equal(await status(send(web, 'POST', '/1.2.3', label)), 409)
  assert.equal(await status(send(web, 'POST', '/1.2.3?transaction-uid=1.9', label)), 200)
  assert.equal(await status(send(web, 'POST', '/1.2.3/cancelrequest')), 409)
  assert.equal(await status(send(web, 'PUT', '/1.2.3/state', state('COMPLETED', '1.8'))), 409)
  assert.equal(await status(send(web, 'PUT', '/1.2.3/state', state('COMPLETED', '1.9'))), 200)
  const again = await send(web, 'PUT', '/1.2.3/state', state('COMPLETED', '1.9'))
  assert.deepEqual([again.status, again.headers.has('warning')], [200, true])
  assert.equal(await status(send(web, 'POST', '/1.2.3?1.9', label)), 409)

  const document = JSON.stringify(await web.json('/workitems/1.2.3'))
  assert.match(document, /Report it/)
  assert.doesNotMatch(document, /00081195/)
  const { rows } = await web.db.pool.query(`select payload from audit_events where payload like '%"110111"%'`)
  assert.ok(rows.length >= 6 && rows.every(row => !/Report/.test(String(Object(row).payload))))
})

test('what is scheduled can be cancelled, and what is no workitem is refused', async t => {
  const web = await webApp(t)
  await send(web, 'POST', '?workitem=1.2.3', workitem('Report'))
  assert.equal(await status(send(web, 'POST', '/1.2.3/cancelrequest')), 202)
  assert.equal(await stateOf(web, '1.2.3'), 'CANCELED')
  assert.equal(await status(send(web, 'PUT', '/1.2.3/state', state('IN PROGRESS', '1.9'))), 409)

  assert.equal(await status(send(web, 'POST', '?workitem=1..2', workitem('x'))), 400)
  assert.equal(await status(send(web, 'POST', '', state('IN PROGRESS', '1.9'))), 400)
  assert.equal(await status(send(web, 'POST', '', { '00741000': { vr: 'CS', Value: ['SCHEDULED', 5] } })), 400)
  assert.equal(await status(send(web, 'POST', '/1.2.3', state('COMPLETED', '1.9'))), 400)
  assert.equal(await status(send(web, 'PUT', '/1.2.3/state', workitem('x'))), 400)
  assert.equal(await status(send(web, 'GET', '/9.9')), 404)
  assert.equal(await status(web.call('/workitems', { method: 'POST', body: 'x' })), 415)
})
