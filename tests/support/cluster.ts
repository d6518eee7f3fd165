/** Private clusters in other processes and places, for tests that kill. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'
import { type ClusterOptions, openPrivateCluster, type PrivateCluster } from '../../gateway/db/embedded.ts'
import { openLog } from '../../gateway/log.ts'
import { onEnd } from './cleanup.ts'

export const silent = openLog({ level: 'silent' })

/** Settings of clusters that need not survive a power cut. */
export const fast = { fsync: 'off', full_page_writes: 'off', shared_buffers: '16MB' } as const

/** A data directory that PostgreSQL's user can enter; at the end its server is stopped and it is removed. */
export async function clusterDataDir(t: TestContext): Promise<string> {
  const parent = await mkdtemp(join(tmpdir(), 'hanse-test-'))
  await chmod(parent, 0o711)
  const dataDir = join(parent, 'data')
  onEnd(t, async () => {
    await stopCluster(dataDir)
    await rm(parent, { recursive: true, force: true })
  })
  return dataDir
}

/** Opens a cluster in this process, closed after the test. */
export async function openCluster(
  t: TestContext,
  options: Partial<ClusterOptions> & { dataDir: string },
): Promise<PrivateCluster> {
  const cluster = await openPrivateCluster({ log: silent, settings: fast, ...options })
  onEnd(t, () => cluster.close())
  return cluster
}

/** Stops whatever server a killed gateway has left in `dataDir`, and removes a cluster that lies elsewhere. */
export async function stopCluster(dataDir: string): Promise<void> {
  const cluster = await openPrivateCluster({ dataDir, log: silent }).catch(() => undefined)
  if (!cluster) return
  await cluster.close()
  if (!cluster.home.startsWith(dataDir)) await rm(cluster.home, { recursive: true, force: true })
}

/** What the child process says once its cluster is open. */
export interface ChildReport {
  readonly code: string
  readonly message: string
  readonly pid: number
  readonly adopted: boolean
  readonly home: string
  readonly socketDir: string
}

/** A process that opens the cluster of `dataDir` and then waits to be killed. */
export async function openInChild(
  t: TestContext,
  dataDir: string,
  options: { uid?: number; gid?: number; env?: NodeJS.ProcessEnv } = {},
): Promise<{ child: ChildProcess; report: ChildReport }> {
  const script = fileURLToPath(new URL('./open-cluster.ts', import.meta.url))
  const child = spawn(process.execPath, [script, dataDir], {
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true, // its own process group, so that a test can signal it as a terminal does
    cwd: '/',
    ...options,
    env: { ...process.env, ...options.env },
  })
  onEnd(t, () => kill(child))
  for await (const line of createInterface({ input: child.stdout })) return { child, report: JSON.parse(line) }
  throw new Error('the child ended without a report')
}

/** Kills a child as a crash would, and waits for its end. */
export async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill('SIGKILL')
  await once(child, 'exit')
}
