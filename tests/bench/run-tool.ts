/** Programs of others, run to their end. */
import { spawn } from 'node:child_process'
import type { Measurement } from './measure.ts'
import { cpuMs, MemoryWatch } from './process-tree.ts'

/** Runs a program to its end; its CPU time is what /proc last said. */
export async function runTool(command: string, args: readonly string[], instances: number): Promise<Measurement> {
  const began = performance.now()
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  const pid = child.pid ?? -1
  const watch = new MemoryWatch([pid])
  let cpu = 0
  const timer = setInterval(() => {
    cpu = Math.max(cpu, cpuMs([pid]))
  }, 20)
  let words = ''
  child.stderr.on('data', (chunk: Buffer) => {
    words = (words + chunk.toString()).slice(-2_000)
  })
  const { promise, resolve, reject } = Promise.withResolvers<number | null>()
  child.once('error', reject)
  child.once('close', resolve)
  const code = await promise.finally(() => clearInterval(timer))
  const seconds = (performance.now() - began) / 1000
  const memory = watch.stop()
  if (code !== 0) throw new Error(`${command} ended with ${code}: ${words}`)
  return measurement(instances, seconds, cpu, memory)
}

/** The figures of one run. @param cpu  in milliseconds, of all instances */
export function measurement(
  instances: number,
  seconds: number,
  cpu: number,
  memory: { treeBytes: number; largestProcessBytes: number },
): Measurement {
  return {
    perSecond: instances / seconds,
    cpuMsPerInstance: cpu / instances,
    peakTreeBytes: memory.treeBytes,
    peakProcessBytes: memory.largestProcessBytes,
  }
}
