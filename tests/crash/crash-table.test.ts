/** Each row of the design's crash table: the process is killed for real, at exactly that point. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { at, field, items, number } from '../../gateway/cli/answer.ts'
import { openDatabase } from '../../gateway/db/db.ts'
import { storeScu } from '../../gateway/dimse/scu.ts'
import { openBlobs } from '../../gateway/store/blobs.ts'
import { referenceCheck } from '../../gateway/store/references.ts'
import { readStoredOffer } from '../../peers/offer.ts'
import { silent } from '../support/federation.ts'
import type { ProcessGateway } from '../support/process-gateway.ts'
import { type ProcessPair, policyDocument, startPair } from '../support/process-pair.ts'
import { until } from '../support/until.ts'
import { type Exposure, outgoing, planStudy, type Study, sendStudy, targetOf } from './modality.ts'
import { holdAfterCommit, holdBefore } from './stopping-point.ts'
import { assertHas, assertHolds, assertSound, transfersOf, untilReceipted } from './verify.ts'

/** Instances of a study that the policy sends to B. */
const whole = 24
const deliveryMs = 180_000
const isSoak = process.env['HANSE_SOAK'] === '1'

test('the crash table', async t => {
  const pair = await startPair(t, { wholeStudy: whole })
  const { a, b } = pair
  const atA: Exposure[] = []
  const carried: Study[] = []
  let seed = 100
  /** A study that is never carried: C-STORE alone is meant. */
  const lone = (rows = 64): Study => {
    const study = planStudy(++seed, 1, rows)
    atA.push(...study.exposures)
    return study
  }
  const complete = (rows = 64): Study => {
    const study = planStudy(++seed, whole, rows)
    atA.push(...study.exposures)
    carried.push(study)
    return study
  }
  let isBroken = false
  /** Rows share the two gateways: after one has failed the others would only wait. */
  const row = (name: string, run: () => Promise<void>): Promise<void> =>
    t.test(name, async () => {
      assert.ok(!isBroken, 'an earlier row failed')
      isBroken = true
      await run()
      isBroken = false
    })

  await row('killed while receiving: no row, no acknowledgement, staging swept; the SCU sends again', async () => {
    const study = lone(2048)

    const sending = stall(a, study)
    await until('bytes in staging', 60_000, async () => (await stagedBytes(a)) > 0)
    await a.kill('SIGKILL')
    assert.equal(await sending.acknowledged, false)
    assert.ok((await stagedBytes(a)) > 0)
    assert.equal(await countInstances(a, study), 0)

    await a.start()
    assert.equal(await stagedBytes(a), 0)
    await sendStudy(a, study)
    await assertHas(a, study.exposures)
  })

  for (const isSwept of [false, true]) {
    const then = isSwept ? 'swept' : 'found again'
    await row(`killed after rename, before commit: the orphan blob is harmless and ${then}`, async () => {
      const study = lone()
      const blob = blobPath(a, study)

      const hold = await holdBefore(t, a, { table: 'instances' })
      const sending = attempt(a, study)
      await hold.reached()
      assert.ok(existsSync(blob))
      await a.kill('SIGKILL')
      assert.equal(await sending, false)
      await hold.release()
      assert.equal(await countInstances(a, study), 0)
      if (isSwept) {
        assert.equal(await sweepOrphans(a), 1)
        assert.ok(!existsSync(blob))
      }

      await a.start()
      await assertSound(a)
      await sendStudy(a, study)
      assert.ok(existsSync(blob))
      await assertHas(a, study.exposures)
    })
  }

  await row('killed after commit, before C-STORE-RSP: sent again, it is a duplicate and a success', async () => {
    const study = lone()

    const hold = await holdAfterCommit(t, a, { table: 'instances' })
    const sending = attempt(a, study)
    await hold.reached()
    await a.kill('SIGKILL')
    assert.equal(await sending, false)
    await hold.release()
    assert.equal(await countInstances(a, study), 1)

    await a.start()
    const before = await duplicates(a)
    await sendStudy(a, study)
    assert.equal(await duplicates(a), before + 1)
    await assertHas(a, study.exposures)
  })

  await row('killed while preparing and signing: the job reruns and signs the same items', async () => {
    const study = complete()

    const hold = await holdBefore(t, a, { table: 'transfers', when: 'new.manifest is not null' })
    await sendStudy(a, study)
    await hold.reached()
    await a.kill('SIGKILL')
    const first = objectsOf((await hold.row())['manifest'])
    await hold.release()
    assert.notEqual(await transferState(a, study), 'signed')

    await a.start()
    await untilReceipted(a, carried, deliveryMs)
    const [transfer] = await query(a, `select manifest from transfers where study_instance_uid = $1`, study)
    assert.ok(transfer?.['manifest'] instanceof Buffer)
    assert.deepEqual(objectsOf(`\\x${transfer['manifest'].toString('hex')}`), first)
    assert.equal(first.length, whole)
    await assertHas(b, study.exposures)
  })

  for (const victims of isSoak ? [['A'], ['B'], ['A', 'B']] : [['A'], ['B']]) {
    await row(`killed mid-send (${victims.join(' and ')}): only what the receiver misses is sent`, async () => {
      const study = complete(800)
      const killed = victims.map(name => (name === 'A' ? a : b))

      // The first range is acknowledged, the following ones stand before their bits are set.
      const hold = await holdBefore(t, b, { table: 'inbound_transfers', when: 'bit_count(new.received) > 4' })
      await sendStudy(a, study)
      await hold.reached()
      const received = await receivedBytes(b)
      assert.ok(received > 0 && received < study.sizeBytes)
      const sentBefore = await quietWire()
      await Promise.all(killed.map(gateway => gateway.kill('SIGKILL')))
      await hold.release({ rollBack: killed.includes(b) })

      await Promise.all(killed.map(gateway => gateway.start()))
      await untilReceipted(a, carried, deliveryMs)
      const sentAfter = pair.wire.sentBytes - sentBefore
      const most = (study.sizeBytes - received) * 1.03 + 300_000
      assert.ok(sentAfter <= most, `${sentAfter} bytes sent after the kill, expected at most ${most}`)
      await assertHas(b, study.exposures)
    })
  }

  /** Bytes sent, once the ranges that were on their way have left. */
  async function quietWire(): Promise<number> {
    let seen = -1
    let unchanged = 0
    await until('nothing more is on its way', 60_000, () => {
      unchanged = pair.wire.sentBytes === seen ? unchanged + 1 : 0
      seen = pair.wire.sentBytes
      return unchanged >= 20
    })
    return seen
  }

  await row('the peer is killed after it stored, before it told: asked again, it gives the same receipt', async () => {
    const study = complete()

    const hold = await holdAfterCommit(t, b, { table: 'receipts', when: `new.kind = 'imported'` })
    await sendStudy(a, study)
    await hold.reached()
    await b.kill('SIGKILL')
    await hold.release()
    assert.equal(await countInstances(b, study), whole)

    await b.start()
    await untilReceipted(a, carried, deliveryMs)
    await assertSameReceipts(pair, study)
  })

  await row('killed before the receipt is kept: the peer gives the same one again', async () => {
    const study = complete()

    const hold = await holdBefore(t, a, { table: 'receipts', when: `new.kind = 'imported'` })
    await sendStudy(a, study)
    await hold.reached()
    const first = (await hold.row())['sha256']
    await a.kill('SIGKILL')
    await hold.release()
    assert.notEqual(await transferState(a, study), 'receipted')

    await a.start()
    await untilReceipted(a, carried, deliveryMs)
    assert.equal(`\\x${await assertSameReceipts(pair, study)}`, first)
  })

  for (const [when, hold, isNew] of [
    ['before its commit', holdBefore, false],
    ['after its commit', holdAfterCommit, true],
  ] as const) {
    await row(`killed during policy publish, ${when}: the ${isNew ? 'new' : 'old'} version is active`, async () => {
      const condition = { attribute: 'InstanceCount', equals: String(whole) }
      const old = await activePolicy(a)

      const held = await hold(t, a, { table: 'policy_active' })
      const publishing = a.api('PUT', '/api/v1/policy', policyDocument(`Killed ${when}`, condition)).then(
        () => 'answered',
        () => 'no answer',
      )
      await held.reached()
      await a.kill('SIGKILL')
      assert.equal(await publishing, 'no answer')
      await held.release()

      await a.start()
      assert.equal(await activePolicy(a), isNew ? old + 1 : old)
      await a.api('PUT', '/api/v1/policy', policyDocument(`After a kill ${when}`, condition))
      assert.equal(await activePolicy(a), isNew ? old + 2 : old + 1)
    })
  }

  await row('after all of it both sites are sound, and nothing was carried twice', async () => {
    await assertHolds(a, atA)
    await assertHolds(
      b,
      carried.flatMap(each => each.exposures),
    )
    for (const gateway of [a, b]) await assertSound(gateway)
    assert.equal((await transfersOf(a, 'outbound')).length, carried.length)
    const inbound = (await transfersOf(b, 'inbound')).map(each => each.state)
    assert.deepEqual(
      inbound,
      carried.map(() => 'imported'),
    )
  })
})

