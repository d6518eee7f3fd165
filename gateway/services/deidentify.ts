/**
 * De-identifies files in threads. What a thread cannot do (text to be blanked in compressed pixels) is done here with
 * the codec threads. Whatever goes wrong holds the file: a thread that dies or does not answer in time included.
 */
import { availableParallelism } from 'node:os'
import { extname } from 'node:path'
import { Worker } from 'node:worker_threads'
import { Deidentifier, type PixelCodec } from '../../policy/deid/engine.ts'
import type { Held } from '../../policy/deid/hold.ts'
import type { Identifiers } from '../../policy/deid/identifiers.ts'
import type { Profile } from '../../policy/deid/profile.ts'
import type { Subject } from '../../policy/deid/project.ts'
import { type ErrorCode, GatewayError } from '../errors.ts'
import { type DeidentifyTask, deidentifyFile, type FileDone } from './deidentify-file.ts'

/** What the files of one study and recipient have in common. The same id means the same session. */
export interface Session {
  readonly id: string
  readonly profile: Profile
  /** Project key, 32 bytes, secret. */
  readonly key: Uint8Array
  /** Pseudonyms by `JSON.stringify([issuer, id])`, where the profile does not derive them from the key. */
  readonly pseudonyms?: readonly (readonly [subject: string, pseudonym: string])[]
  /** Identifiers of all instances of the study; taken out of each one's text. */
  readonly identifiers?: Identifiers
}

/** What an instance says of its patient; undefined when it cannot be read. */
export type Inspected =
  | { readonly studyUid: string; readonly identifiers: Identifiers; readonly subject: Subject }
  | undefined

export interface Deidentify {
  /** How many files are worked on at a time. */
  readonly threads: number
  /** Reads a file's identifiers and subject. */
  inspect(session: Session, sourcePath: string): Promise<Inspected>
  /**
   * De-identifies a file: a verified output with its certificate, or the reason why there is none.
   *
   * @throws GatewayError STORAGE_FULL, STORAGE_IO when the output cannot be written, UNAVAILABLE while closing
   */
  run(session: Session, task: DeidentifyTask): Promise<FileDone | Held>
  close(): Promise<void>
}

/** To a thread. */
export interface Question {
  /** Of this task and those that follow; absent while it is the same. */
  readonly session: Session | undefined
  readonly task: { readonly kind: 'inspect'; readonly sourcePath: string } | ({ readonly kind: 'run' } & DeidentifyTask)
}

/** From a thread. */
export type Answer =
  | { readonly kind: 'inspected'; readonly found: Inspected }
  | { readonly kind: 'run'; readonly outcome: FileDone | Held }
  | { readonly kind: 'failed'; readonly code: ErrorCode; readonly message: string }
  /** The engine threw where it must not. */
  | { readonly kind: 'broken' }

export interface DeidentifyOptions {
  /** Default: as many as there are processors, at most 4. */
  readonly threads?: number
  /** For compressed pixels with text in them; without one they are held. */
  readonly codec?: PixelCodec
  /** What one file may take; default 5 minutes. */
  readonly deadlineMs?: number
}

interface Thread {
  readonly worker: Worker
  /** The session that it has been told of. */
  session: string | undefined
  asked: PromiseWithResolvers<Answer> | undefined
}

interface Waiting {
  readonly session: Session
  readonly task: Question['task']
  readonly answer: PromiseWithResolvers<Answer>
}

/** Opens the service; threads start when there is work. */
export function openDeidentify(options: DeidentifyOptions = {}): Deidentify {
  const { threads = Math.min(4, availableParallelism()), codec, deadlineMs = 300_000 } = options
  const all = new Set<Thread>()
  const idle: Thread[] = []
  const waiting: Waiting[] = []
  let isClosed = false

  const start = (): Thread => {
    const program = new URL(`./deidentify-thread${extname(import.meta.filename)}`, import.meta.url)
    const thread: Thread = { worker: new Worker(program), session: undefined, asked: undefined }
    const end = (): void => {
      all.delete(thread)
      const at = idle.indexOf(thread)
      if (at >= 0) idle.splice(at, 1)
      thread.asked?.resolve({ kind: 'broken' })
      next()
    }
    thread.worker.on('message', (answer: Answer) => thread.asked?.resolve(answer))
    thread.worker.on('error', end)
    thread.worker.on('exit', end)
    all.add(thread)
    return thread
  }

  const ask = async (thread: Thread, { session, task, answer }: Waiting): Promise<void> => {
    thread.asked = answer
    thread.worker.ref()
    const question: Question = { session: thread.session === session.id ? undefined : session, task }
    thread.session = session.id
    thread.worker.postMessage(question)
    const deadline = setTimeout(() => {
      all.delete(thread)
      void thread.worker.terminate()
      answer.resolve({ kind: 'broken' })
    }, deadlineMs)
    await answer.promise
    clearTimeout(deadline)
    thread.asked = undefined
    // It keeps the process alive only while somebody waits for it.
    thread.worker.unref()
    if (all.has(thread)) idle.push(thread)
    next()
  }

  const next = (): void => {
    while (!isClosed && waiting.length > 0) {
      const thread = idle.pop() ?? (all.size < threads ? start() : undefined)
      const first = thread && waiting.shift()
      if (thread === undefined || first === undefined) return
      void ask(thread, first)
    }
  }

  const call = async (session: Session, task: Question['task']): Promise<Answer> => {
    if (isClosed) throw closing()
    const answer = Promise.withResolvers<Answer>()
    waiting.push({ session, task, answer })
    next()
    const given = await answer.promise
    if (isClosed) throw closing()
    return given
  }

  /** Here, with the codec threads: only what has text in compressed pixels. */
  const runHere = async (session: Session, task: DeidentifyTask): Promise<FileDone | Held> => {
    const table = session.pseudonyms && new Map(session.pseudonyms)
    const lookup = table && (({ issuer, id }: Subject) => table.get(JSON.stringify([issuer, id])))
    const engine = new Deidentifier(session.profile, session.key, lookup)
    const outcome = await deidentifyFile(engine, task, session.identifiers, codec)
    if (outcome.kind === 'failed') throw outcome.error
    return outcome
  }

  return {
    threads,
    async inspect(session, sourcePath) {
      const answer = await call(session, { kind: 'inspect', sourcePath })
      return answer.kind === 'inspected' ? answer.found : undefined
    },
    async run(session, task) {
      const answer = await call(session, { kind: 'run', ...task })
      if (answer.kind === 'failed') throw new GatewayError(answer.code, answer.message)
      if (answer.kind !== 'run') return broken
      const { outcome } = answer
      const isForCodec = outcome.kind === 'held' && outcome.code === 'pixels-compressed' && codec !== undefined
      return isForCodec ? await runHere(session, task) : outcome
    },
    async close() {
      isClosed = true
      for (const { answer } of waiting.splice(0)) answer.resolve({ kind: 'broken' })
      await Promise.all([...all].map(({ worker }) => worker.terminate()))
    },
  }
}

const broken: Held = {
  kind: 'held',
  code: 'internal',
  reason: 'the engine failed, or did not answer in time',
  evidence: [],
  isAlert: true,
}

function closing(): GatewayError {
  return new GatewayError('UNAVAILABLE', 'the gateway is stopping')
}
