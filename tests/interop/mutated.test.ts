/**
 * Thousands of broken files by C-STORE and POST: each gets a clear answer in time, memory stays bounded,
 * others are served. `HANSE_SOAK=1` runs 10,000 of them, `HANSE_SEED` chooses others.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { type OutgoingInstance, storeScu } from '../../gateway/dimse/scu.ts'
import { openCorpus } from '../support/corpus.ts'
import { type Mutant, mutantOf, type Subject, subjectOf } from '../support/mutate-dicom.ts'
import { type ProcessGateway, startProcessGateway } from '../support/process-gateway.ts'
import { startBystander } from './bystander.ts'
import { assertSound, quick } from './hospitals.ts'
import { inMiB, memoryOf } from './process-memory.ts'

const seed = Number(process.env['HANSE_SEED'] ?? 20261123)
const cases = process.env['HANSE_SOAK'] ? 10_000 : 500
/** Larger files only make the cases slower: what is broken stands before the pixels. */
const largestBytes = 400_000
const batch = 50
const mostResidentBytes = 350 * 1024 ** 2
const slowestMs = 120_000

/** PS3.4 Table B.2-1, and PS3.7 Annex C for a bad UID in the command. */
const clearStatuses = new Set([0x0000, 0xa900, 0xc000, 0x0106, 0x0117, 0x0122])

test('mutated files get a clear answer in time, and the gateway stays sound', async t => {
  const files = openCorpus(t)
  if (!files) return
  const subjects: Subject[] = []
  for (const file of files) {
    const bytes = await file.bytes()
    const subject = bytes.length > largestBytes || file.isMalformed ? undefined : await subjectOf(file.name, bytes)
    if (subject) subjects.push(subject)
  }
  assert.ok(subjects.length > 300)
  const gateway = await startProcessGateway(t, 'fuzz', quick)
  const { pid } = gateway
  const stop = startBystander(gateway, 1_000_000)

  const tally = new Map<string, number>()
  for (let from = 0; from < cases; from += batch) {
    const mutants = Array.from({ length: Math.min(batch, cases - from) }, (_, at) =>
      mutantOf(subjects, seed, from + at),
    )
    await Promise.all([store(gateway, mutants, tally), upload(gateway, mutants, tally)])
  }

  const { peakBytes } = await memoryOf(pid)
  t.diagnostic(
    `seed ${seed}: ${[...tally].map(([answer, count]) => `${count} x ${answer}`).join(', ')}; peak ${inMiB(peakBytes)} MiB`,
  )
  assert.ok(peakBytes < mostResidentBytes, `resident memory reached ${inMiB(peakBytes)} MiB`)
  assert.ok((tally.get('POST 200') ?? 0) > 0 && (tally.get('POST 400') ?? 0) > 0)
  const { rounds } = await stop()
  assert.ok(rounds > 1)
  assert.equal(gateway.pid, pid)
  assert.ok(gateway.isRunning)
  await assertSound(gateway)
})

function count(tally: Map<string, number>, answer: string): void {
  tally.set(answer, (tally.get(answer) ?? 0) + 1)
}

async function store(gateway: ProcessGateway, mutants: readonly Mutant[], tally: Map<string, number>): Promise<void> {
  const instances = mutants.map((mutant, index): OutgoingInstance & { mutant: Mutant } => ({
    mutant,
    sopClassUid: uidOf(mutant.bytes, 0x16) ?? '1.2.840.10008.5.1.4.1.1.7',
    sopInstanceUid: uidOf(mutant.bytes, 0x18) ?? `2.25.${index + 1}`,
    transferSyntaxUid: mutant.transferSyntaxUid,
    open: () => ({
      source: bufferSource(mutant.bytes),
      datasetOffset: Math.min(mutant.datasetOffset, Math.max(0, mutant.bytes.length - 1)),
    }),
  }))
  const target = {
    host: '127.0.0.1',
    port: gateway.ports.dicom,
    callingAe: 'FUZZ',
    calledAe: 'HANSE',
    timeoutMs: 120_000,
  }
  let since = performance.now()
  await storeScu(target, instances, ({ mutant }, result) => {
    const tookMs = performance.now() - since
    since = performance.now()
    assert.ok(tookMs < slowestMs, `${mutant.name}: answered after ${Math.round(tookMs)} ms`)
    if (result.kind !== 'responded') return count(tally, `C-STORE ${result.kind}`) // nothing left to send, or no such SOP class
    assert.ok(clearStatuses.has(result.status), `${mutant.name}: status ${result.status.toString(16)}`)
    count(tally, `C-STORE ${result.status.toString(16).padStart(4, '0')}`)
  })
}

async function upload(gateway: ProcessGateway, mutants: readonly Mutant[], tally: Map<string, number>): Promise<void> {
  for (const mutant of mutants) {
    if (mutant.bytes.length === 0) continue
    const since = performance.now()
    const response = await fetch(`${gateway.url}/instances`, { method: 'POST', body: mutant.bytes })
    const answer: unknown = await response.json()
    const tookMs = performance.now() - since
    assert.ok([200, 400, 413].includes(response.status), `${mutant.name}: ${response.status} ${JSON.stringify(answer)}`)
    assert.ok(tookMs < slowestMs, `${mutant.name}: answered after ${Math.round(tookMs)} ms`)
    count(tally, `POST ${response.status}`)
  }
}

/** What the first thing says that looks like (0008,`element`), so that most cases get past the comparison of UIDs. */
function uidOf(bytes: Buffer, element: number): string | undefined {
  const at = bytes.indexOf(Buffer.from([0x08, 0x00, element, 0x00]))
  const text = at < 0 ? '' : bytes.toString('latin1', at + 8, at + 72)
  return /^[0-9][0-9.]{0,62}[0-9]/.exec(text)?.[0]
}