/** Sends once; whether it was acknowledged. */
async function attempt(gateway: ProcessGateway, study: Study): Promise<boolean> {
  let acknowledged = false
  await storeScu(targetOf(gateway), study.exposures.map(outgoing), (_instance, result) => {
    acknowledged = result.kind === 'responded' && result.status === 0
  }).catch(() => undefined) // the association broke
  return acknowledged
}

/** Sends the first megabytes of an instance, more than a reception holds in memory, and then nothing until the association breaks. */
function stall(gateway: ProcessGateway, study: Study): { acknowledged: Promise<boolean> } {
  const giveUp = new AbortController()
  let acknowledged = false
  const instances = study.exposures.map(outgoing).map(instance => ({
    ...instance,
    open: async () => {
      const { source, datasetOffset } = await instance.open()
      const read = async (offset: number, length: number): Promise<Uint8Array> => {
        if (offset > datasetOffset + 4 * 1024 ** 2) await gateway.ended()
        return await source.read(offset, length)
      }
      return { source: { sizeBytes: source.sizeBytes, read }, datasetOffset }
    },
  }))
  const sending = storeScu({ ...targetOf(gateway), signal: giveUp.signal }, instances, (_instance, result) => {
    acknowledged = result.kind === 'responded' && result.status === 0
  })
  return { acknowledged: sending.then(() => acknowledged).catch(() => acknowledged) }
}

