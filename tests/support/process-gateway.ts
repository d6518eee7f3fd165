/**
 * A gateway as its users run it: an own process with its own data folder, database and ports, which
 * tests may kill for real and start again.
 */

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { realpath } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { findCluster } from '../../gateway/db/cluster-place.ts'
import { adminClient, ask, type PidFile, readPidFile } from '../../gateway/db/postmaster.ts'
import { isServerOf } from '../../gateway/db/server-process.ts'
import { onEnd } from './cleanup.ts'
import { stopCluster } from './cluster.ts'
import { freePort } from './free-port.ts'
import { until } from './until.ts'

const root = join(import.meta.dirname, '../..')
const launcher = join(root, 'gateway/hanse.mjs')
const startDeadlineMs = 120_000
/** A graceful stop takes at most the job queue's 10 s and the database's shutdown; a busy machine more. */
const stopDeadlineMs = 90_000

export interface Ports {
  readonly http: number
  readonly dicom: number
  readonly federation: number
}

/** How a process ended. */
export interface Exit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** A connection to the gateway's database as the cluster's superuser. */
export type AdminClient = ReturnType<typeof adminClient>

export interface ProcessGateway {
  readonly site: string
  readonly data: string
  readonly ports: Ports
  /** `http://127.0.0.1:<port>` */
  readonly url: string
  /** 0 before the first start. */
  readonly pid: number
  readonly isRunning: boolean
  /** How it last ended; undefined while it runs. */
  readonly lastExit: Exit | undefined
  /** Starts the process and waits until it is ready. @throws Error when it ends before, with its last words */
  start(): Promise<void>
  /** Sends a signal and waits for the process to end; at once when it does not run. */
  kill(signal: NodeJS.Signals): Promise<void>
  /** Resolves when the process has ended. */
  ended(): Promise<void>
  /** Kills the private PostgreSQL's postmaster; false when none runs. */
  killDatabase(): Promise<boolean>
  /** Pid of the private PostgreSQL's postmaster; undefined when none runs. */
  databasePid(): Promise<number | undefined>
  /** PostgreSQL's own data directory and log. */
  cluster(): Promise<{ data: string; logFile: string }>
  /** A superuser's connection, waiting for a server that is just coming up; the caller ends it. */
  admin(): Promise<AdminClient>
  /** Runs `hanse …words --data <data>` to its end. */
  hanse(...words: readonly string[]): Promise<{ code: number | null; output: string }>
  /** JSON over HTTP: the parsed body; throws on a status of 400 and above. */
  api<T = Record<string, unknown>>(method: string, path: string, body?: unknown): Promise<T>
  /** What the process printed so far, over all its starts. */
  output(): string
}

/** Starts a gateway; it is stopped and its folder removed after the test. */
export async function startProcessGateway(
  t: TestContext,
  site: string,
  environment: Readonly<Record<string, string>> = {},
): Promise<ProcessGateway> {
  const gateway = await prepareProcessGateway(t, site, environment)
  await gateway.start()
  return gateway
}

/**
 * The same, not started yet: its ports are known to those who need them before.
 *
 * @param parent  where its data directory is made
 */
export async function prepareProcessGateway(
  t: TestContext,
  site: string,
  environment: Readonly<Record<string, string>> = {},
  parent = tmpdir(),
): Promise<ProcessGateway> {
  const data = mkdtempSync(join(parent, `hanse-${site}-`))
  const ports = { http: await freePort(), dicom: await freePort(), federation: await freePort() }
  const gateway = new GatewayProcess(site, data, ports, environment)
  onEnd(t, async () => {
    await gateway.stopForGood()
    rmSync(data, { recursive: true, force: true, maxRetries: 10 })
  })
  return gateway
}

/** A service manager's work: starts a gateway again whenever its process ends. */
export interface Keeper {
  /** Ends of the process that no `kill` of the test explains. */
  readonly unexplained: readonly string[]
  /** Waits until the gateway is ready, then no longer starts it. */
  release(): Promise<void>
}

/** Keeps a gateway running until `release`, or the test's end. */
export function keepRunning(t: TestContext, gateway: ProcessGateway): Keeper {
  const unexplained: string[] = []
  const watch = new AbortController()
  let isOver = false
  onEnd(t, () => {
    isOver = true
    watch.abort()
  })
  const keep = async (): Promise<void> => {
    while (!isOver && (!watch.signal.aborted || !gateway.isRunning)) {
      if (!gateway.isRunning) await gateway.start().catch(() => undefined) // killed while starting: once more
      const end = gateway.ended()
      await Promise.race([end, aborted(watch.signal)])
      const exit = gateway.lastExit
      if (exit && exit.signal !== 'SIGKILL') {
        unexplained.push(`${gateway.site} ended with ${exit.code ?? exit.signal}: ${gateway.output().slice(-1500)}`)
      }
    }
  }
  const keeping = keep()
  return {
    unexplained,
    async release() {
      watch.abort()
      await keeping
    },
  }
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return
  await new Promise<void>(resolve => signal.addEventListener('abort', () => resolve(), { once: true }))
}

