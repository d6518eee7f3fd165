import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { sql } from 'kysely'
import type { Db } from '../../gateway/db/db.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { type Ingest, type IngestResult, openIngest } from '../../gateway/services/ingest.ts'
import type { Blobs } from '../../gateway/store/blobs.ts'
import { recordStable, sequenceChanges } from '../../gateway/store/changes.ts'
import type { Origin } from '../../gateway/store/origin.ts'
import { testBlobs } from '../support/blobs.ts'
import { testDatabase } from '../support/database.ts'
import { type BuiltInstance, buildInstance } from '../support/dicom-builder.ts'

const modality: Origin = { kind: 'dimse', principal: 'CT_1', callingAe: 'CT_1', calledAe: 'HANSE' }

interface Fixture {
  readonly db: Db
  readonly blobs: Blobs
  readonly ingest: Ingest
  store(instance: BuiltInstance, origin?: Origin): Promise<IngestResult>
  counts(): Promise<Record<string, number>>
}

async function open(
  t: TestContext,
  options: { ownIssuers?: ReadonlySet<string>; overwrites?: boolean } = {},
): Promise<Fixture> {
  const db = await testDatabase(t)
  const blobs = await testBlobs(t)
  const ingest = openIngest({ db, blobs, dueAt: () => new Date('2026-01-02T03:04:05Z'), ...options })
  return {
    db,
    blobs,
    ingest,
    async store(instance, origin = modality) {
      const staged = await ingest.stage()
      await staged.append([instance.bytes.subarray(0, instance.bytes.length - instance.dataset.length)])
      staged.markDataset()
      await staged.append([instance.dataset])
      return await ingest.store(await staged.finish(), origin)
    },
    async counts() {
      const tables = ['patients', 'studies', 'series', 'instances', 'conflicts', 'audit_events'] as const
      const counts: Record<string, number> = {}
      for (const table of tables) {
        const { rows } = await sql<{ n: number }>`select count(*)::int as n from ${sql.table(table)}`.execute(db.kysely)
        counts[table] = rows[0]?.n ?? -1
      }
      return counts
    },
  }
}

test('an instance is durable, indexed and audited when store returns', async t => {
  const { store, counts, blobs, db } = await open(t)
  const instance = buildInstance({ seed: 7 })

  const result = await store(instance)

  assert.equal(result.kind, 'stored')
  const row = await db.kysely.selectFrom('instances').selectAll().executeTakeFirstOrThrow()
  assert.equal(row.sop_instance_uid, instance.sopInstanceUid)
  const blob = await blobs.open(row.file_sha256)
  assert.deepEqual(Buffer.from(await blob.read(0, blob.sizeBytes)), Buffer.from(instance.bytes))
  await blob.close()
  assert.deepEqual(await counts(), { patients: 1, studies: 1, series: 1, instances: 1, conflicts: 0, audit_events: 1 })
  const study = await db.kysely.selectFrom('studies').selectAll().executeTakeFirstOrThrow()
  assert.deepEqual(
    [study.instance_count, study.size_bytes, study.modalities, study.due_at?.toISOString()],
    [1, instance.bytes.length, ['CT'], '2026-01-02T03:04:05.000Z'],
  )
})

test('the same data set again is a duplicate, whatever file meta it came with', async t => {
  const { store, counts, ingest } = await open(t)
  const instance = buildInstance({ seed: 8 })
  await store(instance)

  const again = await store(instance)
  const staged = await ingest.stage()
  const meta = Buffer.from(instance.bytes.subarray(0, instance.bytes.length - instance.dataset.length))
  meta.fill(0x20, 0, 128) // another preamble
  await staged.append([meta])
  staged.markDataset()
  await staged.append([instance.dataset])
  const otherMeta = await ingest.store(await staged.finish(), modality)

  assert.deepEqual([again.kind, otherMeta.kind], ['duplicate', 'duplicate'])
  assert.equal((await counts())['instances'], 1)
})

test('what is sent again where a site overwrites is awaited and told stable again, once', async t => {
  const { store, db } = await open(t, { overwrites: true })
  const told = async (): Promise<number[]> => {
    await sequenceChanges(db)
    const { rows } = await sql<{ seq: number }>`
      select seq::float8 as seq from changes where kind = 'StableStudy' order by seq
    `.execute(db.kysely)
    return rows.map(({ seq }) => seq)
  }
  const settle = async (): Promise<void> => {
    const { id } = await db.kysely.selectFrom('studies').select('id').executeTakeFirstOrThrow()
    await db.inTransaction(tx => recordStable(tx, Number(id)))
    await db.kysely.updateTable('studies').set({ due_at: null }).execute()
  }
  const instance = buildInstance({ seed: 9 })
  await store(instance)
  await settle()
  const [first = 0] = await told()

  assert.equal((await store(instance)).kind, 'duplicate')

  const study = await db.kysely.selectFrom('studies').selectAll().executeTakeFirstOrThrow()
  assert.equal(study.due_at?.toISOString(), '2026-01-02T03:04:05.000Z')
  await settle()
  const [second = 0, ...others] = await told()
  assert.deepEqual(others, [])
  assert.ok(second > first && first > 0)
})

