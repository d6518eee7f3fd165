/** Changes behind the gateway's back are named; stopping in order is quick, clean and loses nothing. */
import assert from 'node:assert/strict'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { field, number } from '../../gateway/cli/answer.ts'
import { isServerOf } from '../../gateway/db/server-process.ts'
import { type ProcessGateway, startProcessGateway } from '../support/process-gateway.ts'
import { startPair } from '../support/process-pair.ts'
import { until } from '../support/until.ts'
import { planStudy, sendStudy } from './modality.ts'
import { holdBefore } from './stopping-point.ts'
import { assertHolds, assertSound, untilReceipted } from './verify.ts'

test('one audit row changed by SQL is named, by a running gateway and without one', async t => {
  const gateway = await startProcessGateway(t, 'tamper')
  await sendStudy(gateway, planStudy(1, 3, 64))
  await gateway.api('POST', '/api/v1/audit/checkpoint')
  const admin = await gateway.admin()
  const { rows } = await admin.query(`select id from audit_events where payload like '%CRASH_CT%' order by id limit 1`)
  const event = number(rows[0], 'id') || Number(field(rows[0], 'id'))

  // A superuser passes by what is granted to the gateway's own role.
  await admin.query(`update audit_events set payload = replace(payload, 'CRASH_CT', 'OTHER_CT') where id = $1`, [event])
  await admin.end()

  const running = await gateway.hanse('audit', 'verify')
  await gateway.kill('SIGTERM')
  const stopped = await gateway.hanse('audit', 'verify')
  for (const { code, output } of [running, stopped]) {
    assert.equal(code, 1, output)
    assert.match(output, new RegExp(`changed: the record of event ${event} does not match`))
    assert.match(output, /THE AUDIT LOG WAS CHANGED/)
  }
})

test('the gateway’s own role cannot change the audit log', async t => {
  const gateway = await startProcessGateway(t, 'append-only')
  const admin = await gateway.admin()
  await admin.query('set role hanse')

  for (const statement of [
    `update audit_events set commitment = commitment`,
    `update audit_leaves set commitment = commitment`,
    `update audit_checkpoints set note = note`,
    'delete from audit_events',
    'delete from audit_leaves',
    'truncate audit_checkpoints',
  ]) {
    await assert.rejects(admin.query(statement), { code: '42501' }, statement)
  }
  await admin.end()
})

test('one byte changed in a blob is named, by a running gateway and without one', async t => {
  const gateway = await startProcessGateway(t, 'bit-rot')
  const study = planStudy(2, 3, 64)
  await sendStudy(gateway, study)
  const [victim] = study.exposures
  assert.ok(victim)

  await flipByte(join(gateway.data, 'blobs', victim.sha256.slice(0, 2), victim.sha256))

  const running = await gateway.hanse('fsck')
  await gateway.kill('SIGTERM')
  const stopped = await gateway.hanse('fsck')
  for (const { code, output } of [running, stopped]) {
    assert.equal(code, 1, output)
    assert.match(output, new RegExp(`damaged: file ${victim.sha256} of instance ${victim.sopInstanceUid}`))
    assert.match(output, /1 problems/)
  }
})

for (const victim of ['the sender', 'the receiver'] as const) {
  test(`SIGTERM at ${victim} during a transfer: a quick, clean end, and the transfer goes on after the start`, async t => {
    const { a, b } = await startPair(t, { wholeStudy: 24 })
    const stopped = victim === 'the sender' ? a : b
    const study = planStudy(3, 24, 800)
    const hold = await holdBefore(t, b, { table: 'inbound_transfers', when: 'bit_count(new.received) > 4' })
    await sendStudy(a, study)
    await hold.reached()
    const watched = await databaseOf(stopped)

    const begin = Date.now()
    const ending = stopped.kill('SIGTERM')
    if (victim === 'the receiver') await hold.release({ rollBack: false })
    await ending

    assert.ok(Date.now() - begin < 30_000, `took ${Date.now() - begin} ms`)
    assert.deepEqual(stopped.lastExit, { code: 0, signal: null })
    await assertNoServer(watched)
    if (victim === 'the sender') await hold.release({ rollBack: false })
    await stopped.start()
    await untilReceipted(a, [study], 120_000)
    await assertHolds(b, study.exposures)
    for (const gateway of [a, b]) await assertSound(gateway)
  })
}

test('Ctrl-C twice within a second still stops in order', async t => {
  const gateway = await startProcessGateway(t, 'ctrl-c')
  const study = planStudy(4, 5, 64)
  await sendStudy(gateway, study)
  const watched = await databaseOf(gateway)

  process.kill(gateway.pid, 'SIGINT')
  process.kill(gateway.pid, 'SIGINT')
  await gateway.ended()

  assert.deepEqual(gateway.lastExit, { code: 0, signal: null })
  await assertNoServer(watched)
  await gateway.start()
  await assertHolds(gateway, study.exposures)
  await assertSound(gateway)
})

async function flipByte(path: string): Promise<void> {
  const file = await open(path, 'r+')
  try {
    const { size } = await file.stat()
    const byte = Buffer.alloc(1)
    await file.read(byte, 0, 1, size - 1)
    byte[0] = (byte[0] ?? 0) ^ 1
    await file.write(byte, 0, 1, size - 1)
  } finally {
    await file.close()
  }
}

interface Watched {
  readonly pid: number
  readonly data: string
}

async function databaseOf(gateway: ProcessGateway): Promise<Watched> {
  const pid = await until('the database runs', 10_000, () => gateway.databasePid())
  return { pid, data: (await gateway.cluster()).data }
}

/** No server works in the data directory any more, and it was shut down in order: its lock file is gone. */
async function assertNoServer({ pid, data }: Watched): Promise<void> {
  assert.equal(await isServerOf(pid, data), false)
  await assert.rejects(open(join(data, 'postmaster.pid')), { code: 'ENOENT' })
}
