/** A first start that is killed or stopped, wherever it is, leaves nothing that the next one cannot go on from. */
import assert from 'node:assert/strict'
import { globSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { type ProcessGateway, prepareProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'
import { assertSound } from './verify.ts'

/** What appears one after the other in a data directory that is being made. */
const landmarks = ['pg/data.partial.*/base/5', 'pg/data', 'pg/data/postmaster.pid', 'blobs/80', 'keys/site.json']

test('a first start killed at any of its steps is taken up by the next one', async t => {
  for (const landmark of landmarks) {
    const gateway = await prepareProcessGateway(t, 'first-start')
    await startTo(gateway, landmark, 'SIGKILL')

    await gateway.start()

    await assertSound(gateway)
    await gateway.kill('SIGTERM')
    assert.deepEqual(gateway.lastExit, { code: 0, signal: null }, landmark)
  }
})

test('an initdb that outlives its gateway does not disturb the next one', async t => {
  const gateway = await prepareProcessGateway(t, 'slow-initdb')
  await startTo(gateway, 'pg/data.partial.*/global', 'SIGKILL')
  const orphans = initdbOf(gateway)
  assert.ok(orphans.length > 0)
  for (const pid of orphans) process.kill(pid, 'SIGSTOP')

  const starting = gateway.start()
  await until('its own initdb works', 60_000, () => initdbOf(gateway).length > orphans.length || !gateway.isRunning)
  for (const pid of orphans) process.kill(pid, 'SIGCONT')
  await starting

  await assertSound(gateway)
  await until('the orphan has ended', 60_000, () => initdbOf(gateway).length === 0)
  assert.deepEqual(globSync('pg/data.partial*', { cwd: gateway.data }), [])
})

test('SIGTERM during the first start ends it in order and leaves no database running', async t => {
  for (const landmark of ['pg/data.partial.*/global', 'pg/data/postmaster.pid']) {
    const gateway = await prepareProcessGateway(t, 'early-stop')

    await startTo(gateway, landmark, 'SIGTERM')

    assert.equal(gateway.lastExit?.signal, null, `${landmark}: ${gateway.output().slice(-2000)}`)
    assert.equal(await gateway.databasePid(), undefined)
    await gateway.start()
    await assertSound(gateway)
  }
})

/** Starts the gateway, signals it when the landmark appears, and waits for its end. */
async function startTo(gateway: ProcessGateway, landmark: string, signal: NodeJS.Signals): Promise<void> {
  const starting = gateway.start().catch(() => undefined) // it ends before it is ready
  const isThere = (): boolean => globSync(landmark, { cwd: gateway.data }).length > 0
  await until(landmark, 60_000, () => isThere() || !gateway.isRunning)
  assert.equal(gateway.lastExit, undefined, `ended by itself before ${landmark}: ${gateway.output().slice(-2000)}`)
  await gateway.kill(signal)
  await starting
}

/** Pids of the initdb processes that work for the gateway's data directory. */
function initdbOf(gateway: ProcessGateway): number[] {
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name) && isInitdbOf(name, gateway.data))
    .map(Number)
}

function isInitdbOf(pid: string, data: string): boolean {
  try {
    const [program = '', ...args] = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
    return program.endsWith('/initdb') && args.some(arg => arg.startsWith(join(data, 'pg')))
  } catch {
    return false // it has ended
  }
}
