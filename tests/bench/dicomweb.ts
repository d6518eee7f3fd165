/**
 * DICOMweb: the same studies in each server, then QIDO-RS of all of them and page by page, WADO-RS of a CT study and of
 * its frames, and STOW-RS of another one; Orthanc with its DICOMweb plugin. Servers in alternating order; the first
 * round is dropped.
 */
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Corpus, makeCorpus } from './corpus.ts'
import { startGateway } from './gateway.ts'
import { type Measurement, median, type WorkloadResult } from './measure.ts'
import { orthancDicomweb, startOrthanc } from './orthanc.ts'
import { cpuMs, MemoryWatch } from './process-tree.ts'
import { sendFolders } from './sender.ts'
import type { RunningTarget } from './target.ts'

/** How much is asked for. */
export interface DicomwebPlan {
  readonly studies: number
  /** Searches of a round, each of all studies and of a page. */
  readonly queries: number
  /** Of the CT study. */
  readonly instances: number
  readonly rounds: number
}

interface Server {
  readonly name: string
  readonly running: RunningTarget
  readonly service: string
}

const pageSize = 50
/** Instances in one request of STOW-RS. */
const stowed = 10
const connections = 8
const modality = { BENCH: ['BENCH', '127.0.0.1', 11_112] }

/** Runs the workloads on those of our gateway and Orthanc that are named. */
export async function benchDicomweb(
  directory: string,
  names: readonly string[],
  plan: DicomwebPlan,
  note: (line: string) => void,
): Promise<WorkloadResult[]> {
  if (names.includes('orthanc') && !existsSync(orthancDicomweb)) {
    note('DICOMweb: Orthanc is left out, its plugin is not installed (Debian: apt-get install orthanc-dicomweb)')
  }
  const servers = await startServers(directory, names)
  try {
    const small = {
      name: 'searched',
      instances: plan.studies,
      instancesPerStudy: 1,
      rows: 16,
      folders: 4,
      seed: 8_000_000,
    }
    const searched = await makeCorpus(directory, small)
    const large = {
      name: 'fetched',
      instances: plan.instances,
      instancesPerStudy: plan.instances,
      rows: 512,
      folders: 1,
    }
    const fetched = await makeCorpus(directory, { ...large, seed: 8_100_000 })
    for (const { running } of servers) {
      await sendFolders(running.dicomPort, searched.folders, 4)
      await sendFolders(running.dicomPort, fetched.folders, 1)
    }
    const rows = workloads(plan, fetched)
    const runs = rows.map(() => servers.map(() => [] as Measurement[]))
    for (let round = 0; round <= plan.rounds; round += 1) {
      // A study of its own for each round: what is stored already would not be stored again.
      const sent = await makeCorpus(directory, { ...large, name: `sent-${round}`, seed: 8_200_000 + round * 10_000 })
      const order = servers.map((server, index) => ({ server, index }))
      for (const { server, index } of round % 2 === 0 ? order : order.toReversed()) {
        for (const [row, { name, run }] of rows.entries()) {
          const measured = await measure(server, () => run(server, sent))
          note(`${name}: ${server.name} ${measured.perSecond.toFixed(1)}/s`)
          if (round > 0) runs[row]?.[index]?.push(measured)
        }
      }
    }
    return rows.map(({ name, unit }, row) => ({
      name,
      unit,
      series: servers.map((server, index) => ({
        target: server.name,
        durable: server.name === 'hanse' ? 'audit event' : '-',
        runs: runs[row]?.[index] ?? [],
      })),
    }))
  } finally {
    await Promise.all(servers.map(({ running }) => running.stop()))
  }
}

async function startServers(directory: string, names: readonly string[]): Promise<Server[]> {
  const servers: Server[] = []
  if (names.includes('hanse')) {
    const running = await startGateway(await mkdtemp(join(directory, 'web-')), 'Web')
    await running.call('PUT', '/modalities/BENCH', { host: '127.0.0.1' })
    servers.push({ name: 'hanse', running, service: `${running.url}/dicom-web` })
  }
  if (names.includes('orthanc') && existsSync(orthancDicomweb)) {
    const settings = { Plugins: [orthancDicomweb], DicomModalities: modality }
    const running = await startOrthanc(await mkdtemp(join(directory, 'web-')), undefined, settings)
    servers.push({ name: 'orthanc', running, service: `${running.url}/dicom-web` })
  }
  return servers
}

/** What was done: items a second, and how many items the processor's time is shared by. */
interface Done {
  readonly perSecond: number
  readonly items: number
}

interface Workload {
  readonly name: string
  readonly unit: WorkloadResult['unit']
  run(server: Server, sent: Corpus): Promise<Done>
}

