/** A thread of the de-identification: does one task after the other. Engines are kept while their session goes on. */
import { parentPort } from 'node:worker_threads'
import { Deidentifier } from '../../policy/deid/engine.ts'
import type { Answer, Question, Session } from './deidentify.ts'
import { deidentifyFile, openInput } from './deidentify-file.ts'

const port = parentPort
let current: { readonly session: string; readonly engine: Deidentifier } | undefined

port?.on('message', (question: Question) => {
  answer(question).then(
    answer => port.postMessage(answer),
    // Nothing of the error is told: it may quote a value.
    () => port.postMessage({ kind: 'broken' } satisfies Answer),
  )
})

async function answer({ session, task }: Question): Promise<Answer> {
  const engine = engineOf(session)
  if (task.kind === 'run') {
    const outcome = await deidentifyFile(engine, task, session.identifiers)
    if (outcome.kind !== 'failed') return { kind: 'run', outcome }
    const { code, message } = outcome.error
    return { kind: 'failed', code, message }
  }
  using file = openInput(task.sourcePath)
  return { kind: 'inspected', found: file && (await engine.identifiersOf(file.source)) }
}

function engineOf(session: Session): Deidentifier {
  if (current?.session !== session.id) current = { session: session.id, engine: makeEngine(session) }
  return current.engine
}

function makeEngine({ profile, key, pseudonyms }: Session): Deidentifier {
  const table = pseudonyms && new Map(pseudonyms)
  return new Deidentifier(profile, key, table && (({ issuer, id }) => table.get(JSON.stringify([issuer, id]))))
}
