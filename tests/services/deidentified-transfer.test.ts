import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { cp, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { stringOf } from '../../gateway/dicom/dataset.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import type { NewElement } from '../../gateway/dicom/part10-writer.ts'
import { loadCertificate } from '../../gateway/services/certificates.ts'
import { openProjectKeys } from '../../gateway/services/project-keys.ts'
import type { Peer } from '../../peers/peer.ts'
import { Deidentifier, memorySpool } from '../../policy/deid/engine.ts'
import { presetProfile } from '../../policy/deid/presets.ts'
import { deepStrings } from '../deid/support.ts'
import { type BuiltInstance, buildInstance } from '../support/dicom-builder.ts'
import {
  auditOf,
  buildStudy,
  deliver,
  type FederationSite,
  makePeers,
  planTransfer,
  startFederationSite,
  transferOf,
  untilState,
  visibleAt,
} from '../support/federation.ts'
import { type LogLine, memoryLog } from '../support/memory-log.ts'
import { caller } from '../support/principals.ts'

/** Everything below a directory, as one text. */
async function bytesBelow(dir: string): Promise<string> {
  const parts: string[] = []
  for (const entry of await readdir(dir, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name)
    parts.push(path)
    if (entry.isFile()) parts.push((await readFile(path)).toString('latin1'))
  }
  return parts.join('\n')
}

/** Every value of every table, as one text. */
async function databaseText(site: FederationSite): Promise<string> {
  const { rows } = await site.db.pool.query<{ name: string }>(
    'select quote_ident(table_name) as name from information_schema.tables where table_schema = current_schema()',
  )
  const texts: string[] = []
  for (const { name } of rows) {
    const all = await site.db.pool.query<{ text: string }>(`select t::text as text from ${name} t`)
    texts.push(name, ...all.rows.map(row => row.text))
  }
  return texts.join('\n')
}

async function sent(
  site: FederationSite,
  to: Peer,
  study: readonly BuiltInstance[],
  profile = 'trial',
): Promise<string> {
  const id = await planTransfer(site, to, study, { profile })
  await deliver(site, id)
  await untilState(site, id, 'receipted')
  return id
}

async function storedAt(site: FederationSite, sopInstanceUid: string) {
  const row = await site.db.kysely
    .selectFrom('instances')
    .select('file_sha256')
    .where('sop_instance_uid', '=', sopInstanceUid)
    .executeTakeFirstOrThrow()
  const bytes = await readFile(site.blobs.path(row.file_sha256))
  return await readPart10(bufferSource(bytes))
}

test('nothing that identifies is in the manifest, in logs, or on disk and in the database of the receiver', async t => {
  const lines: LogLine[] = []
  const log = memoryLog(lines)
  const a = await startFederationSite(t, { name: 'A', log })
  const b = await startFederationSite(t, { name: 'B', log })
  const { ofA } = await makePeers(a, b)
  const marked = (seed: number): BuiltInstance =>
    buildInstance({
      seed,
      patientName: 'QZNAME^QZGIVEN',
      patientId: 'QZID-4711',
      studyInstanceUid: '1.2.826.0.1.3680043.10.9.777',
      seriesInstanceUid: '1.2.826.0.1.3680043.10.9.777.1',
      sopInstanceUid: `1.2.826.0.1.3680043.10.9.777.1.${seed}`,
      extra: [
        { tag: 0x00080050, value: 'QZACC' },
        { tag: 0x00080090, value: 'QZDOCTOR' },
        { tag: 0x00081030, value: 'Thorax of QZNAME' },
        { tag: 0x00100030, value: '19610203' },
      ],
    })
  const study = [marked(1), marked(2), marked(3)]

  const id = await sent(a, ofA, study)

  const [disk, database] = await Promise.all([bytesBelow(b.dataDir), databaseText(b)])
  const manifest = (await transferOf(a, id)).manifest?.toString('latin1') ?? ''
  const payload = Buffer.from(JSON.parse(manifest).payload, 'base64').toString('utf8')
  for (const marker of ['QZNAME', 'QZGIVEN', 'QZID', '4711', 'QZACC', 'QZDOCTOR', '19610203', '43.10.9.777']) {
    assert.ok(!disk.includes(marker), `${marker} on the receiver's disk`)
    assert.ok(!database.includes(marker), `${marker} in the receiver's database`)
    assert.ok(!payload.includes(marker), `${marker} in the manifest`)
    assert.ok(!JSON.stringify(lines).includes(marker), `${marker} in a log`)
  }
  for (const { bytes } of study) {
    const digest = createHash('sha256').update(bytes).digest('hex')
    assert.ok(!disk.includes(digest) && !database.includes(digest) && !payload.includes(digest))
  }
  assert.ok(lines.length > 0)
  assert.equal((await visibleAt(b)).length, 3)
  assert.deepEqual(await readdir(join(a.dataDir, 'outbox')), [], 'nothing is left in the outbox')
  const steps = await a.db.kysely.selectFrom('transfer_steps').select('step').orderBy('id').execute()
  assert.deepEqual(
    steps.map(row => row.step),
    ['prepared', 'signed', 'accepted', 'sent', 'receipted'],
  )
})

test('what one instance is held for holds the transfer: nothing is sent, and the reason is kept', async t => {
  const a = await startFederationSite(t, { name: 'A' })
  const b = await startFederationSite(t, { name: 'B' })
  const { ofA } = await makePeers(a, b)
  const [first, second] = buildStudy(2)
  assert.ok(first && second)
  const ultrasound = buildInstance({
    seed: 9,
    modality: 'US',
    studyInstanceUid: first.studyInstanceUid,
    patientId: first.patientId,
    patientName: 'TEST^PATIENT^1',
  })
  const id = await planTransfer(a, ofA, [first, second, ultrasound], { profile: 'trial' })

  await deliver(a, id)
  await untilState(a, id, 'held')

  const { error_code, error, manifest } = await transferOf(a, id)
  const reasons = await a.db.kysely.selectFrom('quarantine').selectAll().execute()
  assert.deepEqual([error_code, manifest], ['DEIDENTIFICATION_HELD', null])
  assert.match(error ?? '', /^1 of 3 instances: /)
  assert.deepEqual(
    reasons.map(row => [row.transfer, row.sop_instance_uid, row.reason_code, row.state]),
    [[id, ultrasound.sopInstanceUid, 'burned-in', 'held']],
  )
  assert.ok(Array.isArray(reasons[0]?.evidence) && reasons[0].evidence.length > 0)
  assert.ok((await auditOf(a)).some(event => event.event === '110113' && event.reason === 'DEIDENTIFICATION_HELD'))
  assert.deepEqual(await readdir(join(a.dataDir, 'outbox')), [])
  assert.deepEqual(await b.db.kysely.selectFrom('inbound_transfers').select('id').execute(), [])
})

test('a study that was prepared in part goes on where it was, to the same bytes', async t => {
  const a = await startFederationSite(t, { name: 'A' })
  const b = await startFederationSite(t, { name: 'B' })
  const { ofA } = await makePeers(a, b)
  const study = buildStudy(12)
  const first = await sent(a, ofA, study, 'basic')
  const before = await a.db.kysely.selectFrom('transfer_outputs').selectAll().orderBy('ordinal').execute()
  const again = await planTransfer(a, ofA, study, { profile: 'basic' })
  // As a killed gateway leaves it: some outputs with their rows, one without, one torn.
  await mkdir(join(a.dataDir, 'outbox', again), { recursive: true })
  const { sha256 } = before[0] ?? {}
  assert.ok(sha256)
  await cp(b.blobs.path(sha256), join(a.dataDir, 'outbox', again, '0'))
  await cp(b.blobs.path(sha256), join(a.dataDir, 'outbox', again, '5'))
  await writeFile(join(a.dataDir, 'outbox', again, '6'), 'torn')
  await a.db.pool.query(
    'insert into transfer_outputs select $1, ordinal, sop_instance_uid, study_instance_uid, transfer_syntax_uid, ' +
      'size_bytes, sha256, facts from transfer_outputs where transfer = $2 and ordinal = 0',
    [again, first],
  )

  await deliver(a, again)
  await untilState(a, again, 'receipted')

  const after = await a.db.kysely
    .selectFrom('transfer_outputs')
    .selectAll()
    .where('transfer', '=', again)
    .orderBy('ordinal')
    .execute()
  assert.deepEqual(
    after.map(row => row.sha256.toString('hex')),
    before.map(row => row.sha256.toString('hex')),
  )
  assert.equal((await visibleAt(b)).length, 12)
})

test('late objects of another process refer to what was sent, intervals are exact, two recipients have nothing in common', async t => {
  const [a, b, c] = await Promise.all(['A', 'B', 'C'].map(name => startFederationSite(t, { name })))
  assert.ok(a && b && c)
  const { ofA: toB } = await makePeers(a, b)
  const { ofA: toC } = await makePeers(a, c)
  const dated = (seed: number, date: string): BuiltInstance =>
    buildInstance({ seed, patientId: 'SAME', patientName: 'SAME^ONE', extra: [{ tag: 0x00080020, value: date }] })
  const [first, second] = [dated(1, '20240229'), dated(2, '20250228')]
  const reference: NewElement[] = [
    { tag: 0x00081150, value: first.sopClassUid },
    { tag: 0x00081155, value: first.sopInstanceUid },
  ]
  const report: NewElement[] = [
    { tag: 0x0040a010, value: 'CONTAINS' },
    { tag: 0x0040a040, value: 'IMAGE' },
    { tag: 0x00081199, items: [reference] },
  ]
  // SR, RTSTRUCT and SEG, each with the sequence in which it refers to images.
  const lateObjects = (
    [
      ['1.2.840.10008.5.1.4.1.1.88.22', { tag: 0x0040a730, items: [report] }],
      [
        '1.2.840.10008.5.1.4.1.1.481.3',
        { tag: 0x30060039, items: [[{ tag: 0x30060040, items: [[{ tag: 0x30060016, items: [reference] }]] }]] },
      ],
      ['1.2.840.10008.5.1.4.1.1.66.4', { tag: 0x00081115, items: [[{ tag: 0x0008114a, items: [reference] }]] }],
    ] as const
  ).map(([sopClassUid, element], index) =>
    buildInstance({
      seed: 4 + index,
      patientId: 'SAME',
      patientName: 'SAME^ONE',
      sopClassUid,
      studyInstanceUid: first.studyInstanceUid,
      extra: [element, { tag: 0x00080020, value: '20240229' }],
    }),
  )
  const outputOf = async (site: FederationSite, transfer: string): Promise<string> => {
    const [row] = await site.db.kysely
      .selectFrom('transfer_outputs')
      .select('sop_instance_uid')
      .where('transfer', '=', transfer)
      .execute()
    return row?.sop_instance_uid ?? ''
  }

  const ids = [await sent(a, toB, [first]), await sent(a, toB, [second])]
  const other = await sent(a, toC, [first])
  // Another process: nothing of the first one's memory, its database and its keys.
  const projects = openProjectKeys({ db: a.db, dir: join(a.dataDir, 'keys', 'projects') })
  const [project] = await a.pseudonyms.projects(caller('token:anna'))
  const { key } = await projects.load(project?.id ?? 0)
  const trial = presetProfile('trial')
  assert.ok(trial)
  const outcomes = await Promise.all(
    lateObjects.map(({ bytes }) => new Deidentifier(trial, key).run(bufferSource(bytes), memorySpool)),
  )
  const later: string[] = []
  for (const late of lateObjects) later.push(await sent(a, toB, [late]))

  const [one, two] = await Promise.all(ids.map(async id => await storedAt(b, await outputOf(a, id))))
  const elsewhere = await storedAt(c, await outputOf(a, other))
  assert.ok(one && two)
  const of = (file: typeof one, tag: number): string => stringOf(file.dataset, tag) ?? ''
  for (const [index, outcome] of outcomes.entries()) {
    assert.ok(outcome.kind === 'done')
    const { sopInstanceUid } = outcome.certificate
    assert.equal(sopInstanceUid, await outputOf(a, later[index] ?? ''), 'the same object by transfer')
    const { dataset } = await storedAt(b, sopInstanceUid)
    assert.deepEqual(deepStrings(dataset, 'ReferencedSOPInstanceUID'), [of(one, 0x00080018)])
    for (const tag of [0x0020000d, 0x00100020, 0x00080020]) assert.equal(stringOf(dataset, tag), of(one, tag))
  }
  assert.equal(dayOf(of(two, 0x00080020)) - dayOf(of(one, 0x00080020)), 365)
  assert.equal(of(one, 0x00100020), of(two, 0x00100020))
  for (const tag of [0x00080018, 0x0020000d, 0x0020000e, 0x00100020, 0x00080020])
    assert.notEqual(of(one, tag), of(elsewhere, tag))
  assert.equal((await a.pseudonyms.projects(caller('token:anna'))).length, 2)
})

const dayOf = (date: string): number =>
  Date.parse(`${date.slice(0, 4)}-${date.slice(4, 6)}-${date.slice(6)}`) / 86_400_000

test('a certificate travels with the transfer, is verified, kept by both sites, and names nothing of the source', async t => {
  const a = await startFederationSite(t, { name: 'A' })
  const b = await startFederationSite(t, { name: 'B' })
  const { ofA } = await makePeers(a, b)
  const study = buildStudy(3)

  const id = await sent(a, ofA, study)

  const inbound = await b.db.kysely.selectFrom('inbound_transfers').select('id').executeTakeFirstOrThrow()
  const [issued, received] = await Promise.all([
    loadCertificate(a.db.kysely, id),
    loadCertificate(b.db.kysely, inbound.id),
  ])
  assert.deepEqual([issued.direction, received.direction], ['issued', 'received'])
  assert.equal(received.envelope, issued.envelope)
  const { statement } = received
  assert.ok(isObject(statement) && isObject(statement['objects']) && isObject(statement['profile']))
  assert.deepEqual(
    [
      statement['from'],
      statement['to'],
      statement['dates'],
      statement['profile']['name'],
      statement['objects']['count'],
    ],
    [a.keys.siteId, b.keys.siteId, 'shifted', 'trial', 3],
  )
  const text = JSON.stringify(statement)
  for (const { bytes, sopInstanceUid, studyInstanceUid } of study)
    for (const secret of [createHash('sha256').update(bytes).digest('hex'), sopInstanceUid, studyInstanceUid])
      assert.ok(!text.includes(secret))
  const plain = await planTransfer(a, ofA, buildStudy(1, { seed: 30 }))
  await deliver(a, plain)
  await untilState(a, plain, 'receipted')
  await assert.rejects(loadCertificate(a.db.kysely, plain), { code: 'NOT_FOUND' })
})
