/**
 * A study from site to site: ours, Orthanc's push and bare TLS with the same bytes, round after
 * round in alternating order, a new study each time. The first round is dropped.
 */
import { spawnSync } from 'node:child_process'
import { mkdtemp } from 'node:fs/promises'
import { join } from 'node:path'
import { type Carrier, gatewayCarrier, orthancCarrier, tlsCarrier } from './carriers.ts'
import { type Corpus, makeCorpus } from './corpus.ts'
import type { Measurement, WorkloadResult } from './measure.ts'
import { cpuMs, MemoryWatch } from './process-tree.ts'

/** How much is carried and how often. */
export interface TransferPlan {
  readonly instances: number
  /** Counted rounds; one more is run before and dropped: gateways run for months, so none is measured cold. */
  readonly rounds: number
}

/** Runs all carriers whose servers are named. Bare TLS always runs. */
export async function benchTransfer(
  directory: string,
  names: readonly string[],
  plan: TransferPlan,
  note: (line: string) => void,
): Promise<WorkloadResult> {
  const own = await mkdtemp(join(directory, 'transfer-'))
  const carriers: Carrier[] = []
  try {
    if (names.includes('hanse')) carriers.push(await gatewayCarrier(own))
    if (names.includes('orthanc')) {
      carriers.push(await orthancCarrier(own, 'mutual TLS'), await orthancCarrier(own, 'plain HTTP'))
    }
    carriers.push(await tlsCarrier(own))
    const runs = new Map<Carrier, Measurement[]>(carriers.map(carrier => [carrier, []]))
    const rounds = plan.rounds + 1
    for (let round = 0; round < rounds; round += 1) {
      const study = await makeCorpus(directory, {
        name: `study-${round}`,
        instances: plan.instances,
        instancesPerStudy: plan.instances,
        rows: 512,
        folders: 1,
        seed: 4_000_000 + round * 10_000,
      })
      for (const carrier of round % 2 === 0 ? carriers : carriers.toReversed()) {
        const run = await measure(carrier, study)
        const isDropped = round === 0
        note(`transfer: ${carrier.name} ${run.perSecond.toFixed(0)} MB/s${isDropped ? ' (dropped)' : ''}`)
        if (!isDropped) runs.get(carrier)?.push(run)
      }
    }
    const series = carriers.map(carrier => ({
      target: carrier.name,
      durable: carrier.durable,
      runs: runs.get(carrier) ?? [],
    }))
    return { name: `transfer of a study of ${plan.instances} CT, both sites on this machine`, unit: 'MB/s', series }
  } finally {
    await Promise.all(carriers.map(carrier => carrier.stop()))
  }
}

async function measure(carrier: Carrier, study: Corpus): Promise<Measurement> {
  await carrier.load(study)
  spawnSync('sync')
  const before = cpuMs(carrier.roots)
  const memory = new MemoryWatch(carrier.roots)
  const { tookMs, otherCpuMs } = await carrier.carry(study)
  const peak = memory.stop()
  return {
    perSecond: study.bytes / 1000 / tookMs,
    cpuMsPerInstance: (cpuMs(carrier.roots) - before + otherCpuMs) / study.instances,
    peakTreeBytes: peak.treeBytes,
    peakProcessBytes: peak.largestProcessBytes,
  }
}
