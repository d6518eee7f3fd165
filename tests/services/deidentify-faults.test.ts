import assert from 'node:assert/strict'
import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { type Deidentify, openDeidentify } from '../../gateway/services/deidentify.ts'
import { Deidentifier, memorySpool, type Step, steps } from '../../policy/deid/engine.ts'
import { type BuiltInstance, buildInstance } from '../support/dicom-builder.ts'
import {
  acceptEverything,
  auditOf,
  buildStudy,
  deliver,
  type FederationSite,
  type FederationSiteOptions,
  makePeers,
  planTransfer,
  startFederationSite,
  transferOf,
  untilState,
  visibleAt,
} from '../support/federation.ts'
import { until } from '../support/until.ts'

async function twoSites(t: TestContext, options: Partial<FederationSiteOptions> = {}) {
  const a = await startFederationSite(t, { name: 'A', ...options })
  const b = await startFederationSite(t, { name: 'B' })
  const { ofA } = await makePeers(a, b)
  const send = async (study: readonly BuiltInstance[], profile = 'trial'): Promise<string> => {
    const id = await planTransfer(a, ofA, study, { profile })
    await deliver(a, id)
    return id
  }
  return { a, b, ofA, send }
}

async function nothingWasSent(a: FederationSite, b: FederationSite): Promise<void> {
  assert.deepEqual(await b.db.kysely.selectFrom('inbound_transfers').select('id').execute(), [])
  assert.deepEqual(await readdir(join(a.dataDir, 'outbox')).catch(() => []), [])
}

async function heldFor(site: FederationSite, id: string): Promise<[code: string, isAlert: boolean][]> {
  const rows = await site.db.kysely
    .selectFrom('quarantine')
    .select(['reason_code', 'is_alert'])
    .where('transfer', '=', id)
    .where('state', '=', 'held')
    .orderBy('id')
    .execute()
  return rows.map(row => [row.reason_code, row.is_alert])
}

/** The real engine, which is interrupted at a step. */
function failingAt(step: () => Step): Deidentify {
  const real = openDeidentify({ threads: 1 })
  return {
    ...real,
    async run({ profile, key }, { sourcePath }) {
      const source = bufferSource(await readFile(sourcePath))
      const outcome = await new Deidentifier(profile, key).run(source, memorySpool, {
        onStep: now => {
          if (now === step()) throw new TypeError('QZSECRET of the patient')
        },
      })
      assert.ok(outcome.kind === 'held')
      return outcome
    },
  }
}

test('an exception at any step of the engine holds the transfer and alarms; nothing is sent or told', async t => {
  let step: Step = 'read'
  const { a, b, send } = await twoSites(t, { deidentify: failingAt(() => step) })
  for (const [index, name] of steps.entries()) {
    step = name
    const id = await send(buildStudy(2, { seed: index + 1 }))
    await untilState(a, id, 'held')

    assert.deepEqual(await heldFor(a, id), Array(2).fill(['internal', true]), name)
    const { error } = await transferOf(a, id)
    assert.match(error ?? '', /^all 2 instances: the engine failed/, name)
  }
  await nothingWasSent(a, b)
  const alarms = (await auditOf(a)).filter(event => event.reason === 'DEIDENTIFICATION_HELD')
  assert.deepEqual(
    alarms.map(event => event.outcome),
    steps.map(() => 'serious-failure'),
  )
  const { rows } = await a.db.pool.query<{ text: string }>(
    'select q::text as text from quarantine q union all select e::text from audit_events e union all select t::text from transfers t',
  )
  assert.ok(!rows.some(row => row.text.includes('QZSECRET')))
})

test('hostile and damaged instances are held with their own reasons', async t => {
  const { a, b, ofA } = await twoSites(t)
  const [good, damaged, missing] = buildStudy(3)
  assert.ok(good && damaged && missing)
  const { studyInstanceUid, patientId } = good
  const like = { studyInstanceUid, patientId, patientName: 'TEST^PATIENT^1' }
  const broken = buildInstance({ ...like, seed: 50 })
  const cut = { ...broken, bytes: broken.bytes.subarray(0, 700) }
  const unknown = buildInstance({ ...like, seed: 51, sopClassUid: '1.2.840.113619.4.26' })
  const charset = buildInstance({ ...like, seed: 52, charset: 'KLINGON' })
  const id = await planTransfer(a, ofA, [good, damaged, missing, cut, unknown, charset], {
    profile: 'trial',
  })
  const items = await a.db.kysely.selectFrom('transfer_items').select(['ordinal', 'file_sha256']).execute()
  const pathOf = (ordinal: number): string =>
    a.blobs.path(items.find(item => item.ordinal === ordinal)?.file_sha256 ?? Buffer.alloc(32))
  const bytes = await readFile(pathOf(1))
  bytes[bytes.length - 1] = (bytes[bytes.length - 1] ?? 0) ^ 1
  await writeFile(pathOf(1), bytes)
  await rm(pathOf(2))

  await deliver(a, id)
  await untilState(a, id, 'held')

  assert.deepEqual((await heldFor(a, id)).sort(), [
    ['character-set', false],
    ['sop-class', false],
    ['unreadable', false],
    ['unreadable', true],
    ['unreadable', true],
  ])
  await nothingWasSent(a, b)
})

