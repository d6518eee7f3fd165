/** The files of a study to a real OpenSSH server: our delivery next to the `sftp` command on the same server. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { deliverFiles } from '../../endpoints/delivery.ts'
import { openFileStore } from '../../endpoints/open-place.ts'
import type { PackageFile } from '../../endpoints/package.ts'
import { decodePlace } from '../../endpoints/place.ts'
import { missing } from '../support/dcmtk.ts'
import { launchSshd, type RunningSshd } from '../support/sshd.ts'
import { makeCorpus } from './corpus.ts'
import type { Measurement, Series, WorkloadResult } from './measure.ts'
import { cpuMs, MemoryWatch } from './process-tree.ts'
import { runTool } from './run-tool.ts'

/** Both in alternating order; each delivers to a folder of its own. Undefined where there is no OpenSSH. */
export async function benchSftp(
  directory: string,
  plan: { readonly instances: number; readonly rounds: number },
  note: (line: string) => void,
): Promise<WorkloadResult | undefined> {
  if (missing('sftp', 'ssh-keygen') !== false) return undefined
  const { instances, rounds } = plan
  const study = { name: 'sftp', instances, rows: 512, seed: 8_000_000, instancesPerStudy: instances, folders: 1 }
  const corpus = await makeCorpus(directory, study)
  const [input = ''] = corpus.folders
  const server = await launchSshd(join(directory, 'sshd'))
  const contestants: Readonly<Record<string, (folder: string) => Promise<Measurement>>> = {
    hanse: folder => deliver(server, input, folder),
    sftp: folder => command(server, input, folder, join(directory, 'sshd')),
  }
  const runs = new Map<string, Measurement[]>(Object.keys(contestants).map(name => [name, []]))
  try {
    for (let round = 0; round < rounds; round += 1) {
      const names = Object.keys(contestants)
      for (const name of round % 2 === 0 ? names : names.toReversed()) {
        const folder = `${name}-${round}`
        const measured = await contestants[name]?.(folder)
        if (measured) runs.get(name)?.push(measured)
        note(`sftp ${name}: ${measured?.perSecond.toFixed(0)} instances/s`)
        const arrived = await readdir(join(server.root, folder))
        if (arrived.length !== instances) throw new Error(`${name} delivered ${arrived.length} of ${instances} files`)
        await rm(join(server.root, folder), { recursive: true })
      }
    }
  } finally {
    await server.kill()
  }
  const durable: Readonly<Record<string, string>> = {
    hanse: 'each file under a name of its own until its size is verified',
    sftp: 'nothing is verified (put -r)',
  }
  const series: Series[] = [...runs].map(([target, each]) => ({ target, durable: durable[target] ?? '', runs: each }))
  return { name: `${instances} CT of 526 KB by SFTP`, unit: 'instances/s', series }
}

async function deliver(server: RunningSshd, input: string, folder: string): Promise<Measurement> {
  const { port, user, root, hostKey, privateKey } = server
  const files = await Promise.all((await readdir(input)).map(name => fileOf(join(input, name), name)))
  const place = decodePlace({ kind: 'sftp', host: '127.0.0.1', port, user, root, hostKey })
  const { signal } = new AbortController()
  const progress = { isDone: () => false, onDone: async () => {}, onSent: () => {}, mayContinue: async () => true }
  const memory = new MemoryWatch([process.pid])
  const [cpu, began] = [cpuMs([process.pid]), performance.now()]
  const open = (each: AbortSignal) => openFileStore(place, { privateKey }, each)
  await deliverFiles(open, folder, files, { parallel: 2 }, progress, signal)
  const seconds = (performance.now() - began) / 1000
  const peak = memory.stop()
  return {
    perSecond: files.length / seconds,
    cpuMsPerInstance: (cpuMs([process.pid]) - cpu) / files.length,
    peakTreeBytes: peak.treeBytes,
    peakProcessBytes: peak.largestProcessBytes,
  }
}

async function fileOf(path: string, name: string): Promise<PackageFile> {
  const bytes = await readFile(path)
  return {
    name,
    role: 'content',
    size: bytes.length,
    sha256: createHash('sha256').update(bytes).digest('hex'),
    open: offset => createReadStream(path, { start: offset, highWaterMark: 262_144 }),
  }
}

async function command(server: RunningSshd, input: string, folder: string, work: string): Promise<Measurement> {
  await mkdir(work, { recursive: true })
  const [key, batch] = [join(work, 'bench-key'), join(work, 'bench-batch')]
  await writeFile(key, server.privateKey, { mode: 0o600 })
  await writeFile(batch, `mkdir ${folder}\nput ${input}/* ${folder}/\n`)
  const options = ['StrictHostKeyChecking=no', 'UserKnownHostsFile=/dev/null', 'LogLevel=ERROR']
  const args = ['-q', '-i', key, '-P', String(server.port), '-b', batch, ...options.flatMap(each => ['-o', each])]
  const { length } = await readdir(input)
  return await runTool('sftp', [...args, `${server.user}@127.0.0.1`], length)
}
