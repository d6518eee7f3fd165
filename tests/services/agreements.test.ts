import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { type Consents, openConsents } from '../../gateway/services/consents.ts'
import { retryTransfer } from '../../gateway/services/transfers.ts'
import { readStoredOffer } from '../../peers/offer.ts'
import { publishPolicy } from '../../policy/versions.ts'
import {
  auditOf,
  buildStudy,
  deliver,
  makePeers,
  planTransfer,
  startFederationSite,
  transferOf,
  untilState,
  visibleAt,
} from '../support/federation.ts'
import { caller } from '../support/principals.ts'
import { until } from '../support/until.ts'

const alice = caller('token:alice')
const yesterday = new Date(Date.now() - 86_400_000).toISOString().slice(0, 10)

/** Two paired sites; a transfer of A to B under an agreement of A's policy. */
async function open(t: TestContext, mayContinue: () => Promise<boolean> = async () => true) {
  let consents: Consents | undefined
  const a = await startFederationSite(t, {
    name: 'A',
    outbound: { mayContinue, obstacle: async id => await consents?.obstacle(id) },
  })
  consents = openConsents({ db: a.db, queue: a.queue })
  const b = await startFederationSite(t, { name: 'B' })
  const { ofA } = await makePeers(a, b)
  const publish = (terms: Record<string, unknown> | undefined) =>
    publishPolicy(
      a.db,
      {
        format: 'hanse-policy-2',
        destinations: { hospital: { peer: b.keys.siteId } },
        agreements: terms
          ? {
              'network 2026': {
                parties: ['hospital'],
                purposes: ['treatment'],
                basis: 'treatment',
                from: '2026-01-01',
                ...terms,
              },
            }
          : {},
        rules: [],
      },
      'alice',
    )
  const { version } = await publish({})
  const id = await planTransfer(a, ofA, buildStudy(2))
  await a.db.kysely
    .updateTable('transfers')
    .set({ agreement: 'network 2026', policy_version: version })
    .where('id', '=', id)
    .execute()
  return { a, b, id, publish, consents }
}

test('the receiver records the agreement that a transfer rests on, and its legal basis', async t => {
  const { a, b, id } = await open(t)

  await deliver(a, id)
  await untilState(a, id, 'receipted')

  const { manifest } = await transferOf(a, id)
  const { agreement, purpose } = readStoredOffer(manifest ?? new Uint8Array())
  assert.deepEqual([agreement?.id, agreement?.basis, purpose], ['network+2026', 'treatment', 'treatment'])
  assert.match(agreement?.sha256 ?? '', /^[0-9a-f]{64}$/)
  const { detail } = await b.db.kysely
    .selectFrom('transfer_steps')
    .select('detail')
    .where('step', '=', 'accepted')
    .executeTakeFirstOrThrow()
  assert.match(JSON.stringify(detail), /"network\+2026"/)
  assert.ok(JSON.stringify(await auditOf(b)).includes('"basis":"treatment"'))
})

for (const [what, terms] of [
  ['is over', { until: yesterday }],
  ['is for another purpose now', { purposes: ['teaching'] }],
  ['was taken out of the policy', undefined],
] as const)
  test(`a transfer whose agreement ${what} is held before it is offered, and nobody can send it by a retry`, async t => {
    const { a, b, id, publish } = await open(t)
    await publish(terms)

    await deliver(a, id)
    await untilState(a, id, 'held')

    const { error_code, error } = await transferOf(a, id)
    assert.equal(error_code, 'AGREEMENT_MISSING')
    assert.match(error ?? '', /agreement network 2026 /)
    await assert.rejects(retryTransfer({ db: a.db, queue: a.queue }, id, alice), error =>
      isGatewayError(error, 'AGREEMENT_MISSING'),
    )
    const offers = await b.db.kysely.selectFrom('inbound_transfers').select('id').execute()
    assert.deepEqual(offers, [])
    await publish({})
    await retryTransfer({ db: a.db, queue: a.queue }, id, alice)
    await untilState(a, id, 'receipted')
  })

test('an agreement that is taken back in mid-flight stops the transfer before its next range', async t => {
  const { promise: gate, resolve: go } = Promise.withResolvers<boolean>()
  const { a, b, id, publish } = await open(t, () => gate)
  const stateThere = async () =>
    (await b.db.kysely.selectFrom('inbound_transfers').select('state').executeTakeFirst())?.state
  await deliver(a, id)
  await until('the offer is accepted', 20_000, async () => (await stateThere()) === 'receiving')

  await publish(undefined)
  go(true)

  await until('cancelled there', 20_000, async () => (await stateThere()) === 'cancelled')
  assert.equal((await transferOf(a, id)).error_code, 'AGREEMENT_MISSING')
  assert.deepEqual(await visibleAt(b), [])
})
