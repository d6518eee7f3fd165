/** Principals for tests that call services: what authentication makes of a caller in a running gateway. */
import type { Principal, Rights } from '../../gateway/principal.ts'
import { openAuthorizer } from '../../policy/authorize.ts'

/** The rights of `policy/roles.csv`. */
export const rights: Rights = await openAuthorizer()

/** A caller with these roles; one who may do everything where none are named. */
export function caller(id: string, options: Partial<Pick<Principal, 'roles' | 'domain' | 'address'>> = {}): Principal {
  return { roles: ['administrator'], ...options, id, rights }
}
