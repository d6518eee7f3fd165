import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { rm, truncate, writeFile } from 'node:fs/promises'
import { type TestContext, test } from 'node:test'
import type { Db } from '../../gateway/db/db.ts'
import type { Blobs } from '../../gateway/store/blobs.ts'
import { type FsckReport, fsck } from '../../gateway/store/fsck.ts'
import { listReferences, referenceCheck } from '../../gateway/store/references.ts'
import { storeBytes, testBlobs } from '../support/blobs.ts'
import { testDatabase } from '../support/database.ts'
import { insertStudy } from '../support/rows.ts'

test('a clean store is clean, and every byte was read', async t => {
  const { db, blobs } = await storeOf(t, 30)

  const report = await fsck({ db, blobs, repair: 'nothing' })

  assert.deepEqual(report, {
    ok: true,
    blobs: 30,
    bytesRead: 30 * 1_000,
    problems: [],
    problemCount: 0,
    orphans: 0,
    orphanBytes: 0,
    repaired: { orphans: 0, counters: 0 },
  } satisfies FsckReport)
})

test('one changed byte on disk is named by digest and SOP Instance UID', async t => {
  const { db, blobs, stored } = await storeOf(t, 5)
  const victim = stored[3]
  assert.ok(victim)
  const damaged = Buffer.from(victim.bytes)
  damaged[500] = (damaged[500] ?? 0) ^ 1
  await writeFile(blobs.path(victim.fileSha256), damaged)

  const report = await fsck({ db, blobs, repair: 'safe' })

  assert.equal(report.ok, false)
  assert.deepEqual(report.problems, [
    {
      kind: 'damaged',
      sha256: victim.fileSha256.toString('hex'),
      sopInstanceUid: victim.sopInstanceUid,
      sources: ['instance'],
      detail: `the file (1000 bytes) has the digest ${createHash('sha256').update(damaged).digest('hex')}`,
    },
  ])
  assert.equal(await blobs.has(victim.fileSha256), true) // repair never touches bytes
})

test('a missing and a shortened blob are named', async t => {
  const { db, blobs, stored } = await storeOf(t, 4)
  const [missing, short] = stored
  assert.ok(missing && short)
  await rm(blobs.path(missing.fileSha256))
  await truncate(blobs.path(short.fileSha256), 10)

  const all = await fsck({ db, blobs, repair: 'nothing' })
  const names = await fsck({ db, blobs, repair: 'nothing', compare: 'names' })

  const found = (report: FsckReport): string[] =>
    report.problems.map(p => (p.kind === 'counter' ? '' : `${p.kind} ${p.sopInstanceUid}`)).sort()
  assert.deepEqual(found(all), [
    `damaged ${short.sopInstanceUid}`,
    `missing ${missing.sopInstanceUid}`,
    `size ${short.sopInstanceUid}`,
  ])
  assert.deepEqual(found(names), [`missing ${missing.sopInstanceUid}`, `size ${short.sopInstanceUid}`])
  assert.equal(names.bytesRead, 0)
})

test('an orphan is no problem, and repair removes it once it is old', async t => {
  const { db, blobs } = await storeOf(t, 2)
  const orphan = await storeBytes(blobs, Buffer.from('nobody names these bytes'))

  const young = await fsck({ db, blobs, repair: 'safe' })
  const seen = await fsck({ db, blobs, repair: 'nothing', graceMs: 0 })
  const repaired = await fsck({ db, blobs, repair: 'safe', graceMs: 0 })

  assert.deepEqual([young.orphans, seen.orphans, seen.orphanBytes, seen.ok], [0, 1, 24, true])
  assert.equal(repaired.repaired.orphans, 1)
  assert.equal(await blobs.has(orphan), false)
  assert.equal((await fsck({ db, blobs, repair: 'nothing', graceMs: 0 })).orphans, 0)
})

test('a wrong counter is named, and repair sets it right', async t => {
  const { db, blobs, study } = await storeOf(t, 3)
  await db.kysely.updateTable('studies').set({ instance_count: 7, size_bytes: 1 }).where('id', '=', study).execute()
  await db.kysely.updateTable('series').set({ instance_count: 0 }).where('study', '=', study).execute()

  const seen = await fsck({ db, blobs, repair: 'nothing' })
  const repaired = await fsck({ db, blobs, repair: 'safe' })
  const after = await fsck({ db, blobs, repair: 'nothing' })

  assert.deepEqual(
    seen.problems.map(p => p.kind === 'counter' && [p.table, p.storedInstances, p.actualInstances, p.actualBytes]),
    [
      ['studies', 7, 3, 3_000],
      ['series', 0, 3, 0],
    ],
  )
  assert.deepEqual([repaired.ok, repaired.repaired.counters], [true, 2])
  assert.equal(after.ok, true)
})

