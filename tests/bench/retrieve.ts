/**
 * C-GET and C-MOVE of a CT study: the same study into each server, then DCMTK's getscu fetches it, and
 * movescu has it sent to DCMTK's storescp, both of which throw it away. Servers in alternating order; the
 * first round is dropped.
 */
import { spawn } from 'node:child_process'
import { mkdtemp } from 'node:fs/promises'
import { join } from 'node:path'
import { untilListening } from '../support/dcmtk.ts'
import { freePort } from '../support/free-port.ts'
import { type Corpus, makeCorpus } from './corpus.ts'
import { startGateway } from './gateway.ts'
import type { Measurement, WorkloadResult } from './measure.ts'
import { startOrthanc } from './orthanc.ts'
import { cpuMs, MemoryWatch } from './process-tree.ts'
import { sendFolders } from './sender.ts'
import { type RunningTarget, spawnServer } from './target.ts'

/** A server that may be retrieved from. */
interface Archive extends RunningTarget {
  /** Lets this caller retrieve, and be a move destination. */
  register(name: string, aeTitle: string, port: number): Promise<void>
}

const archives: Readonly<Record<string, (directory: string) => Promise<Archive>>> = {
  hanse: async directory => {
    const gateway = await startGateway(directory, 'Bench')
    const register = async (name: string, aeTitle: string, port: number): Promise<void> => {
      await gateway.call('PUT', `/modalities/${name}`, { aeTitle, host: '127.0.0.1', port })
    }
    return { ...gateway, register }
  },
  orthanc: async directory => {
    const server = await startOrthanc(directory)
    const register = async (name: string, aeTitle: string, port: number): Promise<void> => {
      const body = JSON.stringify({ AET: aeTitle, Host: '127.0.0.1', Port: port })
      const answer = await fetch(`${server.url}/modalities/${name}`, { method: 'PUT', body })
      if (!answer.ok) throw new Error(`Orthanc answered ${answer.status}`)
    }
    return { ...server, register }
  },
}

const services = ['C-GET', 'C-MOVE'] as const
type Service = (typeof services)[number]

/** Runs both services on the named targets. `note` gets a line for each run. */
export async function benchRetrieve(
  directory: string,
  targets: readonly string[],
  plan: { readonly instances: number; readonly rounds: number },
  note: (line: string) => void,
): Promise<WorkloadResult[]> {
  const { instances } = plan
  const study = { name: 'retrieved', instances, rows: 512, seed: 4_000_000, instancesPerStudy: instances, folders: 1 }
  const corpus = await makeCorpus(directory, study)
  const names = Object.keys(archives).filter(name => targets.includes(name))
  const runs = new Map(services.map(service => [service, new Map(names.map(name => [name, [] as Measurement[]]))]))
  const rounds = plan.rounds > 1 ? plan.rounds + 1 : 1
  for (let round = 0; round < rounds; round += 1) {
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      for (const [service, run] of await measure(directory, name, corpus)) {
        const isDropped = rounds > 1 && round === 0
        note(`${service} of ${instances} CT: ${name} ${run.perSecond.toFixed(0)}/s${isDropped ? ' (dropped)' : ''}`)
        if (!isDropped) runs.get(service)?.get(name)?.push(run)
      }
    }
  }
  return services.map(service => ({
    name: `${service} of a study of ${instances} CT of ${Math.round(corpus.bytes / instances / 1000)} KB`,
    unit: 'instances/s',
    series: names.map(name => ({
      target: name,
      durable: 'nothing: it is read',
      runs: runs.get(service)?.get(name) ?? [],
    })),
  }))
}

async function measure(directory: string, name: string, corpus: Corpus): Promise<Map<Service, Measurement>> {
  const archive = await archives[name]?.(await mkdtemp(join(directory, `${name}-`)))
  if (!archive) throw new Error(`there is no archive ${name}`)
  const port = await freePort()
  const receiver = spawnServer('storescp', ['--ignore', '--max-pdu', '131072', String(port)])
  try {
    await untilListening(port)
    await archive.register('asker', 'BENCH', port)
    await archive.register('receiver', 'RECEIVER', port)
    await sendFolders(archive.dicomPort, corpus.folders, 1)
    const [uid = ''] = corpus.studyInstanceUids
    const keys = ['-S', '-k', '0008,0052=STUDY', '-k', `0020,000D=${uid}`, '--max-pdu', '131072']
    const from = [
      '-aet',
      'BENCH',
      '-aec',
      name === 'hanse' ? 'HANSE' : 'ORTHANC',
      '127.0.0.1',
      String(archive.dicomPort),
    ]
    const commands: Readonly<Record<Service, readonly string[]>> = {
      'C-GET': ['getscu', '--ignore', ...keys, ...from],
      'C-MOVE': ['movescu', '-aem', 'RECEIVER', ...keys, ...from],
    }
    const measured = new Map<Service, Measurement>()
    for (const service of services) {
      // Once unmeasured: both have read the files then.
      await run(commands[service])
      measured.set(service, await timed(archive, corpus.instances, () => run(commands[service])))
    }
    return measured
  } finally {
    await receiver.stop()
    await archive.stop()
  }
}

async function timed(archive: Archive, instances: number, work: () => Promise<void>): Promise<Measurement> {
  const before = cpuMs(archive.roots)
  const memory = new MemoryWatch(archive.roots)
  const began = performance.now()
  await work()
  const tookMs = performance.now() - began
  const peak = memory.stop()
  return {
    perSecond: (instances / tookMs) * 1000,
    cpuMsPerInstance: (cpuMs(archive.roots) - before) / instances,
    peakTreeBytes: peak.treeBytes,
    peakProcessBytes: peak.largestProcessBytes,
  }
}

async function run([command = '', ...args]: readonly string[]): Promise<void> {
  const child = spawn(command, args, { env: { ...process.env, TCP_NODELAY: '1' }, stdio: ['ignore', 'pipe', 'pipe'] })
  let words = ''
  const keep = (chunk: Buffer): void => {
    words = (words + chunk.toString()).slice(-2_000)
  }
  child.stdout.on('data', keep)
  child.stderr.on('data', keep)
  const { promise, resolve, reject } = Promise.withResolvers<number | null>()
  child.once('error', reject)
  child.once('close', resolve)
  const code = await promise
  if (code !== 0) throw new Error(`${command} ended with ${code}: ${words}`)
}
