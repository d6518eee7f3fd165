/**
 * The peers of this site: rows in PostgreSQL, and their current state in memory for what cannot wait
 * for a query, such as a TLS handshake.
 *
 * Every change is one transaction with its audit event. After the commit, this process and (by NOTIFY)
 * all others on the same database load the rows again and tell their listeners, so that TLS contexts
 * are rebuilt and a revoked peer's connections end.
 */
import { X509Certificate } from 'node:crypto'
import { sql } from 'kysely'
import { type AuditEvent, eventTypes, securityAlert } from '../gateway/audit/event.ts'
import type { Db, Tx } from '../gateway/db/db.ts'
import { isUniqueViolation } from '../gateway/db/failure.ts'
import { type Listener, listen } from '../gateway/db/listen.ts'
import { decode } from '../gateway/decode.ts'
import { GatewayError } from '../gateway/errors.ts'
import type { Log } from '../gateway/log.ts'
import { checkName, originUrl, type SignedCard } from './card.ts'
import { type OpenInvitation, type Peer, type PeerDirectory, toPeer } from './peer.ts'

/** Appends an audit event in the caller's transaction. */
export type AppendAudit = (tx: Tx, event: AuditEvent) => Promise<void>

/** A peer that pairing has found. */
export interface NewPeer {
  readonly id: string
  readonly card: SignedCard
  readonly sas: string
  /** Our name for it; the card's own, or one like it that is free, when absent. */
  readonly name?: string | undefined
}

export interface Peers extends PeerDirectory {
  /** Every peer ever paired, newest first. */
  find(): Promise<readonly Peer[]>
  /** A peer in any state. @throws GatewayError NOT_FOUND */
  load(id: string): Promise<Peer>
  /** From memory; pending or active. */
  get(id: string): Peer | undefined
  byName(name: string): Peer | undefined
  bySiteId(siteId: string): Peer | undefined
  byFingerprint(caFingerprint: Buffer): Peer | undefined
  /** Adds a pending peer in the caller's transaction; call `refresh` after it. @throws GatewayError PAIRING_INVALID */
  add(tx: Tx, peer: NewPeer, principal: string): Promise<void>
  /** Makes a pending peer active: a person has compared `sas` with the other site. */
  confirm(id: string, by: { principal: string; sas?: string }): Promise<Peer>
  revoke(id: string, by: { principal: string; reason?: string }): Promise<Peer>
  rename(id: string, name: string, by: { principal: string }): Promise<Peer>
  /** @throws GatewayError BAD_REQUEST when it is not an https origin */
  changeUrl(id: string, url: string | undefined, by: { principal: string }): Promise<Peer>
  /** Loads the rows again and tells the listeners here and in other processes. */
  refresh(): Promise<void>
  close(): Promise<void>
}

const channel = 'hanse_peers'

/** Opens the registry and loads it. */
export async function openPeers(options: {
  db: Db
  appendAudit: AppendAudit
  log: Log
  clock?: () => number
}): Promise<Peers> {
  const registry = new Registry(options.db, options.appendAudit, options.log, options.clock ?? Date.now)
  await registry.open()
  return registry
}

class Registry implements Peers {
  readonly #db: Db
  readonly #appendAudit: AppendAudit
  readonly #log: Log
  readonly #clock: () => number
  readonly #listeners = new Set<() => void>()
  #listener: Listener | undefined
  #peers: readonly Peer[] = []
  #invitations: readonly OpenInvitation[] = []
  /** Loads follow one another, so that an older picture never replaces a newer one. */
  #loading: Promise<void> = Promise.resolve()

  constructor(db: Db, appendAudit: AppendAudit, log: Log, clock: () => number) {
    this.#db = db
    this.#appendAudit = appendAudit
    this.#log = log
    this.#clock = clock
  }

