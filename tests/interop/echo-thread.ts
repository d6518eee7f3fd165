/** Verifies a gateway ten times a second in a thread of its own, so that its times are the gateway's and not the test's. */
import { setTimeout as delay } from 'node:timers/promises'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { echoScu, type ScuTarget } from '../../gateway/dimse/scu.ts'

/** What a thread saw. */
interface Seen {
  readonly timesMs: readonly number[]
  readonly failures: number
}

/** Verifies for `durationMs`; each time is that of one association. */
export async function verifyFor(durationMs: number, target: ScuTarget): Promise<Seen> {
  const thread = new Worker(new URL(import.meta.url), { workerData: { durationMs, target } })
  const { promise, resolve, reject } = Promise.withResolvers<Seen>()
  thread.once('message', resolve)
  thread.once('error', reject)
  return await promise
}

async function verify({ durationMs, target }: { durationMs: number; target: ScuTarget }): Promise<Seen> {
  const end = performance.now() + durationMs
  const timesMs: number[] = []
  let failures = 0
  while (performance.now() < end) {
    const from = performance.now()
    const outcome = await echoScu(target).catch(() => undefined)
    if (outcome?.status !== 0) failures += 1
    timesMs.push(performance.now() - from)
    await delay(100)
  }
  return { timesMs, failures }
}

if (!isMainThread) parentPort?.postMessage(await verify(workerData))
