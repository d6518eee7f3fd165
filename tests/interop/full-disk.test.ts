/**
 * Disks that fill up, to the watermark and to the last byte, with PostgreSQL on the same volume: clear
 * refusals, nothing acknowledged is lost, and everything goes on by itself once there is room.
 */
import assert from 'node:assert/strict'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { type StoreResult, storeScu } from '../../gateway/dimse/scu.ts'
import { missing, run } from '../support/dcmtk.ts'
import { type BuiltInstance, buildInstance, seededUid } from '../support/dicom-builder.ts'
import { openWire, type Wire } from '../support/federation.ts'
import { type ProcessGateway, prepareProcessGateway } from '../support/process-gateway.ts'
import { pair } from '../support/process-pair.ts'
import { until } from '../support/until.ts'
import {
  assertSound,
  digestAll,
  everythingTo,
  type Hospitals,
  listInstances,
  listTransfers,
  quick,
  type Transfer,
  untilReceipted,
} from './hospitals.ts'
import { missingNamespaces, runWithDisks, type SmallDisk, smallDisks } from './small-disk.ts'

const MiB = 1024 ** 2
/** Below the watermark of `quick`, and above the last byte. */
const belowWatermark = 40 * MiB
const outOfResources = 0xa700

const [diskA, diskB] = smallDisks()
if (diskA && diskB) inside(diskA, diskB)
else {
  const skip = missing('echoscu') || (await missingNamespaces())
  test('full disks are refused on, survived, and recovered from', { skip }, async t => {
    await runWithDisks(t, import.meta.filename, { count: 2, sizeMiB: 600 })
  })
}

function inside(diskA: SmallDisk, diskB: SmallDisk): void {
  test('two hospitals on small disks', async t => {
    const { a, b, wire } = await startOn(t, diskA, diskB)
    const pids = [a.pid, b.pid]
    let arrived = 0

    await t.test('at the watermark A refuses what comes and goes on sending', async () => {
      const study = buildStudy(1, 20)
      assert.deepEqual(await store(a, study), allTaken(study))
      await diskA.fillTo(belowWatermark)
      await untilRefusing(a, true)

      await assertRefuses(t, a)
      arrived += study.length
      await untilReceipted(a, arrived)
      await assertRefuses(t, a)

      await diskA.free()
      await untilRefusing(a, false)
      assert.deepEqual(await store(a, buildStudy(2, 1)), [0])
      arrived += 1
    })

    await t.test('at the watermark B takes no offers, and what waits arrives once there is room', async () => {
      await untilReceipted(a, arrived)
      await diskB.fillTo(belowWatermark)
      await untilRefusing(b, true)
      const before = (await listInstances(b)).length
      const study = buildStudy(3, 10)
      assert.deepEqual(await store(a, study), allTaken(study))

      const waiting = await untilTransfer(a, study, transfer => transfer.errorCode === 'STORAGE_FULL')
      assert.equal(['held', 'refused'].includes(waiting.state), false, waiting.state)
      assert.equal((await listInstances(b)).length, before)

      await diskB.free()
      arrived += study.length
      await untilReceipted(a, arrived, 240_000)
    })

    await t.test('no byte left, and the database crashes for it: nothing acknowledged is lost', async () => {
      const senders = [4, 5, 6, 7].map(seed => keepStoring(a, seed))
      await until('senders are at work', 60_000, () => senders.every(sender => sender.stored.length > 2))
      await diskA.fillTo(0)
      await exhaustLog(a)
      await until('every sender was refused', 60_000, () => senders.every(sender => sender.refused.size > 0))
      await untilUnavailable(a)
      for (const sender of senders) await sender.stop()
      for (const { refused } of senders) assert.deepEqual([...refused], [outOfResources])

      await diskA.free()
      await until('A is ready again', 120_000, () => isReady(a))
      await untilRefusing(a, false)
      assert.deepEqual(await store(a, buildStudy(8, 3)), [0, 0, 0])
      const acknowledged = senders.flatMap(sender => sender.stored)
      const present = new Set((await listInstances(a)).map(instance => instance.sopInstanceUid))
      assert.deepEqual(
        acknowledged.filter(uid => !present.has(uid)),
        [],
      )
      await assertSound(a)
      assert.deepEqual(await stagedFiles(a), [])
      arrived = present.size
      await untilReceipted(a, arrived, 240_000)
    })

    await t.test('no byte left at B in the middle of a transfer: none of it is shown, later all of it', async () => {
      const before = (await listInstances(b)).length
      const study = buildStudy(9, 100)
      wire.cutAfter = 20 * MiB
      assert.deepEqual(await store(a, study), allTaken(study))
      await until('a part has arrived', 60_000, () => wire.cuts > 0)
      wire.isDown = true
      await diskB.fillTo(0)
      wire.isDown = false

      await untilTransfer(a, study, transfer => transfer.errorCode === 'STORAGE_FULL')
      assert.equal((await listInstances(b)).length, before)

      await diskB.free()
      arrived += study.length
      await untilReceipted(a, arrived, 240_000)
    })

    await t.test('in the end B has all that A has, and both are sound without having been restarted', async () => {
      const [atA, atB] = await Promise.all([a, b].map(fileDigests))
      assert.deepEqual(atB, atA)
      for (const gateway of [a, b]) {
        await assertSound(gateway)
        assert.deepEqual(await stagedFiles(gateway), [])
      }
      assert.deepEqual([a.pid, b.pid], pids)
      assert.ok(a.isRunning && b.isRunning)
    })
  })
}

