/** Access tokens: who may call the HTTP API as what. */
import { authorize } from '../../policy/authorize.ts'
import type { Db } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import { createToken, listTokens, type NewToken, revokeToken, type TokenInfo } from '../store/tokens.ts'

export interface Tokens {
  /** All tokens, revoked and expired ones too, oldest first. */
  list(principal: Principal): Promise<readonly TokenInfo[]>
  /**
   * Creates a token and returns its text, which is not kept.
   *
   * @throws GatewayError STATE_CONFLICT when a token of this name is in use, BAD_REQUEST when it would be expired
   */
  create(principal: Principal, fresh: NewToken): Promise<string>
  /** @throws GatewayError NOT_FOUND when no valid token has this name */
  revoke(principal: Principal, name: string): Promise<void>
}

/** Opens the tokens of this database. */
export function openTokens(options: { readonly db: Db }): Tokens {
  const { db } = options
  return {
    async list(principal) {
      authorize(principal, 'token.manage')
      return await listTokens(db)
    },

    async create(principal, fresh) {
      authorize(principal, 'token.manage')
      if (fresh.expiresAt !== undefined && fresh.expiresAt.getTime() <= Date.now()) {
        throw new GatewayError('BAD_REQUEST', 'the token would have expired already')
      }
      return await createToken(db, principal, fresh)
    },

    async revoke(principal, name) {
      authorize(principal, 'token.manage')
      await revokeToken(db, principal, name)
    },
  }
}
