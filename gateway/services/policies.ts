/**
 * The life of a policy: a draft is written, linted, compared and published by a second person, who makes it an immutable,
 * signed version. `policy.twoPersons` off is for a site with one person; every version says how it was published.
 */

import { randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import type { Signer } from '../../peers/envelope.ts'
import { authorize } from '../../policy/authorize.ts'
import { isSiteId } from '../../policy/decide.ts'
import { diffPolicies, type PolicyChange } from '../../policy/diff.ts'
import { asIs, canonicalJson, decodePolicy, type PolicyDocument, profileSource } from '../../policy/document.ts'
import { type Finding, lintPolicy } from '../../policy/lint.ts'
import { listPolicies, loadActivePolicy, loadPolicy, type PolicyVersion, publishPolicy } from '../../policy/versions.ts'
import { eventTypes, requestorOf, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import { isObject } from '../decode.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import { findEndpointNames } from './endpoint-rows.ts'
import type { FindArchive } from './route-target.ts'

/** A policy that is being written. */
export interface Draft {
  readonly id: string
  readonly title: string
  readonly document: PolicyDocument
  /** Everybody who wrote at it: none of them may publish it. */
  readonly authors: readonly string[]
  /** The version that was active when it was begun. */
  readonly basedOn: number | undefined
  readonly state: 'open' | 'published' | 'discarded'
  /** What it became. */
  readonly version: number | undefined
  /** Counts its changes: who changes it says which one was seen. */
  readonly revision: number
  readonly createdAt: Date
  readonly updatedAt: Date
}

/** What a document is compared with or run against: a version's number, a draft's id, or the active version. */
export type PolicyName = 'active' | number | string

export interface Policies {
  readonly twoPersons: boolean
  /** @throws GatewayError POLICY_INVALID with every problem */
  createDraft(principal: Principal, raw: unknown): Promise<Draft>
  /** @throws GatewayError NOT_FOUND, STATE_CONFLICT when it was changed meanwhile or is not open, POLICY_INVALID */
  changeDraft(principal: Principal, id: string, change: { raw: unknown; revision: number }): Promise<Draft>
  /** @throws GatewayError NOT_FOUND, STATE_CONFLICT */
  discardDraft(principal: Principal, id: string): Promise<Draft>
  /** @throws GatewayError NOT_FOUND */
  loadDraft(principal: Principal, id: string): Promise<Draft>
  listDrafts(principal: Principal, limit: number): Promise<readonly Draft[]>
  /** What is wrong or odd about a document. @throws GatewayError POLICY_INVALID when it is none */
  lint(principal: Principal, raw: unknown): Promise<readonly Finding[]>
  /** @throws GatewayError NOT_FOUND */
  lintDraft(principal: Principal, id: string): Promise<readonly Finding[]>
  /** @throws GatewayError NOT_FOUND, STATE_CONFLICT, FORBIDDEN for its authors, POLICY_INVALID with lint's errors */
  publishDraft(principal: Principal, id: string, revision?: number): Promise<PolicyVersion>
  /** Writes and publishes in one step, where one person may. @throws GatewayError FORBIDDEN, POLICY_INVALID */
  publish(principal: Principal, raw: unknown): Promise<PolicyVersion>
  /** Makes an older version's document the active one again, under a new number. @throws as `publishDraft` */
  rollback(principal: Principal, version: number): Promise<PolicyVersion>
  /** A document by name. @throws GatewayError NOT_FOUND */
  documentOf(principal: Principal, name: PolicyName): Promise<PolicyDocument>
  diff(principal: Principal, from: PolicyName, to: PolicyName): Promise<readonly PolicyChange[]>
  /** Published versions, newest first, and which of them is active. */
  history(
    principal: Principal,
    page: { readonly limit: number; readonly before?: number },
  ): Promise<{ readonly active: number | undefined; readonly versions: readonly PolicyVersion[] }>
  /** One published version. @throws GatewayError NOT_FOUND */
  load(
    principal: Principal,
    name: 'active' | number,
  ): Promise<{ readonly active: number | undefined; readonly version: PolicyVersion }>
}

/** Opens the service. */
export function openPolicies(options: {
  db: Db
  signer: Pick<Signer, 'sign'>
  findModality: FindArchive
  twoPersons: boolean
}): Policies {
  const { db, signer, findModality, twoPersons } = options

  const findings = async (document: PolicyDocument, isVersion1: boolean): Promise<readonly Finding[]> => {
    const [peers, endpoints] = [await loadPeers(db), await findEndpointNames(db.kysely)]
    return lintPolicy(document, { peers, findModality, endpoints, now: new Date(), isVersion1 })
  }

  /** What is published: names have become what they stand for, so that nothing outside of it can change its meaning. */
  const settle = async (document: PolicyDocument, isVersion1: boolean): Promise<PolicyDocument> => {
    const errors = (await findings(document, isVersion1)).filter(({ severity }) => severity === 'error')
    if (errors.length > 0)
      throw new GatewayError('POLICY_INVALID', errors.map(({ path, message }) => `${path}: ${message}`).join('; '))
    return withPresets(withSiteIds(document, await loadPeers(db)))
  }

  const mayPublish = (principal: Principal, authors: readonly string[]): void => {
    if (!twoPersons || !authors.includes(principal.id)) return
    throw new GatewayError(
      'FORBIDDEN',
      'who wrote a policy does not publish it: a second person does; a site with one person sets policy.twoPersons to false',
    )
  }

  const document = async (name: PolicyName): Promise<PolicyDocument> => {
    if (typeof name === 'string' && name !== 'active' && !/^\d{1,9}$/.test(name)) return (await find(db, name)).document
    const policy = name === 'active' ? await loadActivePolicy(db.kysely) : await loadPolicy(db.kysely, Number(name))
    if (!policy) throw new GatewayError('NOT_FOUND', 'no such policy version')
    return policy.document
  }

  const policies: Policies = {
    twoPersons,
    async createDraft(principal, raw) {
      authorize(principal, 'policy.draft')
      const document = decodePolicy(raw)
      const id = randomUUID()
      await db.inTransaction(async tx => {
        const active = await loadActivePolicy(tx)
        await tx
          .insertInto('policy_drafts')
          .values({
            id,
            title: document.title,
            document: canonicalJson(isObject(raw) ? raw : {}),
            authors: [principal.id],
            based_on: active?.version ?? null,
            version: null,
          })
          .execute()
        await audit(tx, principal, id, 'policy-drafted')
      })
      return await find(db, id)
    },
    async changeDraft(principal, id, { raw, revision }) {
      authorize(principal, 'policy.draft')
      const document = decodePolicy(raw)
      await db.inTransaction(async tx => {
        const draft = await lockDraft(tx, id)
        if (draft.revision !== revision)
          throw new GatewayError(
            'STATE_CONFLICT',
            `the draft was changed meanwhile: it is at revision ${draft.revision}`,
          )
        await tx
          .updateTable('policy_drafts')
          .set({
            title: document.title,
            document: canonicalJson(isObject(raw) ? raw : {}),
            authors: [...new Set([...draft.authors, principal.id])],
            revision: revision + 1,
            updated_at: sql<Date>`now()`,
          })
          .where('id', '=', id)
          .execute()
        await audit(tx, principal, id, 'policy-drafted')
      })
      return await find(db, id)
    },
    async discardDraft(principal, id) {
      authorize(principal, 'policy.draft')
      await db.inTransaction(async tx => {
        await lockDraft(tx, id)
        await tx
          .updateTable('policy_drafts')
          .set({ state: 'discarded', updated_at: sql<Date>`now()` })
          .where('id', '=', id)
          .execute()
        await audit(tx, principal, id, 'policy-discarded')
      })
      return await find(db, id)
    },
    async loadDraft(principal, id) {
      authorize(principal, 'policy.read')
      return await find(db, id)
    },
    async listDrafts(principal, limit) {
      authorize(principal, 'policy.read')
      const query = db.kysely.selectFrom('policy_drafts').selectAll()
      const rows = await query.orderBy('created_at', 'desc').orderBy('id').limit(limit).execute()
      return rows.map(toDraft)
    },
    async lint(principal, raw) {
      authorize(principal, 'policy.read')
      return await findings(decodePolicy(raw), isVersion1(raw))
    },
    async lintDraft(principal, id) {
      authorize(principal, 'policy.read')
      const draft = await find(db, id)
      return await findings(draft.document, isVersion1(await rawDraft(db, id)))
    },
    async publishDraft(principal, id, revision) {
      authorize(principal, 'policy.publish')
      const draft = await find(db, id)
      mayPublish(principal, draft.authors)
      const raw = await rawDraft(db, id)
      const settled = await settle(draft.document, isVersion1(raw))
      return await publishPolicy(db, settled, draft.authors.join(', '), {
        publisher: principal.id,
        twoPersons,
        signer,
        within: async (tx, version) => {
          // What was linted and decided about is what is published: nobody wrote at it in between.
          const locked = await lockDraft(tx, id)
          if (locked.revision !== (revision ?? draft.revision))
            throw new GatewayError('STATE_CONFLICT', 'the draft was changed meanwhile: look at it again')
          await tx
            .updateTable('policy_drafts')
            .set({ state: 'published', version, updated_at: sql<Date>`now()` })
            .where('id', '=', id)
            .execute()
        },
      })
    },
    async publish(principal, raw) {
      authorize(principal, 'policy.draft')
      authorize(principal, 'policy.publish')
      mayPublish(principal, [principal.id])
      const settled = await settle(decodePolicy(raw), isVersion1(raw))
      return await publishPolicy(db, settled, principal.id, { twoPersons, signer })
    },
    async rollback(principal, version) {
      authorize(principal, 'policy.publish')
      const policy = await loadPolicy(db.kysely, version)
      if (!policy) throw new GatewayError('NOT_FOUND', 'no such policy version')
      mayPublish(principal, policy.author.split(', '))
      const publication = { publisher: principal.id, twoPersons, signer, rollbackOf: version }
      return await publishPolicy(db, policy.document, policy.author, publication)
    },
    async documentOf(principal, name) {
      authorize(principal, 'policy.read')
      return await document(name)
    },
    async diff(principal, from, to) {
      authorize(principal, 'policy.read')
      return diffPolicies(await document(from), await document(to))
    },
    async history(principal, page) {
      authorize(principal, 'policy.read')
      const active = await loadActivePolicy(db.kysely)
      return { active: active?.version, versions: await listPolicies(db.kysely, page) }
    },
    async load(principal, name) {
      authorize(principal, 'policy.read')
      const active = await loadActivePolicy(db.kysely)
      const found = name === 'active' ? active : await loadPolicy(db.kysely, name)
      if (!found) throw new GatewayError('NOT_FOUND', 'no such policy version')
      return { active: active?.version, version: found }
    },
  }
  return policies
}

const isVersion1 = (raw: unknown): boolean => isObject(raw) && raw['format'] === 'hanse-policy-1'

/** Names of sites become their ids; what is not paired stays as it is, and is held when something is sent there. */
function withSiteIds(document: PolicyDocument, peers: readonly { siteId: string; name: string }[]): PolicyDocument {
  const destinations = Object.entries(document.destinations).map(([name, destination]) => {
    const { peer } = destination
    const site = peer === undefined || isSiteId(peer) ? undefined : peers.find(one => one.name === peer)
    return [name, site ? { ...destination, peer: site.siteId } : destination] as const
  })
  return { ...document, destinations: Object.fromEntries(destinations) }
}

/** Profiles that come along are written into the document: another release may bring others of the same name. */
function withPresets(document: PolicyDocument): PolicyDocument {
  const used = new Set(document.rules.flatMap(rule => (rule.send ? [rule.send.profile] : [])))
  const missing = [...used].filter(name => name !== asIs && !document.profiles.some(profile => profile.name === name))
  const presets = missing.map(name => ({ ...Object(profileSource(document, name)), name }))
  return { ...document, profiles: [...document.profiles, ...presets] }
}

async function loadPeers(db: Db): Promise<readonly { siteId: string; name: string }[]> {
  return await db.kysely
    .selectFrom('peers')
    .select(['site_id as siteId', 'name'])
    .where('state', '=', 'active')
    .orderBy('name')
    .execute()
}

async function find(db: Db, id: string): Promise<Draft> {
  const query = db.kysely.selectFrom('policy_drafts').selectAll().where('id', '=', id)
  const row = isUuid(id) ? await query.executeTakeFirst() : undefined
  if (!row) throw new GatewayError('NOT_FOUND', 'no such draft')
  return toDraft(row)
}

async function rawDraft(db: Db, id: string): Promise<unknown> {
  const row = await db.kysely.selectFrom('policy_drafts').select('document').where('id', '=', id).executeTakeFirst()
  return row?.document
}

/** @throws GatewayError NOT_FOUND, STATE_CONFLICT unless it is open */
async function lockDraft(tx: Tx, id: string): Promise<{ revision: number; authors: readonly string[] }> {
  const query = tx.selectFrom('policy_drafts').select(['state', 'revision', 'authors']).where('id', '=', id)
  const row = isUuid(id) ? await query.forUpdate().executeTakeFirst() : undefined
  if (!row) throw new GatewayError('NOT_FOUND', 'no such draft')
  if (row.state !== 'open') throw new GatewayError('STATE_CONFLICT', `the draft is ${row.state} already`)
  return row
}

const isUuid = (id: string): boolean => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(id)

function toDraft(row: {
  id: string
  title: string
  document: unknown
  authors: readonly string[]
  based_on: number | null
  state: Draft['state']
  version: number | null
  revision: number
  created_at: Date
  updated_at: Date
}): Draft {
  return {
    id: row.id,
    title: row.title,
    document: decodePolicy(row.document),
    authors: row.authors,
    basedOn: row.based_on ?? undefined,
    state: row.state,
    version: row.version ?? undefined,
    revision: row.revision,
    createdAt: row.created_at,
    updatedAt: row.updated_at,
  }
}

async function audit(tx: Tx, principal: Principal, draft: string, reason: string): Promise<void> {
  const event = securityAlert({
    type: eventTypes.securityConfiguration,
    participants: [requestorOf(principal)],
    objects: [{ kind: 'setting', name: 'policy-draft' }],
    reason,
    detail: { draft },
  })
  await appendAudit(tx, event)
}
