/** The results as a table, ratios first, and as JSON. */
import { medians, type Series, type WorkloadResult } from './measure.ts'

/** Where and with what was measured. */
export interface Surroundings {
  readonly date: string
  readonly processors: number
  readonly versions: Readonly<Record<string, string>>
}

interface Row {
  readonly target: string
  readonly perSecond: string
  readonly cpu: string
  readonly memory: string
  readonly durable: string
}

/** Ratios of our medians to those of another target: above 1 means more, of what `perSecond` and CPU count. */
export function ratiosOf(result: WorkloadResult): { to: string; perSecond: number; cpu: number }[] {
  const ours = result.series.find(series => series.target === 'hanse')
  if (!ours || ours.runs.length === 0) return []
  const own = medians(ours.runs)
  return result.series
    .filter(series => series !== ours && series.runs.length > 0)
    .map(series => {
      const other = medians(series.runs)
      return {
        to: series.target,
        perSecond: own.perSecond / other.perSecond,
        cpu: own.cpuMsPerInstance / other.cpuMsPerInstance,
      }
    })
}

const counted = { 'instances/s': 'inst', 'MB/s': 'inst', 'queries/s': 'query', 'matches/s': 'match' } as const

/** A table for people. */
export function renderTable(results: readonly WorkloadResult[]): string {
  return results.map(renderWorkload).join('\n\n')
}

/** The same figures with every run, for machines. */
export function renderJson(results: readonly WorkloadResult[], surroundings: Surroundings): string {
  const workloads = results.map(result => ({
    name: result.name,
    unit: result.unit,
    ratios: ratiosOf(result),
    targets: result.series.map(series => ({ ...series, median: medians(series.runs) })),
  }))
  return JSON.stringify({ ...surroundings, workloads }, null, 2)
}

function renderWorkload(result: WorkloadResult): string {
  const ratios = ratiosOf(result)
  const summary = ratios.map(
    ratio => `  against ${ratio.to}: ${ratio.perSecond.toFixed(2)} x ${result.unit}, ${ratio.cpu.toFixed(2)} x CPU`,
  )
  const header: Row = {
    target: '',
    perSecond: result.unit,
    cpu: `CPU ms/${counted[result.unit]}`,
    memory: 'peak MB (largest process)',
    durable: 'durable at success',
  }
  const rows = [header, ...result.series.filter(series => series.runs.length > 0).map(rowOf)]
  const columns = ['target', 'perSecond', 'cpu', 'memory', 'durable'] as const
  const widths = columns.map(column => Math.max(...rows.map(row => row[column].length)))
  const lines = rows.map(row =>
    columns
      .map((column, index) => row[column].padEnd(widths[index] ?? 0))
      .join('  ')
      .trimEnd(),
  )
  return [result.name, ...summary, ...lines.map(line => `  ${line}`)].join('\n')
}

function rowOf(series: Series): Row {
  const median = medians(series.runs)
  const megabytes = (bytes: number): string => (bytes / 1_000_000).toFixed(0)
  return {
    target: series.target,
    perSecond: median.perSecond.toFixed(median.perSecond < 100 ? 1 : 0),
    cpu: median.cpuMsPerInstance.toFixed(2),
    memory: `${megabytes(median.peakTreeBytes)} (${megabytes(median.peakProcessBytes)})`,
    durable: series.durable,
  }
}
