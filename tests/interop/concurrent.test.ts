/**
 * Twenty-four associations at once, a third each searching, storing and retrieving, while somebody else
 * verifies: no operation fails, memory stays flat. `HANSE_SOAK=1` goes on for ten minutes and holds C-ECHO to 100 ms.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { findScu } from '../../gateway/dimse/find-scu.ts'
import { getScu } from '../../gateway/dimse/get-scu.ts'
import { queryRetrieveSopClass } from '../../gateway/dimse/query-retrieve.ts'
import type { StoreService } from '../../gateway/dimse/scp.ts'
import { storeScu } from '../../gateway/dimse/scu.ts'
import { type BuiltInstance, buildInstance, seededUid } from '../support/dicom-builder.ts'
import { type ProcessGateway, startProcessGateway } from '../support/process-gateway.ts'
import { verifyFor } from './echo-thread.ts'
import { assertSound } from './hospitals.ts'
import { inMiB, memoryOf } from './process-memory.ts'

const isSoak = process.env['HANSE_SOAK'] === '1'
const durationMs = isSoak ? 600_000 : 8_000
const clientsOfAKind = 8
const studySize = 20
const explicitLittleEndian = '1.2.840.10008.1.2.1'
/**
 * What malloc, code that was compiled late, and the database client may add after the first minutes; in the first
 * seconds also the cache of files and the heap, which grow to bounds of their own.
 */
const allowedGrowthBytes = (isSoak ? 64 : 288) * 1024 ** 2

test('twenty-four associations find, store and get at once', async t => {
  const gateway = await startProcessGateway(t, 'busy')
  const added = await gateway.hanse('modality', 'add', 'load', '--aet', 'LOAD', '--host', '127.0.0.1')
  assert.equal(added.code, 0, added.output)
  for (let study = 0; study < clientsOfAKind; study += 1) await store(gateway, study)
  const end = performance.now() + durationMs
  const counts = { find: 0, store: 0, get: 0 }

  const repeat = async (kind: keyof typeof counts, work: (round: number) => Promise<void>): Promise<void> => {
    for (let round = 1; performance.now() < end; round += 1) {
      await work(round)
      counts[kind] += 1
    }
  }
  const settled = delay(durationMs / 3).then(() => memoryOf(gateway.pid))
  const [echoes] = await Promise.all([
    verifyFor(durationMs, target(gateway)),
    ...Array.from({ length: clientsOfAKind }, (_, client) => [
      repeat('find', () => find(gateway, client)),
      repeat('store', round => store(gateway, client + round * clientsOfAKind)),
      repeat('get', () => get(gateway, client)),
    ]).flat(),
  ])

  const before = await settled
  const after = await memoryOf(gateway.pid)
  const grown = after.residentBytes - before.residentBytes
  const echoesMs = [...echoes.timesMs]
  const p99 = echoesMs.sort((a, b) => a - b)[Math.floor(echoesMs.length * 0.99)] ?? Number.POSITIVE_INFINITY
  t.diagnostic(`${JSON.stringify(counts)}; C-ECHO p99 ${Math.round(p99)} ms of ${echoesMs.length}`)
  t.diagnostic(
    `resident ${inMiB(before.residentBytes)} MiB after a third, ${inMiB(after.residentBytes)} MiB at the end`,
  )
  assert.equal(echoes.failures, 0)
  assert.ok(Object.values(counts).every(count => count >= clientsOfAKind))
  assert.ok(grown < allowedGrowthBytes, `resident memory grew by ${inMiB(grown)} MiB`)
  assert.ok(!isSoak || p99 < 100, `C-ECHO p99 ${Math.round(p99)} ms`)
  await assertSound(gateway)
})

const target = (gateway: ProcessGateway) => ({
  host: '127.0.0.1',
  port: gateway.ports.dicom,
  callingAe: 'LOAD',
  calledAe: 'HANSE',
  timeoutMs: 120_000,
})

const studyUid = (study: number): string => seededUid('busy study', study)

function instancesOf(study: number): BuiltInstance[] {
  return Array.from({ length: studySize }, (_, index) =>
    buildInstance({
      seed: study * studySize + index + 1,
      rows: 64,
      cols: 64,
      studyInstanceUid: studyUid(study),
      seriesInstanceUid: seededUid('busy series', study),
      patientId: `BUSY-${study}`,
    }),
  )
}

async function store(gateway: ProcessGateway, study: number): Promise<void> {
  const outgoing = instancesOf(study).map(({ dataset, sopClassUid, sopInstanceUid }) => ({
    sopClassUid,
    sopInstanceUid,
    transferSyntaxUid: explicitLittleEndian,
    open: () => ({ source: bufferSource(dataset), datasetOffset: 0 }),
  }))
  await storeScu(target(gateway), outgoing, (_, result) => {
    assert.ok(result.kind === 'responded' && result.status === 0, JSON.stringify(result))
  })
}

async function find(gateway: ProcessGateway, study: number): Promise<void> {
  const identifier = [
    { tag: 0x00080052, value: 'STUDY' },
    { tag: 0x00100020, value: `BUSY-${study}` },
    { tag: 0x0020000d, value: '' },
  ]
  let found = 0
  for await (const _ of findScu(target(gateway), {
    sopClassUid: queryRetrieveSopClass('study-root', 'find'),
    identifier,
  })) {
    found += 1
  }
  assert.equal(found, 1)
}

async function get(gateway: ProcessGateway, study: number): Promise<void> {
  let bytes = 0
  let instances = 0
  const sink: StoreService = {
    begin: async () => ({
      write: async chunks => {
        for (const chunk of chunks) bytes += chunk.length
      },
      finish: async () => {
        instances += 1
        return { status: 0x0000 }
      },
      discard: async () => undefined,
    }),
  }
  const identifier = [
    { tag: 0x00080052, value: 'STUDY' },
    { tag: 0x0020000d, value: studyUid(study) },
  ]
  const expected = instancesOf(study)
  const request = {
    sopClassUid: queryRetrieveSopClass('study-root', 'get'),
    identifier,
    sopClassUids: [...new Set(expected.map(({ sopClassUid }) => sopClassUid))],
    store: sink,
  }
  await getScu(target(gateway), request, () => undefined)
  assert.equal(instances, studySize)
  assert.equal(
    bytes,
    expected.reduce((sum, { dataset }) => sum + dataset.length, 0),
  )
}
