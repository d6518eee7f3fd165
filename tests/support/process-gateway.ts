/**
 * A gateway as its users run it: an own process with its own data folder, database and ports, which
 * tests may kill for real and start again.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { until } from './until.ts'

const root = join(import.meta.dirname, '../..')

export interface Ports {
  readonly http: number
  readonly dicom: number
  readonly federation: number
}

export interface ProcessGateway {
  readonly site: string
  readonly data: string
  readonly ports: Ports
  /** `http://127.0.0.1:<port>` */
  readonly url: string
  readonly pid: number
  /** Starts the process and waits until it is ready. */
  start(): Promise<void>
  /** Sends a signal and waits for the process to end. */
  kill(signal: NodeJS.Signals): Promise<void>
  /** Kills the private PostgreSQL's postmaster. */
  killDatabase(): boolean
  readonly isRunning: boolean
  /** JSON over HTTP: the parsed body; throws on a status of 400 and above. */
  api<T = Record<string, unknown>>(method: string, path: string, body?: unknown): Promise<T>
  /** What the process printed so far. */
  output(): string
}

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  return await new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() =>
        address && typeof address === 'object' ? resolve(address.port) : reject(new Error('no port')),
      )
    })
  })
}

/** Starts a gateway; it is stopped and its folder removed after the test. */
export async function startProcessGateway(
  t: TestContext,
  site: string,
  environment: Readonly<Record<string, string>> = {},
): Promise<ProcessGateway> {
  const data = mkdtempSync(join(tmpdir(), `hanse-${site}-`))
  const ports = { http: await freePort(), dicom: await freePort(), federation: await freePort() }
  const gateway = new GatewayProcess(site, data, ports, environment)
  t.after(async () => {
    await gateway.kill('SIGTERM')
    gateway.killDatabase()
    rmSync(data, { recursive: true, force: true, maxRetries: 10 })
  })
  await gateway.start()
  return gateway
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
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null
  }

  output(): string {
    return this.#output
  }

  async start(): Promise<void> {
    const child = spawn(process.execPath, [join(root, 'gateway/cli.ts'), 'start', '--data', this.data], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        HANSE_SITE_NAME: this.site,
        HANSE_HTTP_PORT: String(this.ports.http),
        HANSE_DICOM_PORT: String(this.ports.dicom),
        HANSE_FEDERATION_PORT: String(this.ports.federation),
        HANSE_PUBLIC_URL: `https://127.0.0.1:${this.ports.federation}`,
        ...this.#environment,
      },
    })
    this.#child = child
    const collect = (chunk: Buffer): void => {
      this.#output = (this.#output + chunk.toString()).slice(-200_000)
    }
    child.stdout?.on('data', collect)
    child.stderr?.on('data', collect)
    await until(`${this.site} is ready`, 120_000, async () => {
      if (!this.isRunning) throw new Error(`${this.site} ended: ${this.#output.slice(-3000)}`)
      const answer = await fetch(`${this.url}/api/v1/health/ready`).catch(() => undefined)
      await answer?.body?.cancel()
      return answer?.ok === true
    })
  }

  async kill(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child
    if (!child || !this.isRunning) return
    const ended = new Promise<void>(resolve => child.once('exit', () => resolve()))
    child.kill(signal)
    await ended
  }

  killDatabase(): boolean {
    const pid = this.#postmasterPid()
    if (!pid) return false
    try {
      process.kill(pid, 'SIGKILL')
      return true
    } catch {
      return false
    }
  }

  #postmasterPid(): number | undefined {
    for (const dir of [join(this.data, 'pg'), join(this.data, 'pg/data')]) {
      const file = join(dir, 'postmaster.pid')
      if (existsSync(file)) return Number(readFileSync(file, 'utf8').split('\n')[0])
    }
    return undefined
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
