/**
 * The threads that code frames. A frame has a deadline: a thread that exceeds it, or that dies, is replaced, and only
 * that frame fails. At most as many frames are held as there are threads.
 */
import { availableParallelism } from 'node:os'
import { extname } from 'node:path'
import { Piscina } from 'piscina'
import { GatewayError } from '../errors.ts'
import type { FrameTask } from './codec.ts'
import type { FrameAnswer } from './codec-worker.ts'
import { frameBytes } from './image.ts'

/** Settings of the pool. */
export interface CodecPoolOptions {
  /** Default: one less than there are processors, at least 1, at most 4. */
  readonly threads?: number
  /** What a frame may take; large ones get as much again for each 30 MiB without compression. Default 30 s. */
  readonly frameDeadlineMs?: number
}

/** Codes frames in threads. */
export interface CodecPool {
  readonly threads: number
  /** A number for an object whose frames are to be coded. */
  nextObject(): number
  /**
   * Waits for a free thread, then has it do the task that `prepare` makes; so what waits holds no frame. The bytes of
   * the task must be in a buffer of their own, which is moved to the thread.
   *
   * @throws GatewayError PIXELS_UNREADABLE, also for a frame beyond its deadline; TRANSCODE_UNSUPPORTED; UNAVAILABLE
   *   when the pool is closed; the reason of `signal`; what `prepare` throws
   */
  run(prepare: () => Promise<FrameTask>, signal: AbortSignal): Promise<Uint8Array>
  close(): Promise<void>
}

const tickMs = 500
const idleMs = 30_000
const deadlineBytes = 30 * 1_048_576

/** Opens the pool; threads start when there is work and end when there is none. */
export function openCodecPool(options: CodecPoolOptions = {}): CodecPool {
  const { threads = Math.min(4, Math.max(1, availableParallelism() - 1)), frameDeadlineMs = 30_000 } = options
  const retired = new Set<Threads>()
  let current = startThreads(threads)
  const turns = limitTurns(threads)
  let isClosed = false
  let objects = 0

  /** Threads are not started again by a piscina that once failed to start one; its other frames are finished. */
  const retire = (piscina: Threads): void => {
    if (piscina !== current) return
    current = startThreads(threads)
    retired.add(piscina)
    const forget = (): unknown => retired.delete(piscina)
    piscina.close().then(forget, forget)
  }

  const code = async (task: FrameTask, signal: AbortSignal): Promise<FrameAnswer> => {
    const deadlineMs = frameDeadlineMs * (1 + frameBytes(task.native) / deadlineBytes)
    using deadline = runningDeadline(deadlineMs, signal)
    const piscina = current
    try {
      const transferList = task.bytes.buffer instanceof ArrayBuffer ? [task.bytes.buffer] : []
      return await piscina.run(task, { signal: deadline.signal, transferList })
    } catch (cause) {
      signal.throwIfAborted()
      if (isClosed) throw stopping()
      retire(piscina)
      const message = deadline.signal.aborted ? 'it takes longer than allowed' : 'its codec failed'
      throw new GatewayError('PIXELS_UNREADABLE', `cannot decode frame: ${message}`, { cause })
    }
  }

  return {
    threads,
    nextObject: () => ++objects,
    async run(prepare, signal) {
      const release = await turns.take(signal)
      try {
        const task = await prepare()
        if (isClosed) throw stopping()
        const answer = await code(task, signal)
        if (answer.kind === 'failed') {
          throw new GatewayError(answer.code, answer.message, { context: { reason: answer.reason } })
        }
        return answer.bytes
      } finally {
        release()
      }
    },
    async close() {
      isClosed = true
      await Promise.all([current, ...retired].map(piscina => piscina.destroy()))
    },
  }
}

type Threads = Piscina<FrameTask, FrameAnswer>

function startThreads(maxThreads: number): Threads {
  const piscina: Threads = new Piscina({
    filename: new URL(`./codec-worker${extname(import.meta.url)}`, import.meta.url).href,
    name: 'work',
    minThreads: 0,
    maxThreads,
    idleTimeout: idleMs,
    recordTiming: false,
    resourceLimits: { maxOldGenerationSizeMb: 512 },
  })
  // The error of a thread reaches its task; without a task nobody waits for it, and the thread is replaced.
  piscina.on('error', () => {})
  return piscina
}

function stopping(): GatewayError {
  return new GatewayError('UNAVAILABLE', 'the gateway is stopping')
}

/**
 * Aborts with `signal`, or after so much time in which this process ran: a process that was stopped, or a machine that
 * slept, has not given its threads time either.
 */
function runningDeadline(deadlineMs: number, signal: AbortSignal): { signal: AbortSignal } & Disposable {
  const controller = new AbortController()
  const abort = (): void => controller.abort()
  let left = Math.ceil(deadlineMs / tickMs)
  const timer = setInterval(() => {
    if (--left <= 0) abort()
  }, tickMs)
  signal.addEventListener('abort', abort, { once: true })
  if (signal.aborted) abort()
  return {
    signal: controller.signal,
    [Symbol.dispose]() {
      clearInterval(timer)
      signal.removeEventListener('abort', abort)
    },
  }
}

/** Hands out a number of turns, first come, first served. */
function limitTurns(count: number): { take(signal: AbortSignal): Promise<() => void> } {
  let free = count
  const waiting = new Set<() => void>()
  const release = (): void => {
    const [next] = waiting
    if (next === undefined) free++
    else {
      waiting.delete(next)
      next()
    }
  }
  return {
    async take(signal) {
      signal.throwIfAborted()
      if (free > 0) free--
      else {
        const turn = Promise.withResolvers<void>()
        const give = (): void => turn.resolve()
        const leave = (): void => {
          if (waiting.delete(give)) turn.reject(signal.reason)
        }
        waiting.add(give)
        signal.addEventListener('abort', leave, { once: true })
        try {
          await turn.promise
        } finally {
          signal.removeEventListener('abort', leave)
        }
      }
      let isHeld = true
      return () => {
        if (isHeld) release()
        isHeld = false
      }
    },
  }
}