function workloads(plan: DicomwebPlan, fetched: Corpus): Workload[] {
  const [study = ''] = fetched.studyInstanceUids
  const studyPath = `/studies/${study}`
  const all = '/studies'
  const page = (index: number): string => `/studies?limit=${pageSize}&offset=${(index * 7 * pageSize) % plan.studies}`
  const search = (name: string, path: (index: number) => string, percentile: number): Workload => ({
    name: `QIDO-RS of ${name}, p${percentile}`,
    unit: 'queries/s',
    async run({ service }) {
      const times: number[] = []
      for (let index = 0; index < plan.queries; index += 1) {
        const since = performance.now()
        await fetchBytes(`${service}${path(index)}`, { accept: 'application/dicom+json' })
        times.push(performance.now() - since)
      }
      const at =
        percentile === 50 ? median(times) : (times.toSorted((a, b) => a - b)[Math.floor(times.length * 0.95)] ?? 0)
      return { perSecond: 1000 / at, items: plan.queries }
    },
  })
  return [
    search(`all ${plan.studies} studies`, () => all, 50),
    search(`all ${plan.studies} studies`, () => all, 95),
    search(`${pageSize} of ${plan.studies} studies`, page, 50),
    search(`${pageSize} of ${plan.studies} studies`, page, 95),
    {
      name: `WADO-RS of a CT study, ${plan.instances} instances`,
      unit: 'MB/s',
      async run({ service }) {
        const since = performance.now()
        const accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        const bytes = await fetchBytes(`${service}${studyPath}`, { accept })
        if (bytes < fetched.bytes) throw new Error(`${bytes} of ${fetched.bytes} bytes were retrieved`)
        return { perSecond: bytes / 1e6 / ((performance.now() - since) / 1000), items: plan.instances }
      },
    },
    {
      name: `WADO-RS of frames, ${connections} at a time`,
      unit: 'queries/s',
      async run({ service }) {
        const list: unknown = await (await fetch(`${service}${studyPath}/instances`)).json()
        const uids = Array.isArray(list) ? list.map(each => String(Object(each)['00080018'].Value[0])) : []
        const left = [...uids]
        const since = performance.now()
        const take = async (): Promise<void> => {
          for (let uid = left.pop(); uid !== undefined; uid = left.pop()) {
            const path = `${studyPath}/series/${study}.1/instances/${uid}/frames/1`
            await fetchBytes(`${service}${path}`, { accept: 'multipart/related; type="application/octet-stream"' })
          }
        }
        await Promise.all(Array.from({ length: connections }, take))
        return { perSecond: uids.length / ((performance.now() - since) / 1000), items: uids.length }
      },
    },
    {
      name: `STOW-RS of CT instances, ${stowed} in a request`,
      unit: 'instances/s',
      async run({ service }, sent) {
        const [folder = ''] = sent.folders
        const names = await readdir(folder)
        let spentMs = 0
        for (let at = 0; at < names.length; at += stowed) {
          const files = await Promise.all(names.slice(at, at + stowed).map(name => readFile(join(folder, name))))
          const body = multipart(files)
          const since = performance.now()
          const answer = await fetch(`${service}/studies`, {
            method: 'POST',
            headers: {
              'content-type': 'multipart/related; type="application/dicom"; boundary=bench',
              accept: 'application/dicom+json',
            },
            body,
          })
          await answer.arrayBuffer()
          if (answer.status !== 200) throw new Error(`STOW-RS answered ${answer.status}`)
          spentMs += performance.now() - since
        }
        return { perSecond: names.length / (spentMs / 1000), items: names.length }
      },
    },
  ]
}

function multipart(files: readonly Buffer[]): Buffer {
  const parts = files.flatMap(file => [
    Buffer.from('--bench\r\nContent-Type: application/dicom\r\n\r\n'),
    file,
    Buffer.from('\r\n'),
  ])
  return Buffer.concat([...parts, Buffer.from('--bench--\r\n')])
}

async function fetchBytes(url: string, headers: Record<string, string>): Promise<number> {
  const answer = await fetch(url, { headers })
  let bytes = 0
  for await (const chunk of answer.body ?? []) bytes += chunk.length
  if (!answer.ok) throw new Error(`${answer.status} was answered`)
  return bytes
}

async function measure({ running }: Server, run: () => Promise<Done>): Promise<Measurement> {
  const before = cpuMs(running.roots)
  const memory = new MemoryWatch(running.roots)
  try {
    const { perSecond, items } = await run()
    const peak = memory.stop()
    return {
      perSecond,
      cpuMsPerInstance: (cpuMs(running.roots) - before) / items,
      peakTreeBytes: peak.treeBytes,
      peakProcessBytes: peak.largestProcessBytes,
    }
  } finally {
    memory.stop()
  }
}
