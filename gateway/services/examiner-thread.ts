/** The examiner's thread: answers each question about shared memory, one after the other. */
import { parentPort } from 'node:worker_threads'
import { errorLine } from '../errors.ts'
import { examinePieces } from './examine.ts'
import type { Answer, Question } from './examiner.ts'

const port = parentPort
port?.on('message', ({ id, memory, offset, length, pieces }: Question) => {
  const answer = (answer: Answer): void => port.postMessage(answer)
  examinePieces(new Uint8Array(memory, offset, length), pieces).then(
    examined => answer({ id, examined }),
    (error: unknown) => answer({ id, error: errorLine(error) }),
  )
})
