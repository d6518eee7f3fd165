/** Orthanc's entity tags: revision and MD5, `"3-d41d8cd98f00b204e9800998ecf8427e"`. */
import type { FastifyRequest } from 'fastify'
import { GatewayError } from '../../errors.ts'
import type { SeenRevision } from '../../services/resource-metadata.ts'

/** The tag of a revision. */
export function entityTag({ revision, md5 }: SeenRevision): string {
  return `"${revision}-${md5}"`
}

/** True where the client has what it asks for (RFC 9110 §13.1.2): it is answered 304. */
export function isKnown(request: FastifyRequest, tag: string): boolean {
  return (request.headers['if-none-match'] ?? '').split(',').some(each => each.trim() === tag || each.trim() === '*')
}

/** What an If-Match header says that the client has seen. @throws GatewayError BAD_REQUEST */
export function seenRevision(request: FastifyRequest): SeenRevision | undefined {
  const text = request.headers['if-match']
  if (text === undefined) return undefined
  const parts = /^"?(\d{1,15})-([0-9a-fA-F]{32})"?$/.exec(text.trim())
  if (!parts) throw new GatewayError('BAD_REQUEST', 'expected If-Match with an entity tag: revision, hyphen, MD5')
  return { revision: Number(parts[1]), md5: (parts[2] ?? '').toLowerCase() }
}
