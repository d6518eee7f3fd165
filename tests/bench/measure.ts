/** What is measured, and its medians. */

/** One run of one workload on one target. */
export interface Measurement {
  /** Instances, megabytes, queries or matches a second. */
  readonly perSecond: number
  /** Of a query or match where those are counted. */
  readonly cpuMsPerInstance: number
  readonly peakTreeBytes: number
  readonly peakProcessBytes: number
}

/** All runs of one workload on one target. */
export interface Series {
  readonly target: string
  readonly durable: string
  readonly runs: readonly Measurement[]
}

/** A workload with the runs of all targets. */
export interface WorkloadResult {
  readonly name: string
  readonly unit: 'instances/s' | 'MB/s' | 'queries/s' | 'matches/s'
  readonly series: readonly Series[]
}

/** The median of each figure. */
export function medians(runs: readonly Measurement[]): Measurement {
  const of = (pick: (run: Measurement) => number): number => median(runs.map(pick))
  return {
    perSecond: of(run => run.perSecond),
    cpuMsPerInstance: of(run => run.cpuMsPerInstance),
    peakTreeBytes: of(run => run.peakTreeBytes),
    peakProcessBytes: of(run => run.peakProcessBytes),
  }
}

/** The middle value, or the mean of the two middle ones; NaN for none. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const upper = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
  const lower = sorted[Math.ceil(sorted.length / 2) - 1] ?? Number.NaN
  return (upper + lower) / 2
}
