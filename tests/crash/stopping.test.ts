/** Stopping in order while others hang on to the gateway: quick, exit 0, no database left running. */
import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { test } from 'node:test'
import { isServerOf } from '../../gateway/db/server-process.ts'
import { openAssociation } from '../../gateway/dimse/scu-association.ts'
import { contextOf } from '../../gateway/dimse/scu-contexts.ts'
import { onEnd } from '../support/cleanup.ts'
import { type ProcessGateway, startProcessGateway } from '../support/process-gateway.ts'
import { startPair } from '../support/process-pair.ts'
import { until } from '../support/until.ts'
import { outgoing, planStudy, sendStudy, targetOf } from './modality.ts'
import { assertHolds, assertSound, untilReceipted } from './verify.ts'

test('SIGTERM with open associations, half a C-STORE and idle sockets', async t => {
  const gateway = await startProcessGateway(t, 'hanging-on')
  const [instance] = planStudy(1, 1, 1024).exposures.map(outgoing)
  assert.ok(instance)
  const idle = await openAssociation(targetOf(gateway), [contextOf(instance)])
  const half = await openAssociation(targetOf(gateway), [contextOf(instance)])
  const { source, datasetOffset } = await instance.open()
  const endless = { sizeBytes: source.sizeBytes, read: () => new Promise<Uint8Array>(() => undefined) }
  const firstBlock = await source.read(datasetOffset, 65_536)
  half.store(instance, { source: endless, datasetOffset }, firstBlock).catch(() => undefined) // aborted
  const sockets = [gateway.ports.http, gateway.ports.dicom, gateway.ports.federation].map(port =>
    connect(port, '127.0.0.1').on('error', () => undefined),
  )
  onEnd(t, () => {
    for (const socket of sockets) socket.destroy()
    for (const association of [idle, half]) association.abortNow(new Error('end of test'))
  })

  const tookMs = await stopInOrder(gateway)

  assert.ok(tookMs < 25_000, `took ${tookMs} ms`)
  await gateway.start()
  await assertHolds(gateway, [])
  await assertSound(gateway)
})

test('SIGTERM right after the database was killed', async t => {
  const gateway = await startProcessGateway(t, 'no-database')
  const study = planStudy(2, 3, 64)
  await sendStudy(gateway, study)
  assert.ok(await gateway.killDatabase())

  const tookMs = await stopInOrder(gateway)

  assert.ok(tookMs < 30_000, `took ${tookMs} ms`)
  await gateway.start()
  await assertHolds(gateway, study.exposures)
  await assertSound(gateway)
})

test('SIGTERM while the peer does not answer', async t => {
  const { a, b } = await startPair(t, { wholeStudy: 12 })
  const study = planStudy(3, 12, 512)
  process.kill(b.pid, 'SIGSTOP')
  onEnd(t, () => b.isRunning && process.kill(b.pid, 'SIGCONT'))
  await sendStudy(a, study)
  await until('A tries', 60_000, async () => {
    const admin = await a.admin()
    const { rows } = await admin.query(`select 1 from pgboss.job where name = 'deliver' and state = 'active'`)
    await admin.end()
    return rows.length > 0
  })

  const tookMs = await stopInOrder(a)

  assert.ok(tookMs < 25_000, `took ${tookMs} ms`)
  process.kill(b.pid, 'SIGCONT')
  await a.start()
  await untilReceipted(a, [study], 120_000)
  await assertHolds(b, study.exposures)
})

/** Stops a gateway and asserts that it ended in order and took its database with it; milliseconds. */
async function stopInOrder(gateway: ProcessGateway): Promise<number> {
  const { data } = await gateway.cluster()
  const pid = await gateway.databasePid()
  const begin = Date.now()
  await gateway.kill('SIGTERM')
  const tookMs = Date.now() - begin
  assert.deepEqual(gateway.lastExit, { code: 0, signal: null }, gateway.output().slice(-3000))
  if (pid !== undefined) assert.equal(await isServerOf(pid, data), false)
  assert.equal(await gateway.databasePid(), undefined)
  return tookMs
}
