/**
 * Policy versions: immutable once stored, one of them active. Publishing stores the version, moves
 * the pointer and audits in one transaction; a crash leaves the old or the new policy, never none.
 */
import { createHash } from 'node:crypto'
import { sql } from 'kysely'
import { eventTypes, securityAlert } from '../gateway/audit/event.ts'
import { appendAudit } from '../gateway/audit/log.ts'
import type { Db, Tx } from '../gateway/db/db.ts'
import { GatewayError } from '../gateway/errors.ts'
import type { Profile } from './deid/profile.ts'
import { asIs, canonicalJson, decodePolicy, type PolicyDocument, profileOfDocument } from './document.ts'

/** A stored version. */
export interface PolicyVersion {
  readonly version: number
  readonly document: PolicyDocument
  /** SHA-256 of the document's canonical JSON, hex. */
  readonly sha256: string
  readonly author: string
  readonly createdAt: Date
}

/** What a new site starts with: nothing goes anywhere. */
export const emptyPolicy: PolicyDocument = {
  format: 'hanse-policy-2',
  title: 'Nothing leaves, and nothing of others comes in',
  destinations: {},
  agreements: {},
  profiles: [],
  rules: [],
  incoming: [],
}

/** Publishes the first policy of a new site, so that every decision names a version. */
export async function ensurePolicy(db: Db): Promise<void> {
  if (!(await loadActivePolicy(db.kysely))) await publishPolicy(db, emptyPolicy, 'gateway')
}

/** 'HNS' and the policy's number among the gateway's advisory locks: publishers queue up. */
const lock = sql`select pg_advisory_xact_lock(1212896051, 3)`

/**
 * Stores a document as the next version and makes it the active one. Publishing the active document
 * again changes nothing; publishing an older one again is a rollback and gets a new number.
 *
 * @throws GatewayError POLICY_INVALID with every problem
 */
export async function publishPolicy(db: Db, raw: unknown, author: string): Promise<PolicyVersion> {
  const document = decodePolicy(raw)
  const canonical = canonicalJson(document)
  const sha256 = createHash('sha256').update(canonical).digest()
  return await db.inTransaction(async tx => {
    await lock.execute(tx)
    const active = await loadActivePolicy(tx)
    if (active?.sha256 === sha256.toString('hex')) return active
    const newest = await tx
      .selectFrom('policy_versions')
      .select('version')
      .orderBy('version', 'desc')
      .limit(1)
      .executeTakeFirst()
    const version = (newest?.version ?? 0) + 1
    await tx.insertInto('policy_versions').values({ version, document: canonical, sha256, author }).execute()
    await tx
      .insertInto('policy_active')
      .values({ version, published_by: author })
      .onConflict(conflict =>
        conflict.column('singleton').doUpdateSet({ version, published_by: author, published_at: sql`now()` }),
      )
      .execute()
    await appendAudit(
      tx,
      securityAlert({
        type: eventTypes.securityConfiguration,
        participants: [{ userId: author, requestor: true }],
        objects: [{ kind: 'policy', version, sha256: sha256.toString('hex') }],
        reason: 'policy-published',
      }),
    )
    await sql`select pg_notify('hanse_policy', ${String(version)})`.execute(tx)
    return { version, document, sha256: sha256.toString('hex'), author, createdAt: new Date() }
  })
}

/** The active version, or undefined before the first one. */
export async function loadActivePolicy(db: Db['kysely'] | Tx): Promise<PolicyVersion | undefined> {
  const row = await db
    .selectFrom('policy_active')
    .innerJoin('policy_versions', 'policy_versions.version', 'policy_active.version')
    .select(columns)
    .executeTakeFirst()
  return row && toVersion(row)
}

/** One version; undefined when there is none of that number. */
export async function loadPolicy(db: Db['kysely'] | Tx, version: number): Promise<PolicyVersion | undefined> {
  const row = await db.selectFrom('policy_versions').select(columns).where('version', '=', version).executeTakeFirst()
  return row && toVersion(row)
}

/**
 * The de-identification profile that a version means by a name; undefined for `as-is`.
 *
 * @throws GatewayError POLICY_INVALID when the version is gone or does not know the name: nothing may leave under it
 */
export async function profileOf(db: Db['kysely'] | Tx, version: number, name: string): Promise<Profile | undefined> {
  const policy = await loadPolicy(db, version)
  const profile = policy && profileOfDocument(policy.document, name)
  if (profile === undefined && (policy === undefined || name !== asIs))
    throw new GatewayError('POLICY_INVALID', `policy version ${version} has no profile ${name}`)
  return profile
}

/** Versions, newest first. */
export async function listPolicies(
  db: Db['kysely'],
  page: { limit: number; before?: number },
): Promise<PolicyVersion[]> {
  const rows = await db
    .selectFrom('policy_versions')
    .select(columns)
    .$if(page.before !== undefined, query => query.where('version', '<', page.before ?? 0))
    .orderBy('version', 'desc')
    .limit(page.limit)
    .execute()
  return rows.map(toVersion)
}

const columns = [
  'policy_versions.version',
  'policy_versions.document',
  'policy_versions.sha256',
  'policy_versions.author',
  'policy_versions.created_at',
] as const

function toVersion(row: {
  version: number
  document: unknown
  sha256: Buffer
  author: string
  created_at: Date
}): PolicyVersion {
  const sha256 = row.sha256.toString('hex')
  const document = decodePolicy(row.document)
  const found = createHash('sha256').update(canonicalJson(row.document)).digest('hex')
  if (found !== sha256) {
    throw new GatewayError('POLICY_INVALID', 'the stored policy is not the one that was published', {
      context: { version: row.version },
    })
  }
  return { version: row.version, document, sha256, author: row.author, createdAt: row.created_at }
}