test('instances of two patients in one study, a pseudonym that is missing, a key that is gone: each holds', async t => {
  const lookup = { format: 'hanse-deid-1', name: 'looked-up', basis: 'consent', pseudonym: { kind: 'lookup' } }
  const { a, b, send } = await twoSites(t, { policy: { ...acceptEverything, profiles: [lookup] } })
  const [one] = buildStudy(1)
  assert.ok(one)
  const other = buildInstance({ seed: 60, studyInstanceUid: one.studyInstanceUid, patientId: 'SOMEBODY-ELSE' })

  const mixed = await send([one, other])
  await untilState(a, mixed, 'held')
  const nameless = await send(buildStudy(1, { seed: 2 }), 'looked-up')
  await untilState(a, nameless, 'held')
  for (const name of await readdir(join(a.dataDir, 'keys', 'projects')))
    await rm(join(a.dataDir, 'keys', 'projects', name))
  const keyless = await send(buildStudy(1, { seed: 3 }))
  await untilState(a, keyless, 'held')

  assert.deepEqual(await heldFor(a, mixed), [['subjects', true]])
  assert.deepEqual(await heldFor(a, nameless), [['no-pseudonym', false]])
  assert.equal((await transferOf(a, keyless)).error_code, 'PROJECT_KEY')
  await nothingWasSent(a, b)
})

test('an engine that does not answer in time holds', async t => {
  const { a, b, send } = await twoSites(t, { deidentify: openDeidentify({ threads: 1, deadlineMs: 0 }) })

  const id = await send(buildStudy(2))
  await untilState(a, id, 'held')

  assert.deepEqual(await heldFor(a, id), Array(2).fill(['internal', true]))
  await nothingWasSent(a, b)
})

test('a disk or a database that fails sends nothing, and what waits goes on by itself', async t => {
  let freeBytes = 2 ** 40
  const measure = async () => ({ freeBytes, totalBytes: 2 ** 40 })
  const { a, b, ofA, send } = await twoSites(t, { freeSpace: { measure, lowWatermarkBytes: 2 ** 20 } })
  const untilTrouble = (id: string, code: string) =>
    until(code, 30_000, async () => (await transferOf(a, id)).error_code === code)
  const goesOn = async (id: string): Promise<void> => {
    await a.db.pool.query('update transfers set next_attempt_at = null where id = $1', [id])
    await deliver(a, id)
    await untilState(a, id, 'receipted', 60_000)
  }

  const full = await planTransfer(a, ofA, buildStudy(2), { profile: 'trial' })
  freeBytes = 0
  await until('the full disk is noticed', 30_000, async () => (await a.blobs.freeSpace()).refusing)
  await deliver(a, full)
  await untilTrouble(full, 'STORAGE_FULL')
  await nothingWasSent(a, b)
  freeBytes = 2 ** 40
  await goesOn(full)

  await rm(join(a.dataDir, 'outbox'), { recursive: true, force: true })
  await writeFile(join(a.dataDir, 'outbox'), 'in the way')
  const blocked = await send(buildStudy(2, { seed: 2 }))
  await untilTrouble(blocked, 'STORAGE_IO')
  await rm(join(a.dataDir, 'outbox'))
  await goesOn(blocked)

  await a.db.pool.query(`create function refuse() returns trigger language plpgsql as
    $$ begin raise exception 'no' using errcode = '53100'; end $$`)
  await a.db.pool.query('create trigger refuse before insert on transfer_outputs execute function refuse()')
  const unwritten = await send(buildStudy(2, { seed: 3 }))
  await until('an attempt has failed', 30_000, async () => (await transferOf(a, unwritten)).attempts > 0)
  assert.equal((await transferOf(a, unwritten)).state, 'planned')
  await a.db.pool.query('drop trigger refuse on transfer_outputs')
  await goesOn(unwritten)

  assert.equal((await visibleAt(b)).length, 6)
})
