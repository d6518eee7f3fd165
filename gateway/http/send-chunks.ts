/** Streams bytes that are made while they are sent: once they have begun, an error breaks the connection. */

import type { FastifyReply } from 'fastify'
import { goneSignal } from './gone.ts'
import { begun, write } from './send-file.ts'

/** Smaller chunks are sent together with those that follow. */
const smallBytes = 16_384
const gatherBytes = 65_536

/**
 * Sends what `make` gives, whose chunks are valid until the next one is asked for. An error before the first chunk is
 * answered like any other; one after it destroys the connection, so that nobody takes a part for the whole.
 *
 * @param make  its signal aborts when the client goes away
 */
export async function sendChunks(
  reply: FastifyReply,
  headers: { readonly type: string; readonly filename?: string },
  make: (signal: AbortSignal) => AsyncGenerator<Uint8Array>,
): Promise<FastifyReply> {
  const gone = goneSignal(reply)
  const chunks = make(gone)
  const first = await chunks.next()
  const { type, filename } = headers
  reply.type(type)
  if (filename !== undefined) reply.header('content-disposition', `attachment; filename="${filename}"`)
  if (first.done) return reply.send()
  const response = begun(reply)
  try {
    const small: Buffer[] = []
    let gathered = 0
    for (let next: IteratorResult<Uint8Array, unknown> = first; !next.done; next = await chunks.next()) {
      const chunk = next.value
      if (chunk.length < smallBytes) {
        small.push(Buffer.from(chunk))
        gathered += chunk.length
        if (gathered < gatherBytes) continue
      }
      response.cork()
      for (const part of small.splice(0)) response.write(part)
      gathered = 0
      const written = chunk.length < smallBytes ? write(response, new Uint8Array(0)) : write(response, chunk)
      response.uncork()
      if (!(await written)) return reply
    }
    response.end(Buffer.concat(small))
  } catch (error) {
    response.destroy()
    if (!gone.aborted) throw error
  } finally {
    await chunks.return(undefined)
  }
  return reply
}
