/** Orthanc's entity tags: revision and MD5, `"3-d41d8cd98f00b204e9800998ecf8427e"`. */
import type { FastifyRequest } from 'fastify'
import { GatewayError } from '../../errors.ts'
import type { SeenRevision } from '../../services/resource-metadata.ts'

/** The tag of a revision. */
export function entityTag({ revision, md5 }: SeenRevision): string {
  return `"${revision}-${md5}"`
}

/**
 * True where the client has what it asks for (RFC 9110 §13.1.2): it is answered 304.
 *
 * @throws GatewayError BAD_REQUEST for a tag that none of ours can be
 */
export function isKnown(request: FastifyRequest, { revision, md5 }: SeenRevision): boolean {
  const text = request.headers['if-none-match']
  if (text === undefined) return false
  return text.split(',').some(each => {
    if (each.trim() === '*') return true
    const seen = readTag(each, 'If-None-Match')
    return seen.revision === revision && seen.md5 === md5
  })
}

/** What an If-Match header says that the client has seen. @throws GatewayError BAD_REQUEST */
export function seenRevision(request: FastifyRequest): SeenRevision | undefined {
  const text = request.headers['if-match']
  return text === undefined ? undefined : readTag(text, 'If-Match')
}

/** What stands behind the revision is compared only: whatever is no MD5 is another one. */
function readTag(text: string, header: string): SeenRevision {
  const parts = /^"?(\d{1,15})-([^"]{0,64})"?$/.exec(text.trim())
  if (!parts) throw new GatewayError('BAD_REQUEST', `expected ${header} with an entity tag: revision, hyphen, MD5`)
  return { revision: Number(parts[1]), md5: (parts[2] ?? '').toLowerCase() }
}