async function stagedBytes(gateway: ProcessGateway): Promise<number> {
  const dir = join(gateway.data, 'staging')
  const names = await readdir(dir, { recursive: true }).catch(() => [])
  const sizes = await Promise.all(names.map(name => stat(join(dir, name)).catch(() => undefined)))
  return sizes.reduce((sum, found) => sum + (found?.isFile() ? found.size : 0), 0)
}

function blobPath(gateway: ProcessGateway, study: Study): string {
  const sha256 = study.exposures[0]?.sha256 ?? ''
  return join(gateway.data, 'blobs', sha256.slice(0, 2), sha256)
}

/** What the sweeper does, without its grace period, on the killed gateway's store. */
async function sweepOrphans(gateway: ProcessGateway): Promise<number> {
  const admin = await gateway.admin()
  const { host, port } = admin
  await admin.end()
  const db = await openDatabase({ connection: { host, port, user: 'hanse', database: 'hanse' }, log: silent })
  try {
    const blobs = await openBlobs({ dir: gateway.data, log: silent })
    return (await blobs.sweep(referenceCheck(db), { graceMs: 0 })).removed
  } finally {
    await db.close()
  }
}

type Row = Readonly<Record<string, unknown>>

async function rows(gateway: ProcessGateway, sql: string, values: readonly unknown[] = []): Promise<readonly Row[]> {
  const admin = await gateway.admin()
  try {
    return (await admin.query(sql, [...values])).rows
  } finally {
    await admin.end()
  }
}

/** Rows of a statement about one study, `$1`. */
const query = (gateway: ProcessGateway, sql: string, study: Study): Promise<readonly Row[]> =>
  rows(gateway, sql, [study.studyInstanceUid])

async function countInstances(gateway: ProcessGateway, study: Study): Promise<number> {
  const sql = `select count(*)::int as count from instances i join series c on c.id = i.series join studies s on s.id = c.study
                where s.study_instance_uid = $1`
  return number((await query(gateway, sql, study))[0], 'count')
}

async function transferState(gateway: ProcessGateway, study: Study): Promise<string> {
  return field((await query(gateway, 'select state from transfers where study_instance_uid = $1', study))[0], 'state')
}

/** Bytes of the transfer that is under way. */
async function receivedBytes(gateway: ProcessGateway): Promise<number> {
  const sql = `select bytes_received::int as bytes from inbound_transfers where state = 'receiving'`
  return number((await rows(gateway, sql))[0], 'bytes')
}

async function duplicates(gateway: ProcessGateway): Promise<number> {
  const sql = `select count(*)::int as count from audit_events where payload::jsonb ->> 'reason' = 'duplicate'`
  return number((await rows(gateway, sql))[0], 'count')
}

async function activePolicy(gateway: ProcessGateway): Promise<number> {
  const active = await rows(gateway, 'select version from policy_active')
  assert.equal(active.length, 1)
  const answer = await gateway.api('GET', '/api/v1/policy')
  assert.equal(at(answer, 'version'), at(active[0], 'version'))
  return number(active[0], 'version')
}

/** The objects of a stored offer in PostgreSQL's hexadecimal form. */
function objectsOf(manifest: unknown): readonly unknown[] {
  return readStoredOffer(Buffer.from(String(manifest).replace(/^\\x/, ''), 'hex')).objects
}

/** B issued one receipt of each kind for the study, A holds the same envelopes; SHA-256 of the last one. */
async function assertSameReceipts({ a, b }: ProcessPair, study: Study): Promise<string> {
  const [transfer] = await query(a, 'select id, manifest_id from transfers where study_instance_uid = $1', study)
  const own = await a.api('GET', `/api/v1/transfers/${field(transfer, 'id')}`)
  const [inbound] = await rows(b, 'select id from inbound_transfers where manifest_id = $1', [
    field(transfer, 'manifest_id'),
  ])
  const theirs = await b.api('GET', `/api/v1/transfers/${field(inbound, 'id')}`)
  const digests = (detail: unknown): string[] =>
    items(detail, 'receipts').map(receipt => `${field(receipt, 'kind')} ${field(receipt, 'sha256')}`)
  assert.deepEqual(digests(own), digests(theirs))
  assert.deepEqual(
    items(own, 'receipts').map(receipt => field(receipt, 'kind')),
    ['accepted', 'custody', 'imported'],
  )
  return field(items(own, 'receipts').at(-1), 'sha256')
}
