/**
 * Answers that may take minutes. Nothing on the way (proxies, clients, our own idle timeout) may take
 * the silence for a dead connection: after a while the answer begins with spaces, which JSON allows
 * before a value. An error that comes after that is a problem document in place of the value.
 */

import { PassThrough } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Log } from '../log.ts'
import { goneSignal } from './gone.ts'
import { toProblem } from './problem.ts'

const patienceMs = 10_000

/**
 * Runs `work` and sends its result as JSON.
 *
 * @param work  its signal aborts when the client goes away
 */
export async function sendSlowly(
  request: FastifyRequest,
  reply: FastifyReply,
  log: Log,
  work: (signal: AbortSignal) => Promise<unknown>,
): Promise<FastifyReply> {
  const result = work(goneSignal(reply))
  const timer = new AbortController()
  const isQuick = await Promise.race([
    result.then(() => true),
    delay(patienceMs, false, { signal: timer.signal }).catch(() => true),
  ]).finally(() => timer.abort())
  reply.type('application/json; charset=utf-8')
  if (isQuick) return reply.send(JSON.stringify(await result))

  const body = new PassThrough()
  const beat = setInterval(() => body.write(' '), patienceMs)
  body.write(' ')
  result
    .then(
      value => JSON.stringify(value),
      (error: unknown) => {
        const { problem } = toProblem(error, request.id)
        log.error({ requestId: request.id, code: problem.code, status: problem.status }, 'slow request failed')
        return JSON.stringify(problem)
      },
    )
    .then(text => body.end(text))
    .finally(() => clearInterval(beat))
    .catch(() => body.destroy())
  return reply.send(body)
}
