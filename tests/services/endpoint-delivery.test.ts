import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { readdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { type BuiltInstance, buildInstance } from '../support/dicom-builder.ts'
import { endpointFolder, filesBelow, startEndpointSite } from '../support/endpoints.ts'
import { type LogLine, memoryLog } from '../support/memory-log.ts'
import { until } from '../support/until.ts'

const study = (count = 2): BuiltInstance[] =>
  Array.from({ length: count }, (_, index) =>
    buildInstance({
      seed: index + 1,
      rows: 8,
      cols: 8,
      patientName: 'QZNAME^QZGIVEN',
      patientId: 'QZID-4711',
      studyInstanceUid: '1.2.826.0.1.3680043.10.9.777',
      seriesInstanceUid: '1.2.826.0.1.3680043.10.9.777.1',
      sopInstanceUid: `1.2.826.0.1.3680043.10.9.777.1.${index + 1}`,
      extra: [{ tag: 0x00080050, value: 'QZACC' }],
    }),
  )
const markers = ['QZNAME', 'QZGIVEN', 'QZID', 'QZACC', '43.10.9.777']

test('a study arrives at a folder de-identified, packed and certified, and nothing of the patient with it', async t => {
  const lines: LogLine[] = []
  const site = await startEndpointSite(t, { log: memoryLog(lines) })
  const root = await endpointFolder(t)
  const template = '{protocol}/{subject}/{visit}/'
  const packaging = { container: 'zip', names: { template } }
  await site.endpoints.put(site.admin, 'CRO', { kind: 'folder', settings: { root }, profile: 'trial', packaging })

  const names = { protocol: 'P-1', visit: 'V2' }
  const id = await site.send(await site.store(study()), 'CRO', { names })
  const transfer = await site.untilState(id, 'delivered')

  const files = await filesBelow(root)
  const paths = [...files.keys()].sort()
  assert.ok(paths.length >= 4 && paths.every(path => /^P-1\/[^/]+\/V2\/[^/]+$/.test(path)), paths.join(' '))
  assert.ok(paths.some(path => path.endsWith('/.done')) && paths.some(path => path.endsWith('/manifest.json')))
  const everything = `${paths.join('\n')}${[...files.values()].map(bytes => bytes.toString('latin1')).join('\n')}`
  for (const marker of markers) {
    assert.ok(!everything.includes(marker), `${marker} at the endpoint`)
    assert.ok(!JSON.stringify(lines).includes(marker), `${marker} in a log`)
  }
  assert.deepEqual(
    transfer.steps.map(({ step }) => step),
    ['planned', 'prepared', 'packed', 'delivered'],
  )
  assert.equal(transfer.endpoint, 'CRO')
  assert.equal(transfer.bytesDone, transfer.bytesTotal)
  await until('an empty outbox', 10_000, async () => (await readdir(join(site.dataDir, 'outbox'))).length === 0)
})

test('a receipt file at the endpoint ends a delivery: accepted, or rejected with the reason', async t => {
  const site = await startEndpointSite(t)
  const root = await endpointFolder(t)
  const acknowledgement = { path: 'receipt-{transfer}*.txt' }
  await site.endpoints.put(site.admin, 'CRO', { kind: 'folder', settings: { root }, profile: 'trial', acknowledgement })
  const row = await site.store(study())
  const first = await site.send(row, 'CRO')
  const second = await site.send(row, 'CRO')
  await site.untilState(first, 'delivered')
  await site.untilState(second, 'delivered')

  await writeFile(join(root, `receipt-${first}.txt`), 'Accepted\n')
  await writeFile(join(root, `receipt-${second}-1.txt`), 'REJECTED: slice thickness is not 1 mm\n')
  await site.nudge(first)
  await site.nudge(second)

  await site.untilState(first, 'receipted')
  const refused = await site.untilState(second, 'refused')
  assert.deepEqual([refused.errorCode, refused.error], ['ENDPOINT_REJECTED', 'slice thickness is not 1 mm'])
})

test('what is delivered by hand waits in a folder of ours until the confirmation of the portal is attached', async t => {
  const site = await startEndpointSite(t)
  await site.endpoints.put(site.admin, 'PORTAL', { kind: 'hand', profile: 'trial' })
  const id = await site.send(await site.store(study()), 'PORTAL')
  const delivered = await site.untilState(id, 'delivered')
  const place = join(site.dataDir, 'by-hand', id)
  assert.ok(JSON.stringify(delivered.steps).includes(place))
  assert.ok((await filesBelow(place)).size > 0)

  const said = { outcome: 'accepted', reason: '', fileName: 'portal.pdf', bytes: Buffer.from('%PDF- taken') } as const
  await site.acknowledging.acknowledge(site.admin, id, said)

  await site.untilState(id, 'receipted')
  const row = await site.db.kysely.selectFrom('transfer_acknowledgements').selectAll().executeTakeFirstOrThrow()
  assert.deepEqual([row.taken_by, row.file_name, row.size_bytes], ['admin', 'portal.pdf', 11])
  await assert.rejects(readdir(place), { code: 'ENOENT' })
})

test('a patient who objects while a delivery waits stops it, and what was there is removed', async t => {
  const site = await startEndpointSite(t)
  const root = await endpointFolder(t)
  await site.endpoints.put(site.admin, 'CRO', { kind: 'folder', settings: { root }, profile: 'trial' })
  await site.endpoints.stop(site.admin, 'CRO', 'maintenance')
  const id = await site.send(await site.store(study()), 'CRO')
  await until('a transfer that waits for the endpoint', 30_000, async () => {
    const row = await site.db.kysely.selectFrom('transfers').select('error_code').executeTakeFirstOrThrow()
    return row.error_code === 'ENDPOINT_STOPPED'
  })

  await site.db.pool.query(
    `insert into consents (id, kind, issuer, patient_id, purpose, recipient, valid_from, source, recorded_by)
     values (gen_random_uuid(), 'objection', '', 'QZID-4711', '*', '*', now() - interval '1 minute', 'paper', 'test')`,
  )
  await site.endpoints.resume(site.admin, 'CRO')

  const held = await site.untilState(id, 'held')
  assert.equal(held.errorCode, 'CONSENT_OBJECTED')
  assert.equal((await filesBelow(root)).size, 0)
})

test('a field of the path template that a send does not give is asked for when it is planned', async t => {
  const site = await startEndpointSite(t)
  const root = await endpointFolder(t)
  const packaging = { names: { template: '{protocol}/{subject}/{visit}/' } }
  await site.endpoints.put(site.admin, 'CRO', { kind: 'folder', settings: { root }, profile: 'trial', packaging })
  const row = await site.store(study())

  await assert.rejects(site.send(row, 'CRO', { names: { protocol: 'P-1' } }), {
    code: 'BAD_REQUEST',
    message: /needs visit/,
  })
  await site.untilState(await site.send(row, 'CRO', { names: { protocol: 'P-1', visit: 'V1' } }), 'delivered')
})

test('nothing goes to an endpoint as it is, and none of two deliveries overwrites the other', async t => {
  const site = await startEndpointSite(t)
  const root = await endpointFolder(t)
  const packaging = { names: { template: 'always/' } }
  await site.endpoints.put(site.admin, 'CRO', { kind: 'folder', settings: { root }, packaging })
  const row = await site.store(study(1))
  await assert.rejects(site.send(row, 'CRO'), { code: 'BAD_REQUEST' })

  await site.untilState(await site.send(row, 'CRO', { profile: 'trial' }), 'delivered')
  const held = await site.untilState(await site.send(row, 'CRO', { profile: 'trial' }), 'held')

  assert.equal(held.errorCode, 'STATE_CONFLICT')
  assert.match(held.error ?? '', /add \{transfer\}/)
})

test('what lies half written at an endpoint since a day goes; what is whole there, and what others put there, stays', async t => {
  const site = await startEndpointSite(t)
  const root = await endpointFolder(t)
  await site.endpoints.put(site.admin, 'CRO', { kind: 'folder', settings: { root }, profile: 'trial' })
  const id = await site.send(await site.store(study()), 'CRO')
  await site.untilState(id, 'delivered')
  // As if it had been held in the middle of its last file, and nobody had decided since.
  const { rows } = await site.db.pool.query<{ name: string; sha256: string }>(
    `update transfer_files set delivered_at = null where transfer = $1 and role = 'done'
     returning name, encode(sha256, 'hex') as sha256`,
    [id],
  )
  const [last] = rows
  assert.ok(last)
  const part = `${last.name}.${last.sha256.slice(0, 8)}.part`
  await rename(join(root, last.name), join(root, part))
  await writeFile(join(root, `${last.name}.00000000.part`), 'of somebody else')
  const whole = [...(await filesBelow(root)).keys()].filter(name => name !== part).toSorted()

  const hold = (age: string) =>
    site.db.pool.query(`update transfers set state = 'held', updated_at = now() - $2::interval where id = $1`, [
      id,
      age,
    ])
  await hold('1 hour')
  await site.endpointDelivery.recover('stale')
  await site.endpointDelivery.run(id, AbortSignal.timeout(30_000))
  assert.ok((await filesBelow(root)).has(part))
  await hold('1 day')
  await site.endpointDelivery.recover('stale')
  // By its name: what is being removed cannot be read.
  await until('no debris', 30_000, () => !existsSync(join(root, part)))
  assert.deepEqual([...(await filesBelow(root)).keys()].toSorted(), whole)
})
