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
import { encodePayload, type SignatureContext, type Signer } from '../peers/envelope.ts'
import type { Profile } from './deid/profile.ts'
import { asIs, canonicalJson, decodePolicy, type PolicyDocument, profileOfDocument } from './document.ts'

/** A stored version. */
export interface PolicyVersion {
  readonly version: number
  readonly document: PolicyDocument
  /** SHA-256 of the document's canonical JSON, hex. */
  readonly sha256: string
  /** Who wrote it; several are separated by commas. */
  readonly author: string
  /** Who made it the active one; undefined where the version is older than the record of it. */
  readonly publisher: string | undefined
  /** Two persons were asked for when it was published. */
  readonly twoPersons: boolean
  /** The version whose document this one brought back. */
  readonly rollbackOf: number | undefined
  /** The site's Ed25519 signature, 64 bytes, over `policyStatement`; undefined where there is none. */
  readonly signature: Buffer | undefined
  readonly createdAt: Date
}

/** How a version is published. */
export interface Publication {
  /** Principal that publishes; when absent, the author: the caller answers for it. */
  readonly publisher?: string
  readonly twoPersons?: boolean
  readonly rollbackOf?: number
  readonly signer?: Pick<Signer, 'sign'>
  /** What happens in the same transaction. */
  readonly within?: (tx: Tx, version: number) => Promise<void>
}

/** What a policy signature is for. */
export const policyContext: SignatureContext = 'application/vnd.hanse.policy.v1+json'

/** The bytes that a site signs for a version: number, digest and persons. */
export function policyStatement(
  policy: Pick<PolicyVersion, 'version' | 'sha256' | 'author' | 'publisher' | 'twoPersons' | 'rollbackOf'>,
): Uint8Array {
  const { version, sha256, author, publisher, twoPersons, rollbackOf } = policy
  return encodePayload({ version, sha256, author, publisher, twoPersons, rollbackOf })
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
export async function ensurePolicy(db: Db, signer?: Pick<Signer, 'sign'>): Promise<void> {
  if (!(await loadActivePolicy(db.kysely)))
    await publishPolicy(db, emptyPolicy, 'gateway', { ...(signer && { signer }) })
}

/** 'HNS' and the policy's number among the gateway's advisory locks: publishers queue up. */
const lock = sql`select pg_advisory_xact_lock(1212896051, 3)`

/**
 * Stores a document as the next version and makes it the active one. Publishing the active document
 * again changes nothing; publishing an older one again is a rollback and gets a new number.
 *
 * @throws GatewayError POLICY_INVALID with every problem
 */
export async function publishPolicy(
  db: Db,
  raw: unknown,
  author: string,
  publication: Publication = {},
): Promise<PolicyVersion> {
  const document = decodePolicy(raw)
  const canonical = canonicalJson(document)
  const digest = createHash('sha256').update(canonical).digest()
  const sha256 = digest.toString('hex')
  const { publisher = author, twoPersons = false, rollbackOf, signer, within } = publication
  return await db.inTransaction(async tx => {
    await lock.execute(tx)
    const active = await loadActivePolicy(tx)
    if (active?.sha256 === sha256) {
      await within?.(tx, active.version)
      return active
    }
    const newest = await tx
      .selectFrom('policy_versions')
      .select('version')
      .orderBy('version', 'desc')
      .limit(1)
      .executeTakeFirst()
    const version = (newest?.version ?? 0) + 1
    const stated = { version, sha256, author, publisher, twoPersons, rollbackOf }
    const signature = signer && Buffer.from(signer.sign(policyContext, policyStatement(stated)))
    await tx
      .insertInto('policy_versions')
      .values({
        version,
        document: canonical,
        sha256: digest,
        author,
        publisher,
        two_persons: twoPersons,
        ...(rollbackOf !== undefined && { rollback_of: rollbackOf }),
        ...(signature && { signature }),
      })
      .execute()
    await tx
      .insertInto('policy_active')
      .values({ version, published_by: publisher })
      .onConflict(conflict =>
        conflict.column('singleton').doUpdateSet({ version, published_by: publisher, published_at: sql`now()` }),
      )
      .execute()
    await appendAudit(
      tx,
      securityAlert({
        type: eventTypes.securityConfiguration,
        participants: [{ userId: publisher, requestor: true }, ...(publisher === author ? [] : [{ userId: author }])],
        objects: [{ kind: 'policy', version, sha256 }],
        reason: 'policy-published',
        detail: { twoPersons, replaces: active?.version, rollbackOf },
      }),
    )
    await sql`select pg_notify('hanse_policy', ${String(version)})`.execute(tx)
    await within?.(tx, version)
    return { ...stated, document, signature, createdAt: new Date() }
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
  'policy_versions.publisher',
  'policy_versions.two_persons',
  'policy_versions.rollback_of',
  'policy_versions.signature',
] as const

function toVersion(row: {
  version: number
  document: unknown
  sha256: Buffer
  author: string
  created_at: Date
  publisher: string | null
  two_persons: boolean
  rollback_of: number | null
  signature: Buffer | null
}): PolicyVersion {
  const sha256 = row.sha256.toString('hex')
  const document = decodePolicy(row.document)
  const found = createHash('sha256').update(canonicalJson(row.document)).digest('hex')
  if (found !== sha256) {
    throw new GatewayError('POLICY_INVALID', 'the stored policy is not the one that was published', {
      context: { version: row.version },
    })
  }
  return {
    version: row.version,
    document,
    sha256,
    author: row.author,
    publisher: row.publisher ?? undefined,
    twoPersons: row.two_persons,
    rollbackOf: row.rollback_of ?? undefined,
    signature: row.signature ?? undefined,
    createdAt: row.created_at,
  }
}
