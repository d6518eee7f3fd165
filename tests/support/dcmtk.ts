/**
 * Runs DCMTK's tools as peers in tests. Without the tools a test is skipped with its reason, except
 * in CI, where nothing is skipped and it fails.
 */

import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { connect } from 'node:net'
import { delimiter, join } from 'node:path'
import type { TestContext } from 'node:test'
import { freePort } from './free-port.ts'
import { until } from './until.ts'

/** What a finished tool said. */
export interface ToolResult {
  readonly code: number | null
  readonly output: string
}

/** DCMTK enables TCP_NODELAY only when asked; without it each response costs its sender 40 ms. */
export const tuned = { ...process.env, TCP_NODELAY: '1' }

/**
 * For the `skip` option of a test.
 *
 * @returns false when all tools are there or CI is set, else the reason
 */
export function missing(...tools: string[]): string | false {
  const absent = tools.filter(tool => !isInstalled(tool))
  if (absent.length === 0 || process.env['CI']) return false
  return `${absent.join(', ')} not installed (Debian: apt-get install dcmtk)`
}

function isInstalled(tool: string): boolean {
  return (process.env['PATH'] ?? '').split(delimiter).some(directory => {
    try {
      accessSync(join(directory, tool), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

/** Runs a tool to its end; it is killed when the test ends or `timeoutMs` (default 120,000) are over. */
export async function run(
  t: TestContext,
  tool: string,
  args: readonly string[],
  options: { timeoutMs?: number; tuned?: boolean } = {},
): Promise<ToolResult> {
  const env = options.tuned === false ? { ...process.env, TCP_NODELAY: undefined } : tuned
  const child = spawn(tool, args, { env, stdio: ['ignore', 'pipe', 'pipe'], timeout: options.timeoutMs ?? 120_000 })
  t.after(() => child.kill('SIGKILL'))
  let output = ''
  child.stdout.on('data', (chunk: Buffer) => {
    output += chunk.toString()
  })
  child.stderr.on('data', (chunk: Buffer) => {
    output += chunk.toString()
  })
  const { promise, resolve, reject } = Promise.withResolvers<ToolResult>()
  child.once('error', reject)
  child.once('close', code => resolve({ code, output }))
  return await promise
}

/** Runs a tool that has to succeed; its output is in the error otherwise. */
export async function runOk(t: TestContext, tool: string, args: readonly string[]): Promise<string> {
  const { code, output } = await run(t, tool, args)
  if (code !== 0) throw new Error(`${tool} ${args.join(' ')} ended with ${code}:\n${output.slice(-4_000)}`)
  return output
}

/** Starts `storescp` on a free port and waits until it listens. */
export async function startStorescp(t: TestContext, args: readonly string[]): Promise<{ port: number }> {
  const port = await freePort()
  const child = spawn('storescp', [...args, String(port)], { env: tuned, stdio: 'ignore' })
  const ended = Promise.withResolvers<void>()
  child.once('close', () => ended.resolve())
  t.after(async () => {
    child.kill('SIGKILL')
    await ended.promise
  })
  await untilListening(port)
  return { port }
}

/** Waits until somebody accepts connections on a port. */
export async function untilListening(port: number, deadlineMs = 30_000): Promise<void> {
  await until(`port ${port} listens`, deadlineMs, () => accepts(port))
}

async function accepts(port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>()
  const socket = connect({ host: '127.0.0.1', port })
  socket.once('connect', () => resolve(true))
  socket.once('error', () => resolve(false))
  const accepted = await promise
  socket.destroy()
  return accepted
}