  async open(): Promise<void> {
    await this.#reload()
    this.#listener = await listen(this.#db, {
      channel,
      log: this.#log,
      onChange: () => {
        this.#reload().catch(() => this.#log.warn({}, 'peers could not be loaded after a change'))
      },
    })
  }

  get peers(): readonly Peer[] {
    return this.#peers
  }

  get invitations(): readonly OpenInvitation[] {
    return this.#invitations
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  async find(): Promise<readonly Peer[]> {
    const rows = await this.#db.kysely.selectFrom('peers').selectAll().orderBy('created_at', 'desc').execute()
    return rows.map(toPeer)
  }

  async load(id: string): Promise<Peer> {
    const rows = isUuid(id) ? await this.#db.kysely.selectFrom('peers').selectAll().where('id', '=', id).execute() : []
    return toPeer(rows[0] ?? notFound(id))
  }

  get(id: string): Peer | undefined {
    return this.#peers.find(peer => peer.id === id)
  }

  byName(name: string): Peer | undefined {
    return this.#peers.find(peer => peer.name === name)
  }

  bySiteId(siteId: string): Peer | undefined {
    return this.#peers.find(peer => peer.siteId === siteId)
  }

  byFingerprint(caFingerprint: Buffer): Peer | undefined {
    return this.#peers.find(peer => peer.caFingerprint.equals(caFingerprint))
  }

  async add(tx: Tx, { id, card: { card, bytes }, sas, name }: NewPeer, principal: string): Promise<void> {
    const others = await tx
      .selectFrom('peers')
      .select(['name', 'ca_certificate'])
      .where('state', '<>', 'revoked')
      .execute()
    checkName(name)
    // Chains are built by subject: two pinned authorities of one subject would shadow each other.
    const subject = new X509Certificate(card.caCertificate).subject
    if (others.some(other => new X509Certificate(other.ca_certificate).subject === subject)) {
      throw new GatewayError(
        'PAIRING_INVALID',
        'a peer with this certificate authority is paired already; revoke it first',
      )
    }
    const row = {
      id,
      site_id: card.siteId,
      name: freeName(name ?? card.name, card.siteId, new Set(others.map(other => other.name))),
      state: 'pending' as const,
      url: card.urls[0] ?? null,
      card: Buffer.from(bytes),
      ca_certificate: card.caCertificate,
      ca_fingerprint: card.caFingerprint,
      signing_key: Buffer.from(card.signingKey),
      sealing_key: Buffer.from(card.sealingKey),
      sas,
      created_at: new Date(this.#clock()),
    }
    try {
      await tx.insertInto('peers').values(row).execute()
    } catch (error) {
      if (!isUniqueViolation(error)) throw error
      throw new GatewayError('PAIRING_INVALID', 'this site is paired already; revoke it first', { cause: error })
    }
    await this.#audit(tx, 'peer-added', { id, siteId: card.siteId }, principal)
    await notify(tx)
  }

  async confirm(id: string, by: { principal: string; sas?: string }): Promise<Peer> {
    return await this.#change(id, 'peer-confirmed', by.principal, async (tx, peer) => {
      if (peer.state === 'active') return false
      if (peer.state === 'revoked') throw new GatewayError('STATE_CONFLICT', 'this peer was revoked; pair it again')
      if (by.sas !== undefined && digits(by.sas) !== digits(peer.sas ?? '')) {
        throw new GatewayError('PAIRING_INVALID', 'the short authentication strings differ; do not confirm, pair again')
      }
      await tx
        .updateTable('peers')
        .set({ state: 'active', confirmed_at: new Date(this.#clock()) })
        .where('id', '=', id)
        .execute()
      return true
    })
  }

  async revoke(id: string, by: { principal: string; reason?: string }): Promise<Peer> {
    return await this.#change(
      id,
      'peer-revoked',
      by.principal,
      async (tx, peer) => {
        if (peer.state === 'revoked') return false
        await tx
          .updateTable('peers')
          .set({ state: 'revoked', revoked_at: new Date(this.#clock()) })
          .where('id', '=', id)
          .execute()
        return true
      },
      by.reason,
    )
  }

  async rename(id: string, name: string, by: { principal: string }): Promise<Peer> {
    checkName(name)
    return await this.#change(id, 'peer-renamed', by.principal, async (tx, peer) => {
      if (peer.name === name) return false
      try {
        await tx.updateTable('peers').set({ name }).where('id', '=', id).execute()
      } catch (error) {
        if (!isUniqueViolation(error)) throw error
        throw new GatewayError('STATE_CONFLICT', 'another peer has this name', { cause: error })
      }
      return true
    })
  }

  async changeUrl(id: string, url: string | undefined, by: { principal: string }): Promise<Peer> {
    if (url !== undefined && !decode(originUrl, url).ok) {
      throw new GatewayError('BAD_REQUEST', 'expected an origin such as https://gateway.example:8443')
    }
    return await this.#change(id, 'peer-url-changed', by.principal, async (tx, peer) => {
      if (peer.url === url) return false
      await tx
        .updateTable('peers')
        .set({ url: url ?? null })
        .where('id', '=', id)
        .execute()
      return true
    })
  }

  async refresh(): Promise<void> {
    await this.#reload()
  }

  async close(): Promise<void> {
    await this.#listener?.close()
    await this.#loading
    this.#listeners.clear()
  }

  /** Locks the peer, changes it, and records that; `change` tells whether there was anything to do. */
  async #change(
    id: string,
    what: string,
    principal: string,
    change: (tx: Tx, peer: Peer) => Promise<boolean>,
    reason?: string,
  ): Promise<Peer> {
    if (!isUuid(id)) return notFound(id)
    await this.#db.inTransaction(async tx => {
      const row = await tx.selectFrom('peers').selectAll().where('id', '=', id).forUpdate().executeTakeFirst()
      const peer = toPeer(row ?? notFound(id))
      if (!(await change(tx, peer))) return
      await this.#audit(tx, what, peer, principal, reason)
      await notify(tx)
    })
    await this.#reload()
    return await this.load(id)
  }

  async #audit(
    tx: Tx,
    what: string,
    peer: { id: string; siteId: string },
    principal: string,
    reason?: string,
  ): Promise<void> {
    const event = securityAlert({
      type: eventTypes.securityConfiguration,
      reason: what,
      participants: [{ userId: principal, requestor: true }],
      objects: [{ kind: 'node', nodeId: peer.siteId }],
      detail: { peer: peer.id, note: reason },
    })
    await this.#appendAudit(tx, event)
  }

  #reload(): Promise<void> {
    const load = async (): Promise<void> => {
      const { kysely } = this.#db
      const rows = await kysely.selectFrom('peers').selectAll().where('state', '<>', 'revoked').execute()
      const open = await kysely
        .selectFrom('invitations')
        .select(['id', 'certificate_fingerprint', 'expires_at'])
        .where('state', 'in', ['open', 'started'])
        .where('expires_at', '>', new Date(this.#clock()))
        .where(sql<boolean>`exchange ->> 'role' = 'inviter'`)
        .execute()
      this.#peers = rows.map(toPeer)
      this.#invitations = open.map(row => ({
        id: row.id,
        fingerprint: row.certificate_fingerprint,
        expiresAt: row.expires_at,
      }))
      for (const listener of this.#listeners) listener()
    }
    const loaded = this.#loading.then(load)
    this.#loading = loaded.catch(() => undefined)
    return loaded
  }
}

/** Tells the other processes on this database; delivered at commit. */
export async function notify(tx: Tx): Promise<void> {
  await sql`select pg_notify(${channel}, '')`.execute(tx)
}

function notFound(id: string): never {
  throw new GatewayError('NOT_FOUND', 'no such peer', { context: { peer: id } })
}

/** `name`, or the name with the start of the site id, when another site was quicker or pretends to be it. */
function freeName(name: string, siteId: string, taken: ReadonlySet<string>): string {
  if (!taken.has(name)) return name
  for (let length = 4; length < siteId.length; length += 4) {
    const candidate = `${name.slice(0, 60)} ${siteId.slice(0, length)}`
    if (!taken.has(candidate)) return candidate
  }
  return siteId
}

const digits = (sas: string): string => sas.replace(/\D/g, '')
const isUuid = (id: string): boolean => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(id)
