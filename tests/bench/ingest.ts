/**
 * C-STORE ingest: the same files by the same sender into each server, one after the other, each in
 * a fresh folder and warmed, round after round in alternating order. The first round is dropped.
 */
import { spawnSync } from 'node:child_process'
import { mkdtemp, readdir, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { type Corpus, makeCorpus } from './corpus.ts'
import type { Measurement, WorkloadResult } from './measure.ts'
import { cpuMs, MemoryWatch } from './process-tree.ts'
import { sendFolders } from './sender.ts'
import type { Target } from './target.ts'

/** How much is sent and how often. */
export interface IngestPlan {
  readonly largeInstances: number
  readonly smallInstances: number
  /** Counted rounds; one more is run before and dropped, unless it is only one. */
  readonly rounds: number
}

interface Workload {
  readonly name: string
  readonly corpus: Corpus
  readonly associations: number
}

const senders = 4

/** Runs all workloads on all targets. `note` gets a line for each run. */
export async function benchIngest(
  directory: string,
  targets: readonly Target[],
  plan: IngestPlan,
  note: (line: string) => void,
): Promise<WorkloadResult[]> {
  note('making the instances')
  const make = async (name: string, instances: number, rows: number, seed: number): Promise<Corpus> =>
    await makeCorpus(directory, { name, instances, rows, seed, instancesPerStudy: 50, folders: senders })
  const large = await make('large', plan.largeInstances, 512, 1_000_000)
  const small = await make('small', plan.smallInstances, 64, 2_000_000)
  const warm = await make('warm', 200, 128, 3_000_000)
  const workloads: Workload[] = [
    { name: `${large.instances} CT of ${kilobytes(large)} KB, 1 association`, corpus: large, associations: 1 },
    {
      name: `${large.instances} CT of ${kilobytes(large)} KB, ${senders} associations`,
      corpus: large,
      associations: senders,
    },
    {
      name: `${small.instances} of ${kilobytes(small)} KB, ${senders} associations`,
      corpus: small,
      associations: senders,
    },
  ]
  const results: WorkloadResult[] = []
  for (const workload of workloads) {
    const runs = new Map<Target, Measurement[]>(targets.map(target => [target, []]))
    const rounds = plan.rounds > 1 ? plan.rounds + 1 : 1
    for (let round = 0; round < rounds; round += 1) {
      for (const target of round % 2 === 0 ? targets : targets.toReversed()) {
        const run = await measure(directory, target, workload, warm)
        const isDropped = rounds > 1 && round === 0
        note(`${workload.name}: ${target.name} ${run.perSecond.toFixed(0)}/s${isDropped ? ' (dropped)' : ''}`)
        if (!isDropped) runs.get(target)?.push(run)
      }
    }
    const series = targets.map(target => ({
      target: target.name,
      durable: target.durable,
      runs: runs.get(target) ?? [],
    }))
    results.push({ name: workload.name, unit: 'instances/s', series })
  }
  return results
}

async function measure(directory: string, target: Target, workload: Workload, warm: Corpus): Promise<Measurement> {
  const own = await mkdtemp(join(directory, `${target.name}-`))
  const running = await target.start(own)
  try {
    await sendFolders(running.dicomPort, warm.folders, senders)
    // What the last run left to be written must not be paid by this one.
    spawnSync('sync')
    const before = cpuMs(running.roots)
    const memory = new MemoryWatch(running.roots)
    const tookMs = await sendFolders(running.dicomPort, workload.corpus.folders, workload.associations)
    const peak = memory.stop()
    const usedMs = cpuMs(running.roots) - before
    const { instances } = workload.corpus
    const held = (await running.count()) - warm.instances
    if (held !== instances) throw new Error(`${target.name} holds ${held} of ${instances} instances`)
    return {
      perSecond: (instances / tookMs) * 1000,
      cpuMsPerInstance: usedMs / instances,
      peakTreeBytes: peak.treeBytes,
      peakProcessBytes: peak.largestProcessBytes,
    }
  } finally {
    await running.stop()
    await emptyFiles(own)
  }
}

/**
 * Gives back the room of a run's files and leaves their names for the end of the bench: for minutes
 * after thousands of files were removed ext4 makes new ones twenty times slower, and the next target
 * would pay for what the last one left.
 */
async function emptyFiles(directory: string): Promise<void> {
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) await truncate(join(entry.parentPath, entry.name))
  }
}

function kilobytes(corpus: Corpus): number {
  return Math.round(corpus.bytes / corpus.instances / 1000)
}
