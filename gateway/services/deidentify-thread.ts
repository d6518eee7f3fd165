/** A thread of the de-identification: does one task after the other. Engines are kept while their session goes on. */
import { parentPort } from 'node:worker_threads'
import { Deidentifier } from '../../policy/deid/engine.ts'
import type { Answer, Question, Session } from './deidentify.ts'
import { deidentifyFile, openInput, Scratch } from './deidentify-file.ts'

const port = parentPort
const scratch = new Scratch()
let current: { readonly engine: Deidentifier; readonly identifiers: Session['identifiers'] } | undefined

port?.on('message', (question: Question) => {
  answer(question).then(
    answer => port.postMessage(answer),
    // Nothing of the error is told: it may quote a value.
    () => port.postMessage({ kind: 'broken' } satisfies Answer),
  )
})

async function answer({ session, task }: Question): Promise<Answer> {
  if (session !== undefined) {
    current = undefined
    current = { engine: makeEngine(session), identifiers: session.identifiers }
  }
  if (current === undefined) return { kind: 'broken' }
  const { engine, identifiers } = current
  if (task.kind === 'run') {
    const outcome = await deidentifyFile(engine, task, identifiers, undefined, scratch)
    if (outcome.kind !== 'failed') return { kind: 'run', outcome }
    const { code, message } = outcome.error
    return { kind: 'failed', code, message }
  }
  using file = openInput(task.sourcePath)
  return { kind: 'inspected', found: file && (await engine.identifiersOf(file.source)) }
}

function makeEngine({ profile, key, pseudonyms }: Session): Deidentifier {
  const table = pseudonyms && new Map(pseudonyms)
  return new Deidentifier(profile, key, table && (({ issuer, id }) => table.get(JSON.stringify([issuer, id]))))
}
