/** Whether the agreement that a transfer was planned under still stands: it may have ended, or been taken back, since. */
import type { Kysely } from 'kysely'
import { type Obstacle, obstacleOf } from '../../policy/agreements.ts'
import { loadActivePolicy, type PolicyVersion } from '../../policy/versions.ts'
import type { Tx } from '../db/db.ts'
import type { Schema } from '../db/schema.ts'

/** Why the agreement of a transfer does not cover it any more; undefined when it does, or when it needs none. */
export type AgreementCheck = (db: Kysely<Schema> | Tx, transfer: string, at?: Date) => Promise<Obstacle | undefined>

/**
 * The check goes by the agreement as it stands in the active policy, today: parties, purpose, period, direction, and
 * whether it is for de-identified data only. What it covers of the study's content was decided when it was planned. It
 * remembers the active version, since it is asked before each range.
 */
export function createAgreementCheck(): AgreementCheck {
  let known: PolicyVersion | undefined
  return async (db, id, at = new Date()) => {
    const row = await db
      .selectFrom('transfers')
      .leftJoin('peers', 'peers.id', 'transfers.peer')
      .select(['transfers.agreement', 'destination', 'modality', 'purpose', 'profile', 'peers.site_id as site'])
      .select(query => query.selectFrom('policy_active').select('version').as('active'))
      .where('transfers.id', '=', id)
      .executeTakeFirst()
    if (!row || row.agreement === null) return undefined
    if (known === undefined || known.version !== row.active) known = await loadActivePolicy(db)
    const { agreement: name, destination, modality, site, purpose, profile } = row
    if (known === undefined) return { code: 'AGREEMENT_MISSING', message: 'no policy is active' }
    const { document } = known
    // The recipient may have several names in the policy, or another one than when it was planned.
    const parties = Object.entries(document.destinations)
      .filter(([party, to]) => party === destination || isSame(to.peer, site) || isSame(to.modality, modality))
      .map(([party]) => party)
    const gaps = (parties.length === 0 ? [undefined] : parties).map(party =>
      obstacleOf(document, name, { direction: 'outgoing', party, purpose, profile, facts: {}, at }),
    )
    return gaps.includes(undefined) ? undefined : gaps[0]
  }
}

const isSame = (a: string | undefined, b: string | null): boolean => a !== undefined && a === b
