/**
 * Who may do what: roles and actions by casbin, from `model.conf` and `roles.csv`. A decision of casbin costs some
 * 200 µs, so each is asked for once: the rules do not change while a gateway runs.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { newEnforcer, newModelFromString, StringAdapter } from 'casbin'
import { GatewayError } from '../gateway/errors.ts'
import type { Principal, Rights } from '../gateway/principal.ts'
import type { Action } from './actions.ts'

/** Decisions kept; beyond this they are asked for again (domains come from the database, so they are not bounded). */
const maxDecisions = 10_000

/** Who was refused what. */
export interface Refusal {
  readonly userId: string
  readonly address: string
  readonly action: string
}

export interface AuthorizerOptions {
  /** Lines of casbin's CSV; those of `roles.csv` when absent. */
  readonly rules?: string
  /** Called for each refusal. */
  readonly onRefused?: (refusal: Refusal) => void
}

/** Decides by casbin. */
export interface Authorizer extends Rights {
  may(principal: Pick<Principal, 'roles' | 'domain'>, action: Action, domain: string): boolean
  rolesFor(action: Action): readonly string[]
}

/** Loads the model and the rules. */
export async function openAuthorizer({ rules, onRefused }: AuthorizerOptions = {}): Promise<Authorizer> {
  const load = (name: string): Promise<string> => readFile(join(import.meta.dirname, name), 'utf8')
  const model = newModelFromString(await load('model.conf'))
  const lines = (rules ?? (await load('roles.csv'))).split('\n').filter(line => !/^\s*(#|$)/.test(line))
  const enforcer = await newEnforcer(model, new StringAdapter(lines.join('\n')))
  const grants = await enforcer.getPolicy()
  const known = [...new Set(grants.flatMap(([role = '']) => role))]
  const decisions = new Map<string, boolean>()

  const decide = (role: string, scope: string, domain: string, action: string): boolean => {
    const key = JSON.stringify([role, scope, domain, action])
    const decided = decisions.get(key)
    if (decided !== undefined) return decided
    const decision = enforcer.enforceSync(role, scope, domain, action)
    if (decisions.size >= maxDecisions) decisions.clear()
    decisions.set(key, decision)
    return decision
  }
  return {
    may: ({ roles, domain: scope = '*' }, action, domain) => roles.some(role => decide(role, scope, domain, action)),
    rolesFor: action => known.filter(role => decide(role, '*', '', action)),
    refused: ({ id: userId, address = '' }, action) => onRefused?.({ userId, address, action }),
  }
}

/**
 * Lets pass who may do this; to be called at the head of every service call.
 *
 * @param domain  of what is asked for; the site as a whole when absent
 * @throws GatewayError FORBIDDEN, which names the action and the roles that have it
 */
export function authorize(principal: Principal, action: Action, domain = ''): void {
  const { rights, roles } = principal
  if (rights.may(principal, action, domain)) return
  rights.refused(principal, action)
  const limited = rights.may({ roles }, action, domain)
  throw new GatewayError(
    'FORBIDDEN',
    limited
      ? `${action} is permitted to this caller in its own domain only`
      : `${action} needs one of the roles ${rights.rolesFor(action).join(', ')}`,
    { context: { action } },
  )
}
