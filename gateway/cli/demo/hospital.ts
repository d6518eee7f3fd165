/** One hospital of the demo: a gateway in a process of its own, on free ports. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdir, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { findCluster } from '../../db/cluster-place.ts'
import { isObject } from '../../decode.ts'

/** Ports of a hospital's listeners. */
export interface Ports {
  readonly http: number
  readonly dicom: number
  readonly federation: number
}

const startDeadlineMs = 120_000
const conditionDeadlineMs = 600_000
/** Short, so that a demo does not wait long for a study to be complete. */
const stableAgeMs = 3000

/** The story cannot go on; the message says where, and a hospital's last words why. */
export class DemoFailure extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'DemoFailure'
  }
}

export class Hospital {
  readonly name: string
  readonly aeTitle: string
  readonly data: string
  #ports: Ports = { http: 0, dicom: 0, federation: 0 }
  #child: ChildProcess | undefined
  #lines: string[] = []
  #signal: AbortSignal | undefined

  constructor(name: string, aeTitle: string, data: string) {
    this.name = name
    this.aeTitle = aeTitle
    this.data = data
  }

  get ports(): Ports {
    return this.#ports
  }

  get url(): string {
    return `http://127.0.0.1:${this.#ports.http}`
  }

  /** Starts the process and waits until it is ready. */
  async start(signal: AbortSignal): Promise<void> {
    this.#signal = signal
    await mkdir(this.data, { recursive: true })
    this.#ports = { http: await freePort(), dicom: await freePort(), federation: await freePort() }
    const launcher = fileURLToPath(new URL('../../hanse.mjs', import.meta.url))
    // An own process group: Ctrl-C at the terminal reaches the demo, which stops its hospitals in order.
    const child = spawn(process.execPath, [launcher, 'start', '--data', this.data], {
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...withoutOwnSettings(process.env),
        HANSE_SITE_NAME: this.name,
        HANSE_AE_TITLE: this.aeTitle,
        HANSE_HTTP_PORT: String(this.#ports.http),
        HANSE_DICOM_PORT: String(this.#ports.dicom),
        HANSE_FEDERATION_PORT: String(this.#ports.federation),
        HANSE_PUBLIC_URL: `https://127.0.0.1:${this.#ports.federation}`,
        HANSE_STABLE_AGE_MS: String(stableAgeMs),
        HANSE_LOW_WATERMARK_BYTES: String(64 * 1024 * 1024),
        // One person plays all parts.
        HANSE_POLICY_TWO_PERSONS: 'false',
      },
    })
    this.#child = child
    const keep = (chunk: Buffer): void => {
      this.#lines = [...this.#lines, ...chunk.toString().split('\n').filter(Boolean)].slice(-200)
    }
    child.stdout?.on('data', keep)
    child.stderr?.on('data', keep)
    await this.until(
      'it to be ready',
      async () => {
        if (child.exitCode !== null || child.signalCode !== null)
          throw new DemoFailure(`${this.name} ended while starting`)
        const answer = await fetch(`${this.url}/api/v1/health/ready`).catch(() => undefined)
        await answer?.body?.cancel()
        return answer?.ok
      },
      startDeadlineMs,
    )
  }

  /** Calls the hospital's API. */
  async call(method: string, path: string, body?: unknown): Promise<unknown> {
    const response = await fetch(`${this.url}/api/v1${path}`, {
      method,
      ...(body !== undefined && { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
    })
    const text = await response.text()
    const answer: unknown = text === '' ? undefined : JSON.parse(text)
    if (response.ok) return answer
    throw new DemoFailure(
      `${this.name}: ${method} ${path}: ${isObject(answer) ? String(answer['detail']) : response.status}`,
    )
  }

  /** Reads a resource of the Orthanc-compatible API, or a file. */
  async get(path: string): Promise<Response> {
    const response = await fetch(`${this.url}${path}`)
    if (!response.ok) throw new DemoFailure(`${this.name}: GET ${path}: ${response.status}`)
    return response
  }

  /** Asks until there is an answer; a deadline turns waiting for ever into an error. */
  async until<T>(
    what: string,
    ask: () => Promise<T | undefined | false>,
    deadlineMs = conditionDeadlineMs,
  ): Promise<T> {
    const end = Date.now() + deadlineMs
    for (;;) {
      this.#signal?.throwIfAborted()
      const answer = await ask()
      if (answer) return answer
      if (Date.now() > end) throw new DemoFailure(`${this.name}: waited ${deadlineMs / 1000} s for ${what}`)
      await delay(100)
    }
  }

  /** What the process said of its troubles, else what it said last: for a failure's report. */
  lastWords(): readonly string[] {
    const lines = this.#lines.map(readable)
    const troubles = lines.filter(({ isTrouble }) => isTrouble)
    return (troubles.length > 0 ? troubles.slice(-5) : lines.slice(-3)).map(({ text }) => text)
  }

  async stop(): Promise<void> {
    const child = this.#child
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const ended = new Promise<void>(done => child.once('exit', () => done()))
    child.kill('SIGTERM')
    const timer = setTimeout(() => child.kill('SIGKILL'), 30_000)
    await ended
    clearTimeout(timer)
  }

  /** Removes its data, and its database where that had to be put elsewhere because PostgreSQL's user could not enter. */
  async remove(): Promise<void> {
    const cluster = await findCluster(this.data)
    for (const dir of [this.data, ...(cluster === undefined || cluster.startsWith(this.data) ? [] : [cluster])]) {
      await rm(dir, { recursive: true, force: true, maxRetries: 5 })
    }
  }
}

/** A line of the log for people; what is no log line is printed by whoever could not even log. */
function readable(line: string): { text: string; isTrouble: boolean } {
  let entry: unknown
  try {
    entry = JSON.parse(line)
  } catch {
    return { text: line, isTrouble: true }
  }
  if (!isObject(entry)) return { text: line, isTrouble: true }
  const { level, time: _time, msg, ...context } = entry
  const details = Object.entries(context).map(([key, value]) => `${key}=${String(value)}`)
  return { text: [String(msg), ...details].join('  '), isTrouble: Number(level) >= 40 }
}

/** The caller's own HANSE_ settings are for another gateway. */
function withoutOwnSettings(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(env).filter(([name]) => !name.startsWith('HANSE_') || name === 'HANSE_POSTGRES_BIN'),
  )
}

/** A port of this machine that nobody uses now. */
export async function freePort(): Promise<number> {
  return await new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() =>
        address && typeof address === 'object' ? resolve(address.port) : reject(new Error('no free port')),
      )
    })
  })
}
