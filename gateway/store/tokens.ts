/** Named bearer tokens of the HTTP API. A token is shown once, at its creation; the database keeps its SHA-256. */
import { createHash, randomBytes } from 'node:crypto'
import { sql } from 'kysely'
import { eventTypes, requestorOf, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'

export interface TokenInfo {
  readonly name: string
  readonly role: string
  readonly expiresAt: Date | null
  readonly createdAt: Date
  readonly createdBy: string
  readonly revokedAt: Date | null
}

/** Who holds a token, and what it is good for. */
export interface TokenHolder {
  readonly name: string
  /** Name of a role in `policy/roles.csv`. */
  readonly role: string
  readonly domain?: string
}

/** A token to be created. */
export interface NewToken extends TokenHolder {
  /** It is not accepted from then on; absent: until it is revoked. */
  readonly expiresAt?: Date
}

/** SHA-256 of a token's text: what is stored and compared. */
export function tokenDigest(token: string): Buffer {
  return createHash('sha256').update(token, 'utf8').digest()
}

/** A new token's text: 32 random bytes, recognisable in a scan for leaked secrets. */
export function newToken(): string {
  return `hanse_${randomBytes(32).toString('base64url')}`
}

/**
 * Creates a token and returns its text, which is not kept.
 *
 * @throws GatewayError STATE_CONFLICT when a token of this name is in use
 */
export async function createToken(db: Db, principal: Principal, fresh: NewToken): Promise<string> {
  const { name, role, domain = null, expiresAt = null } = fresh
  const token = newToken()
  await db.inTransaction(async tx => {
    const { rows } = await sql`
      insert into access_tokens (name, sha256, role, domain, expires_at, created_by)
      values (${name}, ${tokenDigest(token)}, ${role}, ${domain}, ${expiresAt}, ${principal.id})
      on conflict do nothing returning id
    `.execute(tx)
    if (rows.length === 0) throw new GatewayError('STATE_CONFLICT', `there is a token named "${name}" already`)
    await appendAudit(tx, changed(principal, name, 'token created', { role, ...(domain !== null && { domain }) }))
  })
  return token
}

/** Whose valid token has this digest. */
export async function findToken(db: Db, sha256: Buffer): Promise<TokenHolder | undefined> {
  const row = await db.kysely
    .selectFrom('access_tokens')
    .select(['name', 'role', 'domain'])
    .where('sha256', '=', sha256)
    .where('revoked_at', 'is', null)
    .where(eb => eb.or([eb('expires_at', 'is', null), eb('expires_at', '>', sql<Date>`now()`)]))
    .executeTakeFirst()
  return row && { name: row.name, role: row.role, ...(row.domain !== null && { domain: row.domain }) }
}

/** All tokens, revoked ones too, oldest first. */
export async function listTokens(db: Db): Promise<TokenInfo[]> {
  const rows = await db.kysely
    .selectFrom('access_tokens')
    .select(['name', 'role', 'expires_at as expiresAt'])
    .select(['created_at as createdAt', 'created_by as createdBy', 'revoked_at as revokedAt'])
    .orderBy('id')
    .execute()
  return rows
}

/** @throws GatewayError NOT_FOUND when no valid token has this name */
export async function revokeToken(db: Db, principal: Principal, name: string): Promise<void> {
  await db.inTransaction(async tx => {
    const { numUpdatedRows } = await tx
      .updateTable('access_tokens')
      .set({ revoked_at: new Date() })
      .where('name', '=', name)
      .where('revoked_at', 'is', null)
      .executeTakeFirst()
    if (numUpdatedRows === 0n) throw new GatewayError('NOT_FOUND', `no valid token is named "${name}"`)
    await appendAudit(tx, changed(principal, name, 'token revoked'))
  })
}

const changed = (principal: Principal, name: string, reason: string, detail: Record<string, string> = {}) =>
  securityAlert({
    type: eventTypes.securityConfiguration,
    reason,
    participants: [requestorOf(principal)],
    objects: [{ kind: 'setting', name: `token:${name}` }],
    detail,
  })
