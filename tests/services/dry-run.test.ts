import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import type { Db } from '../../gateway/db/db.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { openQueue } from '../../gateway/jobs/queue.ts'
import { openDryRuns } from '../../gateway/services/dry-run.ts'
import { openPolicies } from '../../gateway/services/policies.ts'
import { publishPolicy } from '../../policy/versions.ts'
import { testDatabase } from '../support/database.ts'
import { silent as log } from '../support/federation.ts'
import { testSite } from '../support/offers.ts'
import { caller } from '../support/principals.ts'

const alice = caller('token:alice')
const siteId = 'ab'.repeat(16)
const send = { to: ['b'], purpose: 'treatment', profile: 'as-is' }
const policy = (rules: readonly object[], agreements: object = {}) => ({
  format: 'hanse-policy-2',
  destinations: { b: { peer: siteId } },
  agreements,
  rules: rules.map((rule, index) => ({ id: `r${index}`, ...rule })),
})
const modality = (value: string) => ({ attribute: 'Modality', equals: value })

/** So many studies of one series and two instances each; every second one is MR, every tenth came from a peer. */
async function insertStudies(db: Db, count: number): Promise<void> {
  await db.pool.query(
    `with p as (insert into patients (patient_id, orthanc_id)
                select 'TEST-' || n, 'p' || n from generate_series(1, $1::int) n returning id, patient_id),
          s as (insert into studies (patient, study_instance_uid, orthanc_id, instance_count)
                select id, '2.25.' || id, 's' || id, 2 from p returning id),
          e as (insert into series (study, series_instance_uid, orthanc_id, attributes)
                select id, '2.25.1.' || id, 'e' || id,
                       jsonb_build_object('00080060', jsonb_build_object('vr', 'CS', 'Value',
                         jsonb_build_array(case when id % 2 = 0 then 'MR' else 'CT' end)))
                  from s returning id)
     insert into instances (series, sop_instance_uid, sop_class_uid, transfer_syntax_uid, orthanc_id, file_sha256,
                            dataset_sha256, size_bytes, origin)
     select e.id, '2.25.2.' || e.id || '.' || k, '1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.1.2.1', 'i' || e.id || '.' || k,
            sha256('x'), sha256('x'), 1000, jsonb_build_object('kind', case when e.id % 10 = 0 then 'peer' else 'dimse' end)
       from e, generate_series(1, 2) k`,
    [count],
  )
}

async function open(t: TestContext, studies: number, active: object) {
  const db = await testDatabase(t)
  const queue = await openQueue({ db, log })
  t.after(() => queue.close())
  await db.pool.query(
    `insert into peers (id, site_id, name, state, card, ca_certificate, ca_fingerprint, signing_key, sealing_key)
     values (gen_random_uuid(), $1, 'B', 'active', '', '', $2, $2, $2)`,
    [siteId, Buffer.alloc(32, 1)],
  )
  await insertStudies(db, studies)
  await publishPolicy(db, active, 'alice')
  const findArchive = () => undefined
  const policies = openPolicies({ db, signer: testSite(1), findModality: findArchive, twoPersons: true })
  const dryRuns = openDryRuns({ db, queue, policies, findArchive })
  const finish = async (document: object) => {
    const { id } = await dryRuns.start(alice, { what: { raw: document }, days: 7 })
    await dryRuns.run(id, new AbortController().signal)
    return await dryRuns.load(alice, id)
  }
  return { db, dryRuns, policies, finish }
}