class GatewayProcess implements ProcessGateway {
  readonly site: string
  readonly data: string
  readonly ports: Ports
  readonly url: string
  readonly #environment: Readonly<Record<string, string>>
  #child: ChildProcess | undefined
  #output = ''

  constructor(site: string, data: string, ports: Ports, environment: Readonly<Record<string, string>>) {
    this.site = site
    this.data = data
    this.ports = ports
    this.url = `http://127.0.0.1:${ports.http}`
    this.#environment = environment
  }

  get pid(): number {
    return this.#child?.pid ?? 0
  }

  get isRunning(): boolean {
    return this.#child !== undefined && this.lastExit === undefined
  }

  get lastExit(): Exit | undefined {
    const { exitCode: code = null, signalCode: signal = null } = this.#child ?? {}
    return code === null && signal === null ? undefined : { code, signal }
  }

  output(): string {
    return this.#output
  }

  async start(): Promise<void> {
    const child = this.#spawn(['start', '--data', this.data])
    this.#child = child
    const collect = (chunk: Buffer): void => {
      this.#output = (this.#output + chunk.toString()).slice(-200_000)
    }
    child.stdout?.on('data', collect)
    child.stderr?.on('data', collect)
    await until(`${this.site} is ready`, startDeadlineMs, async () => {
      if (!this.isRunning) throw new Error(`${this.site} ended: ${this.#output.slice(-3000)}`)
      const answer = await fetch(`${this.url}/api/v1/health/ready`).catch(() => undefined)
      await answer?.body?.cancel()
      return answer?.ok === true
    })
  }

  #spawn(words: readonly string[]): ChildProcess {
    return spawn(process.execPath, [launcher, ...words], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        HANSE_SITE_NAME: this.site,
        HANSE_HTTP_PORT: String(this.ports.http),
        HANSE_DICOM_PORT: String(this.ports.dicom),
        HANSE_FEDERATION_PORT: String(this.ports.federation),
        HANSE_PUBLIC_URL: `https://127.0.0.1:${this.ports.federation}`,
        HANSE_LOW_WATERMARK_BYTES: String(64 * 1024 * 1024),
        HANSE_POLICY_TWO_PERSONS: 'false',
        ...this.#environment,
      },
    })
  }

  async kill(signal: NodeJS.Signals): Promise<void> {
    const end = this.ended()
    if (this.isRunning) this.#child?.kill(signal)
    await end
  }

  async ended(): Promise<void> {
    const child = this.#child
    if (child && this.isRunning) await once(child, 'exit')
  }

  async hanse(...words: readonly string[]): Promise<{ code: number | null; output: string }> {
    const child = this.#spawn([...words, '--data', this.data])
    let output = ''
    const collect = (chunk: Buffer): void => {
      output += chunk.toString()
    }
    child.stdout?.on('data', collect)
    child.stderr?.on('data', collect)
    await once(child, 'close')
    return { code: child.exitCode, output }
  }

  async cluster(): Promise<{ data: string; logFile: string }> {
    const found = await findCluster(this.data)
    if (!found) throw new Error(`${this.site} has no database yet`)
    const home = await realpath(found)
    return { data: join(home, 'data'), logFile: join(home, 'postgres.log') }
  }

  async #server(): Promise<PidFile | undefined> {
    const cluster = await this.cluster().catch(() => undefined)
    const known = cluster && (await readPidFile(cluster.data))
    return known && (await isServerOf(known.pid, cluster.data)) ? known : undefined
  }

  async databasePid(): Promise<number | undefined> {
    return (await this.#server())?.pid
  }

  async killDatabase(): Promise<boolean> {
    const pid = await this.databasePid()
    if (pid === undefined) return false
    try {
      process.kill(pid, 'SIGKILL')
      return true
    } catch {
      return false
    }
  }

  async admin(): Promise<AdminClient> {
    const { data } = await this.cluster()
    const socketDir = await until(`${this.site}'s database answers`, startDeadlineMs, async () => {
      const known = await this.#server()
      return known && (await ask(known.socketDir, data)) === 'ready' ? known.socketDir : undefined
    })
    const client = adminClient(socketDir, 'hanse')
    client.on('error', () => undefined) // its server was killed: the next statement tells
    await client.connect()
    return client
  }

  /** In order where it still can; nothing is left running. */
  async stopForGood(): Promise<void> {
    const timer = setTimeout(() => this.#child?.kill('SIGKILL'), stopDeadlineMs)
    await this.kill('SIGTERM')
    clearTimeout(timer)
    if (await findCluster(this.data)) await stopCluster(this.data)
  }

  async api<T>(method: string, path: string, body?: unknown): Promise<T> {
    const response = await fetch(`${this.url}${path}`, {
      method,
      ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
    })
    const text = await response.text()
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text.slice(0, 1000)}`)
    return (text === '' ? undefined : JSON.parse(text)) as T
  }
}