test('other content under a known SOP Instance UID is held beside it, once, and never overwrites', async t => {
  const { store, counts, blobs, db } = await open(t)
  const first = buildInstance({ seed: 9, patientName: 'TEST^ONE' })
  const other = buildInstance({ seed: 9, patientName: 'TEST^TWO' })
  await store(first)

  const result = await store(other)
  const repeated = await store(other)

  assert.equal(result.kind, 'conflict')
  assert.deepEqual(result, repeated)
  const held = await db.kysely.selectFrom('conflicts').selectAll().executeTakeFirstOrThrow()
  const blob = await blobs.open(held.file_sha256)
  assert.deepEqual(Buffer.from(await blob.read(0, blob.sizeBytes)), Buffer.from(other.bytes))
  await blob.close()
  assert.equal((await counts())['conflicts'], 1)
})

test('bytes that were discarded and come again are held again', async t => {
  const { store, db } = await open(t)
  await store(buildInstance({ seed: 11, patientName: 'TEST^ONE' }))
  const other = buildInstance({ seed: 11, patientName: 'TEST^TWO' })
  await store(other)
  await db.kysely.updateTable('conflicts').set({ state: 'discarded' }).execute()

  await store(other)

  assert.deepEqual(await db.kysely.selectFrom('conflicts').select('state').execute(), [{ state: 'held' }])
})

test('the same UID in another transfer syntax is a variant', async t => {
  const { store } = await open(t)
  await store(buildInstance({ seed: 10 }))

  const result = await store(buildInstance({ seed: 10, transferSyntaxUid: '1.2.840.10008.1.2' }))

  assert.equal(result.kind, 'variant')
})

test('instances that arrive together are committed together, each with its own outcome', async t => {
  const { store, counts, db } = await open(t)
  const study = '2.25.1'
  const many = Array.from({ length: 150 }, (_, index) =>
    buildInstance({
      seed: 100 + (index % 120),
      studyInstanceUid: study,
      seriesInstanceUid: `2.25.2${index % 3}`,
      patientId: 'TEST-1',
      rows: 8,
      cols: 8,
    }),
  )

  const results = await Promise.all(many.map(instance => store(instance)))

  assert.equal(results.filter(result => result.kind === 'stored').length, 120)
  const row = await db.kysely.selectFrom('studies').select('instance_count').executeTakeFirstOrThrow()
  assert.equal(row.instance_count, 120)
  const series = await db.kysely.selectFrom('series').select('instance_count').execute()
  assert.equal(
    series.reduce((sum, { instance_count }) => sum + instance_count, 0),
    120,
  )
  assert.equal((await counts())['instances'], 120)
})

test('two processes that store the same study at once lose nothing and count right', async t => {
  const { db, blobs, store } = await open(t)
  const second = openIngest({ db, blobs, dueAt: () => undefined })
  const many = Array.from({ length: 60 }, (_, index) =>
    buildInstance({
      seed: 300 + index,
      studyInstanceUid: '2.25.5',
      seriesInstanceUid: '2.25.6',
      patientId: 'TEST-5',
      rows: 8,
      cols: 8,
    }),
  )

  const results = await Promise.all(
    many.flatMap(instance => [
      store(instance),
      (async () => {
        const staged = await second.stage()
        staged.markDataset()
        await staged.append([instance.dataset])
        return await second.store(await staged.finish(), modality)
      })().catch((error: unknown) => error),
    ]),
  )

  const stored = results.filter(
    result => typeof result === 'object' && result !== null && 'kind' in result && result.kind === 'stored',
  )
  assert.equal(stored.length, 60)
  const row = await db.kysely.selectFrom('studies').select('instance_count').executeTakeFirstOrThrow()
  assert.equal(row.instance_count, 60)
})

test("another issuer's patient of the same id stays another patient, unless the issuer is the site's own", async t => {
  const { store, counts } = await open(t, { ownIssuers: new Set(['OUR_HOSPITAL']) })
  const issuer = (value: string) => [{ tag: 0x00100021, value }]
  await store(buildInstance({ seed: 20, patientId: '12345' }))
  await store(buildInstance({ seed: 21, patientId: '12345', extra: issuer('OUR_HOSPITAL') }))
  await store(buildInstance({ seed: 22, patientId: '12345', extra: issuer('ELSEWHERE') }))

  assert.equal((await counts())['patients'], 2)
})

test('a data set that is not the one announced is refused and leaves nothing', async t => {
  const { ingest, counts, blobs } = await open(t)
  const instance = buildInstance({ seed: 30 })
  const staged = await ingest.stage()
  staged.markDataset()
  await staged.append([instance.bytes])
  const announced = { ...instance, sopInstanceUid: '2.25.999' }

  await assert.rejects(ingest.store(await staged.finish(), modality, announced), (error: unknown) =>
    isGatewayError(error, 'DICOM_MISMATCH'),
  )

  assert.equal((await counts())['instances'], 0)
  for await (const _ of blobs.list()) assert.fail('a blob was left')
})

test('one object that the database cannot take does not fail those that arrived with it', async t => {
  const { store, db } = await open(t)
  await sql`alter table instances add constraint refuse_one check (sop_instance_uid <> '2.25.666')`.execute(db.kysely)

  const results = await Promise.allSettled(
    ['2.25.664', '2.25.665', '2.25.666', '2.25.667'].map((sopInstanceUid, index) =>
      store(buildInstance({ seed: 40 + index, sopInstanceUid, studyInstanceUid: '2.25.7', patientId: 'TEST-7' })),
    ),
  )

  assert.deepEqual(
    results.map(result => result.status),
    ['fulfilled', 'fulfilled', 'rejected', 'fulfilled'],
  )
})
