/** Lists of resources as JSON arrays, written page by page: a list of a million ids never stands in memory. */
import { Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'
import type { Db } from '../../db/db.ts'
import type { Level } from '../../store/query.ts'
import { loadDetails, type Shape } from './details.ts'

const detailPage = 100

/** Sends ids, or what `load` gives for them. */
export async function sendPages(
  reply: FastifyReply,
  pages: AsyncGenerator<readonly string[], void, void>,
  load?: (ids: readonly string[]) => Promise<readonly object[]>,
): Promise<FastifyReply> {
  // What is wrong shows before the first byte has left.
  const first = await pages.next()
  async function* text(): AsyncGenerator<string> {
    let separator = '['
    for (let page = first; !page.done; page = await pages.next()) {
      for (let at = 0; at < page.value.length; at += detailPage) {
        const ids = page.value.slice(at, at + detailPage)
        const items = load ? await load(ids) : ids
        if (items.length === 0) continue
        yield separator + items.map(item => JSON.stringify(item)).join(',')
        separator = ','
      }
    }
    yield separator === '[' ? '[]' : ']'
  }
  return reply.type('application/json; charset=utf-8').send(Readable.from(text()))
}

/** Sends ids, or their details where a shape is given. */
export async function sendList(
  reply: FastifyReply,
  pages: AsyncGenerator<readonly string[], void, void>,
  expand?: { readonly db: Db; readonly level: Level; readonly shape: Shape } | undefined,
): Promise<FastifyReply> {
  const load = expand && ((ids: readonly string[]) => loadDetails(expand.db, expand.level, ids, expand.shape))
  return await sendPages(reply, pages, load)
}
