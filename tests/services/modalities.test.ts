import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { openLog } from '../../gateway/log.ts'
import { openModalities } from '../../gateway/services/modalities.ts'
import { testDatabase } from '../support/database.ts'
import { caller } from '../support/principals.ts'
import { until } from '../support/until.ts'

const log = openLog({ level: 'silent' })
const principal = caller('alice')

test('a registered modality is known from its address, at once and in every process', async t => {
  const db = await testDatabase(t)
  const here = await openModalities({ db, log })
  const there = await openModalities({ db, log })
  try {
    await here.put(principal, { aeTitle: 'CT_1', host: '10.1.2.3', stableAgeSeconds: 5 })
    await here.put(principal, { aeTitle: 'ANYWHERE' })

    assert.equal(await here.isKnown({ callingAe: 'CT_1', remoteAddress: '10.1.2.3' }), true)
    assert.equal(await here.isKnown({ callingAe: 'CT_1', remoteAddress: '10.1.2.4' }), false)
    assert.equal(await here.isKnown({ callingAe: 'ANYWHERE', remoteAddress: '10.9.9.9' }), true)
    await here.put(principal, {
      aeTitle: 'ABROAD',
      host: '192.0.2.1',
      zone: 'outside',
      permissions: ['store', 'find', 'get', 'move'],
    })
    assert.deepEqual(here.find('ABROAD')?.permissions, ['store'], 'who is outside gets nothing by asking')
    await here.remove(principal, 'ABROAD')
    assert.equal(await here.isKnown({ callingAe: 'OTHER', remoteAddress: '10.1.2.3' }), false)
    assert.deepEqual(
      [here.stableAgeMs('CT_1'), here.stableAgeMs('ANYWHERE'), here.stableAgeMs(undefined)],
      [5000, undefined, undefined],
    )
    await until('the other process knows', 30_000, () => there.list().length === 2)

    await there.remove(principal, 'CT_1')
    await until('it is gone here too', 30_000, () => here.list().length === 1)
    await assert.rejects(here.remove(principal, 'CT_1'), (error: unknown) => isGatewayError(error, 'NOT_FOUND'))
  } finally {
    await here.close()
    await there.close()
  }
})

test('an AE title that is none is refused, and every change is an audit event', async t => {
  const db = await testDatabase(t)
  const modalities = await openModalities({ db, log })
  try {
    await assert.rejects(async () => modalities.put(principal, { aeTitle: 'much too long a title' }), /AE title/)
    await modalities.put(principal, { aeTitle: 'CT_1' })
    await modalities.remove(principal, 'CT_1')

    const events = await db.kysely.selectFrom('audit_events').select('payload').orderBy('id').execute()
    assert.deepEqual(
      events.map(event => JSON.parse(event.payload ?? '{}').reason),
      ['modality-registered', 'modality-removed'],
    )
  } finally {
    await modalities.close()
  }
})