test('a draft is run against real studies next to the active version, and sends nothing', async t => {
  const { db, dryRuns, finish } = await open(t, 40, policy([{ when: modality('CT'), send }]))
  await db.pool.query(`update studies set created_at = now() - interval '30 days' where id in (39, 40)`)

  const run = await finish(
    policy([
      {
        when: { all: [modality('CT'), { attribute: 'StudyInstanceUID', equals: '2.25.1' }] },
        deny: { to: ['b'], reason: 'no' },
      },
      {
        when: { all: [modality('CT'), { attribute: 'StudyInstanceUID', equals: '2.25.3' }] },
        hold: { to: ['b'], reason: 'look' },
      },
      { when: { any: [modality('CT'), modality('MR')] }, send },
    ]),
  )

  // 38 studies: 19 CT, of which two are not sent any more; 19 MR, of which three came from a peer.
  assert.deepEqual(run.counts, { go: 33, held: 1, denied: 1, none: 0, gained: 16, lost: 2 })
  assert.deepEqual([run.state, run.studies, run.studiesDone, run.baseline], ['done', 38, 38, 1])
  const { results } = await dryRuns.results(alice, run.id, { change: 'lost', limit: 10 })
  assert.deepEqual(
    results.map(({ studyInstanceUid, before, outcome, rule, reason }) => [
      studyInstanceUid,
      before,
      outcome,
      rule,
      reason,
    ]),
    [
      ['2.25.1', 'go', 'denied', 'r0', 'no'],
      ['2.25.3', 'go', 'held', 'r1', 'look'],
    ],
  )
  assert.equal((await db.pool.query('select 1 from transfers')).rows.length, 0)
})

test('agreements and consents count in a dry run as they do in earnest', async t => {
  const { db, dryRuns, finish } = await open(t, 4, policy([]))
  await db.pool.query(
    `insert into consents (id, kind, issuer, patient_id, purpose, recipient, valid_from, source, recorded_by)
     values (gen_random_uuid(), 'consent', '', 'TEST-2', 'treatment', '*', now(), 'form', 'alice')`,
  )
  const under = (change: object) =>
    policy([{ when: { always: true }, send: { ...send, agreement: 'a' } }], {
      a: { parties: ['b'], purposes: ['treatment'], basis: 'consent', from: '2026-01-01', ...change },
    })

  const consented = await finish(under({}))
  const over = await finish(under({ until: '2026-01-02' }))

  assert.deepEqual([consented.counts.go, consented.counts.held], [1, 3])
  assert.deepEqual([over.counts.go, over.counts.held], [0, 4])
  const { results } = await dryRuns.results(alice, over.id, { outcome: 'held', limit: 1 })
  assert.equal(results[0]?.reason, 'agreement a ended on 2026-01-02')
})

test('results come page by page, and a cancelled run ends', async t => {
  const { dryRuns, finish } = await open(t, 7, policy([]))
  const document = policy([{ when: { always: true }, send }])
  const { id } = await finish(document)

  const seen: string[] = []
  for (let cursor: string | undefined; ; ) {
    const page = await dryRuns.results(alice, id, { limit: 3, ...(cursor !== undefined && { cursor }) })
    seen.push(...page.results.map(result => result.studyInstanceUid))
    if (page.next === undefined) break
    cursor = page.next
  }
  assert.equal(new Set(seen).size, 7)
  await assert.rejects(dryRuns.results(alice, id, { limit: 3, cursor: 'x' }), error =>
    isGatewayError(error, 'BAD_REQUEST'),
  )
  const waiting = await dryRuns.start(alice, { what: { raw: document }, days: 1 })
  assert.equal((await dryRuns.cancel(alice, waiting.id)).state, 'cancelled')
  await dryRuns.run(waiting.id, new AbortController().signal)
  assert.equal((await dryRuns.load(alice, waiting.id)).studiesDone, 0)
  await assert.rejects(dryRuns.cancel(alice, waiting.id), error => isGatewayError(error, 'STATE_CONFLICT'))
})

test('ten thousand studies take far less than minutes', async t => {
  const count = process.env['HANSE_SOAK'] === '1' ? 10_000 : 2_000
  const { finish } = await open(t, count, policy([{ when: modality('CT'), send }]))

  const begin = performance.now()
  const run = await finish(policy([{ when: modality('MR'), send }]))

  t.diagnostic(`${count} studies in ${Math.round(performance.now() - begin)} ms`)
  assert.deepEqual([run.studiesDone, run.counts.lost], [count, count / 2])
  assert.ok(performance.now() - begin < 60_000)
})