test('held conflicts, quarantine and unfinished transfers keep their bytes; what is over does not', async t => {
  const { db, blobs } = await storeOf(t, 1)
  const keep = await Promise.all(
    ['held', 'quarantined', 'to be sent'].map(text => storeBytes(blobs, Buffer.from(text))),
  )
  const drop = await Promise.all(
    ['discarded', 'rejected', 'was sent'].map(text => storeBytes(blobs, Buffer.from(text))),
  )
  await insertConflict(db, { digest: keep[0], state: 'held' })
  await insertConflict(db, { digest: drop[0], state: 'discarded' })
  for (const [digest, state] of [[keep[1], 'held'] as const, [drop[1], 'rejected'] as const]) {
    await db.kysely
      .insertInto('quarantine')
      .values({ reason_code: 'DICOM_UNREADABLE', reason: 'test', file_sha256: digest ?? null, size_bytes: null, state })
      .execute()
  }
  await insertTransfer(db, { digest: keep[2], state: 'prepared' })
  await insertTransfer(db, { digest: drop[2], state: 'receipted' })

  const report = await fsck({ db, blobs, repair: 'safe', graceMs: 0 })

  assert.deepEqual([report.ok, report.blobs, report.repaired.orphans], [true, 4, 3])
  for (const digest of keep) assert.equal(await blobs.has(digest), true)
  for (const digest of drop) assert.equal(await blobs.has(digest), false)
})

test('references come in order and complete whatever the page size', async t => {
  const { db, blobs, stored } = await storeOf(t, 20)
  for (const { fileSha256 } of stored.slice(0, 9)) {
    await insertTransfer(db, { digest: fileSha256, state: 'planned' })
    await insertTransfer(db, { digest: fileSha256, state: 'sent' })
  }
  const expected = stored.map(({ fileSha256 }) => fileSha256.toString('hex')).sort()

  for (const pageSize of [1, 2, 7, 20, 100]) {
    const found: string[] = []
    for await (const reference of listReferences(db, pageSize)) found.push(reference.sha256.toString('hex'))
    assert.deepEqual(found, expected)
  }
  const unknown = randomBytes(32)
  const named = await referenceCheck(db)([unknown, ...stored.map(({ fileSha256 }) => fileSha256)])
  assert.deepEqual([...named].sort(), expected)
  assert.equal((await blobs.sweep(referenceCheck(db), { graceMs: 0 })).removed, 0)
})

test('a check tells how far it is and stops when asked', async t => {
  const { db, blobs } = await storeOf(t, 10)
  const abort = new AbortController()
  const seen: number[] = []

  await assert.rejects(
    fsck({
      db,
      blobs,
      repair: 'nothing',
      concurrency: 1,
      signal: abort.signal,
      onProgress: ({ blobs: done, expectedBlobs }) => {
        seen.push(expectedBlobs)
        if (done >= 3) abort.abort()
      },
    }),
    { name: 'AbortError' },
  )

  assert.deepEqual(new Set(seen), new Set([10]))
  assert.equal(seen.length < 10, true)
})

interface Stored {
  readonly sopInstanceUid: string
  readonly fileSha256: Buffer
  readonly sizeBytes: number
  readonly bytes: Buffer
}

async function storeOf(
  t: TestContext,
  count: number,
): Promise<{ db: Db; blobs: Blobs; study: number; stored: readonly Stored[] }> {
  const db = await testDatabase(t)
  const blobs = await testBlobs(t)
  const stored: Stored[] = []
  for (let index = 0; index < count; index += 1) {
    const bytes = randomBytes(1_000)
    const fileSha256 = await storeBytes(blobs, bytes)
    stored.push({ sopInstanceUid: `2.25.${index + 1}`, fileSha256, sizeBytes: bytes.length, bytes })
  }
  const { study } = await insertStudy(db, stored)
  return { db, blobs, study, stored }
}

async function insertConflict(db: Db, row: { digest: Buffer | undefined; state: 'held' | 'discarded' }): Promise<void> {
  const digest = row.digest ?? Buffer.alloc(32)
  await db.kysely
    .insertInto('conflicts')
    .values({
      sop_instance_uid: `2.25.9${digest.readUInt32BE()}`,
      kind: 'conflict',
      state: row.state,
      sop_class_uid: '1.2',
      transfer_syntax_uid: '1.2',
      file_sha256: digest,
      dataset_sha256: digest,
      size_bytes: row.state === 'held' ? 4 : 9,
    })
    .execute()
}

async function insertTransfer(
  db: Db,
  row: { digest: Buffer | undefined; state: 'planned' | 'prepared' | 'sent' | 'receipted' },
): Promise<void> {
  const digest = row.digest ?? Buffer.alloc(32)
  const id = crypto.randomUUID()
  await db.kysely
    .insertInto('policy_versions')
    .values({ version: 1, document: '{}', sha256: digest, author: 'test' })
    .onConflict(oc => oc.doNothing())
    .execute()
  const known = await db.kysely
    .selectFrom('instances')
    .select('size_bytes')
    .where('file_sha256', '=', digest)
    .executeTakeFirst()
  await db.kysely
    .insertInto('transfers')
    .values({
      id,
      study_instance_uid: '2.25.1',
      destination: 'test',
      trigger: id,
      rule: 'test',
      policy_version: 1,
      profile: 'as-is',
      purpose: 'test',
      requested_by: 'test',
      snapshot_sha256: digest,
      state: row.state,
      nonce: Buffer.alloc(16),
      manifest_created: new Date(),
      object_count: 1,
      bytes_total: 10,
      expires_at: new Date(),
    })
    .execute()
  await db.kysely
    .insertInto('transfer_items')
    .values({
      transfer: id,
      ordinal: 0,
      sop_instance_uid: `2.25.8${digest.readUInt32BE()}`,
      sop_class_uid: '1.2',
      transfer_syntax_uid: '1.2',
      size_bytes: known?.size_bytes ?? 10,
      file_sha256: digest,
    })
    .execute()
}
