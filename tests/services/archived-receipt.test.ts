import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openArchive } from '../../gateway/services/archive.ts'
import { openCommitments } from '../../gateway/services/commitment.ts'
import { startRouting } from '../../gateway/services/routing.ts'
import { listTransfers, loadTransfer } from '../../gateway/services/transfer-list.ts'
import { publishPolicy } from '../../policy/versions.ts'
import { onEnd } from '../support/cleanup.ts'
import {
  buildStudy,
  deliver,
  type FederationSite,
  makePeers,
  planTransfer,
  silent,
  startFederationSite,
  untilState,
} from '../support/federation.ts'
import { until } from '../support/until.ts'

const policy = {
  format: 'hanse-policy-1',
  destinations: { pacs: { modality: 'PACS' } },
  rules: [
    {
      id: 'imports',
      when: { attribute: 'OriginKind', equals: 'peer' },
      send: { to: ['pacs'], purpose: 'treatment', profile: 'as-is', archive: { commitment: true } },
    },
  ],
}

/** The archive of a site: takes everything, and commits once `commit` is called. */
async function withArchive(site: FederationSite): Promise<{ commit: () => void }> {
  const { db, queue, blobs, keys } = site
  const { promise: committing, resolve: commit } = Promise.withResolvers<void>()
  const findArchive = () => ({ name: 'PACS', aeTitle: 'PACS', zone: 'inside' }) as const
  const shared = { db, blobs, queue, aeTitle: 'HANSE', log: silent }
  const commitments = openCommitments({
    ...shared,
    wire: {
      report: async () => undefined,
      async ask(_aeTitle, { transactionUid, instances }, onReport) {
        await committing
        await onReport({ transactionUid, committed: instances, failed: [] })
      },
    },
  })
  const archive = openArchive({
    ...shared,
    keys,
    checkpoint: async () => 'hanse.test/B\n1\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n',
    commitments,
    findArchive,
    wire: {
      async send(_modality, items, onResult) {
        for (const item of items) await onResult(item, { kind: 'taken' })
      },
      count: async () => undefined,
    },
  })
  queue.work('archive', { concurrency: 2 }, ({ transfer }, signal) => archive.run(transfer, signal))
  queue.work('carry-commitment', { concurrency: 2 }, ({ commitment }, signal) => commitments.carry(commitment, signal))
  await publishPolicy(db, policy, 'alice')
  return { commit }
}

test('the sending site gets an archived receipt when the archive over there has committed, and not before', async t => {
  const [a, b] = await Promise.all([startFederationSite(t, { name: 'A' }), startFederationSite(t, { name: 'B' })])
  const { ofA } = await makePeers(a, b)
  const { commit } = await withArchive(b)
  const findArchive = () => ({ name: 'PACS', aeTitle: 'PACS', zone: 'inside' }) as const
  const routing = startRouting({ db: b.db, queue: b.queue, log: silent, findArchive })
  onEnd(t, () => routing.close())
  const id = await planTransfer(a, ofA, buildStudy(3))
  const inbound = async () => {
    const { transfers } = await listTransfers(b.db, { direction: 'inbound' }, { limit: 1 })
    return transfers[0]
  }

  await deliver(a, id)
  await untilState(a, id, 'receipted')
  const onward = await until('B sends it on', 60_000, async () => {
    const { transfers } = await listTransfers(b.db, { direction: 'outbound', states: ['sent'] }, { limit: 1 })
    return transfers[0]
  })
  const before = await inbound()
  commit()
  await until('it is archived', 60_000, async () => (await loadTransfer(b.db, onward.id)).state === 'archived')
  await deliver(a, id) // as the job does that asks now and then

  assert.deepEqual([before?.state, before?.safeIn], ['imported', 'gateway'])
  assert.equal((await inbound())?.safeIn, 'archive')
  const told = await until('A has the receipt', 60_000, async () => {
    const transfer = await loadTransfer(a.db, id)
    return transfer.receipts.some(receipt => receipt.kind === 'archived') && transfer
  })
  assert.deepEqual(
    told.receipts.map(receipt => receipt.kind),
    ['accepted', 'custody', 'imported', 'archived'],
  )
  assert.equal(told.state, 'receipted')
  assert.equal(told.steps.at(-1)?.step, 'archived-there')
})
