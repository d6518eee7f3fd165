import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import {
  acceptEverything,
  auditOf,
  buildStudy,
  deliver,
  makePeers,
  planTransfer,
  startFederationSite,
  untilState,
  visibleAt,
} from '../support/federation.ts'
import { caller } from '../support/principals.ts'
import { until } from '../support/until.ts'

/** A sends a study of two instances to B, whose policy has these incoming rules. */
async function send(t: TestContext, incoming: readonly object[]) {
  const a = await startFederationSite(t, { name: 'A' })
  const policy = {
    ...acceptEverything,
    destinations: { a: { peer: a.keys.siteId } },
    incoming: incoming.map((rule, index) => ({ id: `in-${index}`, when: { always: true }, ...rule })),
  }
  const b = await startFederationSite(t, { name: 'B', policy })
  const { ofA } = await makePeers(a, b)
  const id = await planTransfer(a, ofA, buildStudy(2))
  await deliver(a, id)
  const reaches = (state: string): Promise<void> => untilState(a, id, state, 60_000)
  const inbound = () => b.db.kysely.selectFrom('inbound_transfers').selectAll().executeTakeFirst()
  return { a, b, id, reaches, inbound }
}

test('an offer that no incoming rule accepts is refused with a signed receipt, and not a byte is taken', async t => {
  const { b, reaches, inbound } = await send(t, [])

  await reaches('refused')

  assert.equal(await inbound(), undefined)
  assert.ok((await auditOf(b)).some(event => event.reason === 'OFFER_REFUSED'))
})

test('an offer that a rule accepts names that rule and the version', async t => {
  const { reaches, inbound } = await send(t, [{ accept: { from: ['a'], purposes: ['treatment'] } }])

  await reaches('receipted')

  const row = await inbound()
  assert.deepEqual([row?.rule, row?.policy_version, row?.state], ['in-0', 1, 'imported'])
})

test('what a rule holds is taken and shown to nobody before a person has released it', async t => {
  const { b, reaches, inbound } = await send(t, [{ hold: { from: ['*'], reason: 'a person looks first' } }])

  await reaches('held')
  const held = await inbound()
  assert.deepEqual([held?.state, held?.error_code, held?.error], ['held', 'POLICY_DENIED', 'a person looks first'])
  assert.equal((await visibleAt(b)).length, 0)

  await b.inbound.release(held?.id ?? '', caller('alice'))
  await until('it is imported', 60_000, async () => (await inbound())?.state === 'imported')
  assert.equal((await visibleAt(b)).length, 2)
})
