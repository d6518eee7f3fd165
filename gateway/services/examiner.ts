/**
 * Examines inbound bytes in a thread of its own: hashing and parsing take as long as receiving does, so a
 * gateway with a second core receives nearly twice as fast. The thread is started when it is needed and
 * ended when nothing came for a while; bytes that are not in shared memory, or few, are examined at once.
 */
import { extname } from 'node:path'
import { Worker } from 'node:worker_threads'
import { GatewayError } from '../errors.ts'
import { type ExaminedPiece, examinePieces, type PieceToExamine } from './examine.ts'

export interface Examiner {
  /**
   * As `examinePieces`.
   *
   * @throws GatewayError UNAVAILABLE when the thread ended meanwhile
   */
  examine(bytes: Uint8Array, pieces: readonly PieceToExamine[]): Promise<readonly ExaminedPiece[]>
  /** Starts the thread for bytes that are announced; resolves when it is ready, or has failed. */
  prepare(): Promise<void>
}

/** To the thread: which bytes to look at. */
export interface Question {
  readonly id: number
  readonly memory: SharedArrayBuffer
  readonly offset: number
  readonly length: number
  readonly pieces: readonly PieceToExamine[]
}

/** From the thread. */
export type Answer =
  | { readonly id: number; readonly examined: readonly ExaminedPiece[] }
  | { readonly id: number; readonly error: string }

/** Below this a question takes longer than its answer. */
const leastBytes = 65_536
const idleMs = 30_000

interface Thread {
  readonly worker: Worker
  readonly open: Map<number, PromiseWithResolvers<readonly ExaminedPiece[]>>
  readonly ready: PromiseWithResolvers<void>
  isReady: boolean
}

/** An examiner without a thread yet. */
export function createExaminer(): Examiner {
  let thread: Thread | undefined
  let idle: NodeJS.Timeout | undefined
  let questions = 0

  const wake = (): Thread => {
    thread ??= startThread(ended => {
      if (thread === ended) thread = undefined
    })
    clearTimeout(idle)
    idle = setTimeout(() => {
      if (!thread || thread.open.size > 0) return
      void thread.worker.terminate()
      thread = undefined
    }, idleMs).unref()
    return thread
  }

  return {
    prepare: () => wake().ready.promise,
    examine(bytes, pieces) {
      const { buffer: memory, byteOffset: offset, length } = bytes
      if (!(memory instanceof SharedArrayBuffer) || length < leastBytes) return examinePieces(bytes, pieces)
      const { isReady, open, worker } = wake()
      if (!isReady) return examinePieces(bytes, pieces)
      const question: Question = { id: questions++, memory, offset, length, pieces }
      const answer = Promise.withResolvers<readonly ExaminedPiece[]>()
      open.set(question.id, answer)
      worker.ref()
      worker.postMessage(question)
      return answer.promise
    },
  }
}

function startThread(onEnd: (thread: Thread) => void): Thread {
  // In the published package the sources have lost their types, and their extension with them.
  const program = new URL(`./examiner-thread${extname(import.meta.filename)}`, import.meta.url)
  const thread: Thread = {
    worker: new Worker(program),
    open: new Map(),
    ready: Promise.withResolvers(),
    isReady: false,
  }
  const { worker, open, ready } = thread
  const end = (cause: unknown): void => {
    onEnd(thread)
    for (const { reject } of open.values()) {
      reject(new GatewayError('UNAVAILABLE', 'the thread that examines bytes has ended', { cause }))
    }
    open.clear()
    ready.resolve()
  }
  // It keeps the process alive only while somebody waits for it.
  const rest = (): void => {
    if (open.size === 0) worker.unref()
  }
  worker.on('online', () => {
    thread.isReady = true
    ready.resolve()
    rest()
  })
  worker.on('message', (answer: Answer) => {
    const asked = open.get(answer.id)
    open.delete(answer.id)
    rest()
    if ('examined' in answer) asked?.resolve(answer.examined)
    else asked?.reject(new GatewayError('UNAVAILABLE', 'bytes could not be examined', { cause: answer.error }))
  })
  worker.on('error', end)
  worker.on('exit', end)
  return thread
}