async function startOn(t: TestContext, diskA: SmallDisk, diskB: SmallDisk): Promise<Hospitals & { wire: Wire }> {
  const a = await prepareProcessGateway(t, 'north', quick, diskA.dir)
  const environment: Record<string, string> = { ...quick }
  const b = await prepareProcessGateway(t, 'south', environment, diskB.dir)
  // B advertises the wire as its own address.
  const wire = await openWire(t, b.ports.federation)
  environment['HANSE_PUBLIC_URL'] = wire.url
  await Promise.all([a.start(), b.start()])
  await pair(a, b)
  await a.api('PUT', '/api/v1/policy', everythingTo('south'))
  return { a, b, wire }
}

/** Instances of half a megabyte, of one study. */
function buildStudy(seed: number, count: number): BuiltInstance[] {
  const studyInstanceUid = seededUid('full-disk', seed)
  return Array.from({ length: count }, (_, index) =>
    buildInstance({ seed: seed * 10_000 + index, rows: 512, cols: 512, studyInstanceUid, patientId: `FULL-${seed}` }),
  )
}

const allTaken = (instances: readonly BuiltInstance[]): number[] => instances.map(() => 0)

/** Sends instances over one association; their statuses. */
async function store(gateway: ProcessGateway, instances: readonly BuiltInstance[]): Promise<number[]> {
  const statuses: number[] = []
  const target = { host: '127.0.0.1', port: gateway.ports.dicom, callingAe: 'SENDER', calledAe: 'HANSE' }
  const outgoing = instances.map(({ bytes, dataset, ...ids }) => ({
    ...ids,
    open: () => ({ source: bufferSource(bytes), datasetOffset: bytes.length - dataset.length }),
  }))
  await storeScu(target, outgoing, (_, result: StoreResult) => {
    statuses.push(result.kind === 'responded' ? result.status : -1)
  })
  return statuses
}

/** C-STORE and upload are refused because the disk is full, the status says so, and the gateway lives. */
async function assertRefuses(t: TestContext, gateway: ProcessGateway): Promise<void> {
  const instance = buildInstance({ seed: 90_000 })
  assert.deepEqual(await store(gateway, [instance]), [outOfResources])

  const response = await fetch(`${gateway.url}/instances`, { method: 'POST', body: Buffer.from(instance.bytes) })
  const problem: unknown = await response.json()
  assert.equal(response.status, 507)
  assert.equal(Object(problem).code, 'STORAGE_FULL')
  assert.ok(Number(response.headers.get('retry-after')) > 0)

  const { code, output } = await gateway.hanse('status', '--check')
  assert.notEqual(code, 0, output)
  assert.match(output, /free|space|watermark/i)

  const echo = await run(t, 'echoscu', ['-aec', 'HANSE', '127.0.0.1', String(gateway.ports.dicom)])
  assert.equal(echo.code, 0, echo.output)
}

