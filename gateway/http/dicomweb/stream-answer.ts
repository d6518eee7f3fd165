/** Bodies that are written chunk by chunk, as fast as the client takes them. */
import type { FastifyReply } from 'fastify'
import { begun, write } from '../send-file.ts'

/**
 * Sends chunks with the status and headers of the reply. Errors before the first chunk are thrown, so that they become
 * a problem document; later ones end the connection, so that the client sees a body that is cut.
 *
 * @param chunks  a chunk may use memory that the next but one will use again; after an empty one nothing before it is
 *   used any more; closed when the client goes away
 */
export async function streamAnswer(reply: FastifyReply, chunks: AsyncIterable<Uint8Array>): Promise<FastifyReply> {
  const iterator = chunks[Symbol.asyncIterator]()
  let next = await iterator.next()
  const response = begun(reply)
  try {
    let writing: Promise<boolean> = Promise.resolve(true)
    while (!next.done) {
      const { value } = next
      const following = value.length === 0 ? writing : write(response, value)
      if (!(await writing)) return reply
      writing = following
      next = await iterator.next()
    }
    if (await writing) response.end()
  } catch (error) {
    response.destroy()
    throw error
  } finally {
    await iterator.return?.()
  }
  return reply
}
