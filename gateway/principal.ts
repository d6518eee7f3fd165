/** Who asks. Every service call that reads or changes something for somebody gets one. */

/** What decides for a principal; `policy/authorize` is the one that asks it. */
export interface Rights {
  /** May the principal do this in this domain (`''`: the site as a whole)? */
  may(principal: Pick<Principal, 'roles' | 'domain'>, action: string, domain: string): boolean
  /** Roles that have the action, for whoever is refused. */
  rolesFor(action: string): readonly string[]
  /** Takes note of a refusal. */
  refused(principal: Pick<Principal, 'id' | 'address'>, action: string): void
}

export interface Principal {
  /** `local` (this machine's administrator), `token:<name>`, an AE title, or `system`. Stands in the audit log. */
  readonly id: string
  /** Address of the caller, where there is one. */
  readonly address?: string
  /** Names of roles in `policy/roles.csv`. */
  readonly roles: readonly string[]
  /** The only domain (department, trial) in which it may do anything; absent: all of the site. */
  readonly domain?: string
  readonly rights: Rights
}

const unlimited: Rights = { may: () => true, rolesFor: () => [], refused: () => undefined }

/** The gateway acting by itself: schedules, clean-up, demo. */
export const systemPrincipal: Principal = { id: 'system', roles: [], rights: unlimited }

/**
 * The gateway carrying on later what somebody was authorized to ask for: a job's run, a resumed transfer.
 * Never for a request that has just come.
 */
export const onBehalfOf = (id: string): Principal => ({ ...systemPrincipal, id })
