/**
 * Downloads by Orthanc's routes: the ZIP file of a CT study, previews, files and frames at 1, 8 and 64 connections. The
 * same study in each server, servers in alternating order; what is measured is fetched once before. The client is
 * `curl`, which needs less time than either server: one of JavaScript takes as long as they do.
 */
import { mkdtemp, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Corpus, makeCorpus } from './corpus.ts'
import { startGateway } from './gateway.ts'
import type { Measurement, WorkloadResult } from './measure.ts'
import { startOrthanc } from './orthanc.ts'
import { cpuMs, MemoryWatch } from './process-tree.ts'
import { runTool } from './run-tool.ts'
import { sendFolders } from './sender.ts'
import type { RunningTarget } from './target.ts'

type Server = RunningTarget & { readonly url: string }

const servers: Readonly<Record<string, (directory: string) => Promise<Server>>> = {
  hanse: directory => startGateway(directory, 'Bench'),
  orthanc: directory => startOrthanc(directory),
}

const zip = 'study ZIP'
const requests = [
  { what: 'preview PNG', path: 'preview', count: 200 },
  { what: 'file', path: 'file', count: 600 },
  { what: 'raw frame', path: 'frames/0/raw', count: 600 },
] as const
const connections = [1, 8, 64] as const

/** Runs all of them on the named targets. `note` gets a line for each run. */
export async function benchImages(
  directory: string,
  targets: readonly string[],
  plan: { readonly instances: number; readonly rounds: number; readonly share: number },
  note: (line: string) => void,
): Promise<WorkloadResult[]> {
  const { instances, rounds } = plan
  const study = { name: 'images', instances, rows: 512, seed: 6_000_000, instancesPerStudy: instances, folders: 1 }
  const corpus = await makeCorpus(directory, study)
  const names = Object.keys(servers).filter(name => targets.includes(name))
  const results = new Map<string, Map<string, Measurement[]>>()
  for (let round = 0; round < rounds; round += 1) {
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      for (const [what, run] of await measure(directory, name, corpus, plan.share)) {
        note(`${what}: ${name} ${run.perSecond.toFixed(1)}/s`)
        const series = results.get(what) ?? new Map(names.map(each => [each, []]))
        series.get(name)?.push(run)
        results.set(what, series)
      }
    }
  }
  return [...results].map(([what, series]) => ({
    name: `${what} of ${instances} CT of ${Math.round(corpus.bytes / instances / 1000)} KB`,
    unit: what === zip ? 'MB/s' : 'queries/s',
    series: [...series].map(([target, runs]) => ({ target, durable: 'nothing: it is read', runs })),
  }))
}

async function measure(
  directory: string,
  name: string,
  corpus: Corpus,
  share: number,
): Promise<Map<string, Measurement>> {
  const server = await servers[name]?.(await mkdtemp(join(directory, `${name}-`)))
  if (!server) throw new Error(`there is no server ${name}`)
  const measured = new Map<string, Measurement>()
  try {
    await sendFolders(server.dicomPort, corpus.folders, 1)
    const list = async (level: string): Promise<string[]> => {
      const ids: unknown = await (await fetch(`${server.url}/${level}`)).json()
      return Array.isArray(ids) ? ids.map(String) : []
    }
    const [[study = ''], ids] = [await list('studies'), await list('instances')]
    const requestList = join(directory, 'requests')
    const fetchAll = async (paths: readonly string[], width: number): Promise<void> => {
      await writeFile(requestList, paths.map(path => `url=${server.url}${path}\noutput=/dev/null\n`).join(''))
      const parallel = width === 1 ? [] : ['--parallel', '--parallel-immediate', '--parallel-max', String(width)]
      await runTool('curl', ['--silent', '--show-error', '--fail', ...parallel, '--config', requestList], paths.length)
    }
    const archive = (): Promise<void> => fetchAll([`/studies/${study}/archive`], 1)
    await archive()
    measured.set(zip, await timed(server, { units: corpus.bytes / 1_000_000, items: corpus.instances }, archive))
    for (const { what, path, count } of requests) {
      for (const width of connections) {
        const wanted = Math.max(width, Math.round(count * share))
        const paths = Array.from({ length: wanted }, (_, i) => `/instances/${ids[i % ids.length]}/${path}`)
        const all = (): Promise<void> => fetchAll(paths, width)
        await all()
        const run = await timed(server, { units: wanted, items: wanted }, all)
        measured.set(`${what}, ${width} connection${width === 1 ? '' : 's'},`, run)
      }
    }
    return measured
  } finally {
    await server.stop()
  }
}

async function timed(
  server: Server,
  { units, items }: { readonly units: number; readonly items: number },
  work: () => Promise<void>,
): Promise<Measurement> {
  const before = cpuMs(server.roots)
  const memory = new MemoryWatch(server.roots)
  const began = performance.now()
  await work()
  const tookMs = performance.now() - began
  const peak = memory.stop()
  return {
    perSecond: (units / tookMs) * 1000,
    cpuMsPerInstance: (cpuMs(server.roots) - before) / items,
    peakTreeBytes: peak.treeBytes,
    peakProcessBytes: peak.largestProcessBytes,
  }
}
