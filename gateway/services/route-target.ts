/** Who stands behind a destination of the policy: a paired site, a modality inside the hospital, an endpoint of a third party. */
import { isSiteId } from '../../policy/decide.ts'
import type { Tx } from '../db/db.ts'
import type { ErrorCode } from '../errors.ts'

/** A registered modality, by its name or AE title; undefined when there is none. */
export type FindArchive = (
  nameOrAeTitle: string,
) => { readonly name: string; readonly aeTitle: string; readonly zone: 'inside' | 'outside' } | undefined

/** Where a transfer goes. */
export interface RouteTarget {
  readonly kind: 'peer' | 'modality' | 'endpoint'
  /** Row of the peer. */
  readonly peerId?: string
  /** Symbolic name of the modality. */
  readonly modality?: string
  /** Name of the endpoint. */
  readonly endpoint?: string
  /** AE title of the modality: what it sent us itself does not go back. */
  readonly aeTitle?: string
  readonly zone: 'inside' | 'outside'
  /** For the audit log, and for consents: a site's id, an AE title. */
  readonly userId: string
  /** Why nothing can go there now. */
  readonly problem?: { readonly code: ErrorCode; readonly message: string }
}

/**
 * Finds out who is meant.
 *
 * @param by  what goes out of the hospital to a modality, goes because a person has decided so, never by rule
 */
export async function resolveTarget(
  tx: Tx,
  findArchive: FindArchive,
  to: {
    readonly peer: string | undefined
    readonly modality: string | undefined
    readonly endpoint?: string | undefined
    readonly zone?: 'inside' | 'outside' | undefined
  },
  by: 'rule' | 'person',
): Promise<RouteTarget> {
  const { zone = 'outside' } = to
  if (to.endpoint !== undefined) return await resolveEndpoint(tx, to.endpoint)
  if (to.modality !== undefined) return resolveModality(findArchive, to.modality, by)
  const name = to.peer ?? ''
  const peer = await tx
    .selectFrom('peers')
    .select(['id', 'site_id'])
    .where('state', '=', 'active')
    .where(isSiteId(name) ? 'site_id' : 'name', '=', name)
    .executeTakeFirst()
  if (peer) return { kind: 'peer', zone, peerId: peer.id, userId: peer.site_id }
  const message = `no active peer is called ${name}: pair with it, then retry`
  return { kind: 'peer', zone, userId: name, problem: { code: 'PEER_UNKNOWN', message } }
}

/** An endpoint is always outside; one that is stopped takes transfers, which wait. */
async function resolveEndpoint(tx: Tx, name: string): Promise<RouteTarget> {
  const target = { kind: 'endpoint', zone: 'outside', endpoint: name, userId: name } as const
  const known = await tx.selectFrom('endpoints').select('name').where('name', '=', name).executeTakeFirst()
  if (known) return target
  const message = `no endpoint is called ${name}: add it, then retry`
  return { ...target, problem: { code: 'NOT_FOUND', message } }
}

function resolveModality(findArchive: FindArchive, name: string, by: 'rule' | 'person'): RouteTarget {
  const found = findArchive(name)
  if (!found) {
    const message = `no modality is called ${name}: register it, then retry`
    return {
      kind: 'modality',
      zone: 'outside',
      modality: name,
      userId: name,
      problem: { code: 'MODALITY_UNKNOWN', message },
    }
  }
  const { zone } = found
  const target = { kind: 'modality', zone, modality: found.name, aeTitle: found.aeTitle.trim() } as const
  if (zone === 'inside' || by === 'person') return { ...target, userId: target.aeTitle }
  const message = `${name} is outside of the hospital: nothing goes there by rule`
  return { ...target, userId: target.aeTitle, problem: { code: 'FORBIDDEN', message } }
}
