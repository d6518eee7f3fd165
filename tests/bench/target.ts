/** A server under measurement: ours, Orthanc, DCMTK's storescp. */
import { type ChildProcess, spawn } from 'node:child_process'

/** A kind of server. */
export interface Target {
  readonly name: 'hanse' | 'orthanc' | 'storescp' | 'storescp+sync'
  /** What is durable when it answers success, for the report. */
  readonly durable: string
  /** Starts an empty one that keeps its data in `directory`, and waits until it is ready. */
  start(directory: string): Promise<RunningTarget>
}

/** A server that runs. */
export interface RunningTarget {
  readonly dicomPort: number
  /** The processes whose trees make up the server. */
  readonly roots: readonly number[]
  /** How many instances it holds. */
  count(): Promise<number>
  stop(): Promise<void>
}

/** Starts a server process whose output is kept for a failure's report. */
export function spawnServer(
  command: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): { child: ChildProcess; pid: number; lastWords: () => string; stop: () => Promise<void> } {
  const child = spawn(command, args, {
    env: { ...process.env, TCP_NODELAY: '1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let words = ''
  const keep = (chunk: Buffer): void => {
    words = (words + chunk.toString()).slice(-4_000)
  }
  child.stdout?.on('data', keep)
  child.stderr?.on('data', keep)
  const ended = Promise.withResolvers<void>()
  child.once('close', () => ended.resolve())
  child.once('error', error => {
    words += error.message
    ended.resolve()
  })
  return {
    child,
    pid: child.pid ?? -1,
    lastWords: () => words,
    async stop() {
      child.kill('SIGTERM')
      const timer = setTimeout(() => child.kill('SIGKILL'), 30_000)
      await ended.promise
      clearTimeout(timer)
    },
  }
}

/** Waits until `isReady`, or fails with what the server said last. */
export async function untilReady(
  server: ReturnType<typeof spawnServer>,
  isReady: () => Promise<boolean>,
  deadlineMs = 120_000,
): Promise<void> {
  const deadline = performance.now() + deadlineMs
  while (!(await isReady().catch(() => false))) {
    if (server.child.exitCode !== null || performance.now() > deadline) {
      await server.stop()
      throw new Error(`server did not get ready: ${server.lastWords()}`)
    }
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}