async function untilRefusing(gateway: ProcessGateway, expected: boolean): Promise<void> {
  await until(`${gateway.site} ${expected ? 'refuses' : 'accepts'}`, 30_000, async () => {
    const { storage } = await gateway.api<{ storage: { refusing: boolean } }>('GET', '/api/v1/status')
    return storage.refusing === expected
  })
}

async function untilTransfer(
  a: ProcessGateway,
  [instance]: readonly BuiltInstance[],
  condition: (transfer: Transfer) => boolean,
): Promise<Transfer> {
  return await until('the transfer', 120_000, async () =>
    (await listTransfers(a)).find(
      transfer => transfer.studyInstanceUid === instance?.studyInstanceUid && condition(transfer),
    ),
  )
}

interface Sender {
  /** UIDs that were answered with success. */
  readonly stored: string[]
  /** Every other status. */
  readonly refused: Set<number>
  stop(): Promise<void>
}

/** Stores one instance after another, whatever the answer; associations that fail are opened again. */
function keepStoring(gateway: ProcessGateway, seed: number): Sender {
  const studyInstanceUid = seededUid('full-disk', seed)
  const stored: string[] = []
  const refused = new Set<number>()
  let isStopped = false
  const work = async (): Promise<void> => {
    for (let index = 0; !isStopped; index += 1) {
      const instance = buildInstance({ seed: seed * 10_000 + index, rows: 256, cols: 256, studyInstanceUid })
      const [status] = await store(gateway, [instance]).catch(() => [])
      if (status === 0) stored.push(instance.sopInstanceUid)
      else if (status !== undefined) refused.add(status)
    }
  }
  const working = work()
  return {
    stored,
    refused,
    stop: async () => {
      isStopped = true
      await working
    },
  }
}

/** Fills PostgreSQL's log until the server dies of it. */
async function exhaustLog(gateway: ProcessGateway): Promise<void> {
  const client = await gateway.admin()
  await assert.rejects(async () => {
    for (;;) await client.query(`select pg_logical_emit_message(false, 'test', repeat('x', 1000000), true)`)
  })
  await client.end().catch(() => undefined)
}

async function untilUnavailable(gateway: ProcessGateway): Promise<void> {
  await until('it says that its database is away', 60_000, async () => !(await isReady(gateway)))
  const { bytes } = buildInstance({ seed: 90_001 })
  const response = await fetch(`${gateway.url}/instances`, { method: 'POST', body: Buffer.from(bytes) })
  assert.ok([503, 507].includes(response.status), `${response.status}`)
  await response.body?.cancel()
}

async function isReady(gateway: ProcessGateway): Promise<boolean> {
  const answer = await fetch(`${gateway.url}/api/v1/health/ready`)
  await answer.body?.cancel()
  return answer.ok
}

async function fileDigests(gateway: ProcessGateway): Promise<string[]> {
  const instances = await listInstances(gateway)
  const digests = await digestAll(
    gateway,
    instances.map(({ id }) => `/instances/${id}/file`),
  )
  return [...digests.values()].map(({ file }) => file).sort()
}

/** What lies in staging, received ranges included; empty files there are made ahead for the next receptions. */
async function stagedFiles({ data }: ProcessGateway): Promise<string[]> {
  const paths: string[] = []
  for (const dir of ['staging', 'inbound']) {
    const names = await readdir(join(data, dir), { recursive: true }).catch(() => [])
    for (const name of names) {
      const found = await stat(join(data, dir, name)).catch(() => undefined)
      if (found?.isFile() && found.size > 0) paths.push(name)
    }
  }
  return paths
}
