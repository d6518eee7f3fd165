/**
 * A site for tests of transfers: database, blobs, keys, registry, job queue, the real federation
 * listener, the inbound and outbound services; and between two of them a wire that can be cut.
 */
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { sql } from 'kysely'
import { appendAudit } from '../../gateway/audit/log.ts'
import type { Db } from '../../gateway/db/db.ts'
import { openQueue, type Queue } from '../../gateway/jobs/queue.ts'
import { type Log, openLog } from '../../gateway/log.ts'
import { type Deidentify, openDeidentify } from '../../gateway/services/deidentify.ts'
import { type Inbound, openInbound } from '../../gateway/services/inbound.ts'
import type { InboundLimits, TransferPeer } from '../../gateway/services/inbound-context.ts'
import { type Outbound, type OutboundParts, openOutbound } from '../../gateway/services/outbound.ts'
import { createPreparing } from '../../gateway/services/outbound-prepare.ts'
import { openOutbox } from '../../gateway/services/outbox.ts'
import { openProjectKeys, type ProjectKeys } from '../../gateway/services/project-keys.ts'
import { openPseudonyms, type Pseudonyms } from '../../gateway/services/pseudonyms.ts'
import { openRecalls, type Recalls } from '../../gateway/services/recalls.ts'
import { openRemoval } from '../../gateway/services/removal.ts'
import { type Blobs, openBlobs } from '../../gateway/store/blobs.ts'
import type { FreeSpaceOptions } from '../../gateway/store/free-space.ts'
import { openCard, signCard } from '../../peers/card.ts'
import type { Carrier } from '../../peers/carrier.ts'
import { type ClockWatch, openClockWatch } from '../../peers/clock.ts'
import { openPeerPool } from '../../peers/dial.ts'
import { openHttpsCarrier } from '../../peers/https-carrier.ts'
import type { PeerConnection } from '../../peers/https-client.ts'
import type { SiteKeys } from '../../peers/keys.ts'
import type { Peer } from '../../peers/peer.ts'
import { createRangeBuffers } from '../../peers/range-sender.ts'
import { openPeers, type Peers } from '../../peers/registry.ts'
import { type Federation, openFederation } from '../../peers/server.ts'
import { openFederationTls } from '../../peers/tls.ts'
import { publishPolicy } from '../../policy/versions.ts'
import { onEnd } from './cleanup.ts'
import { testDatabase } from './database.ts'
import { type BuiltInstance, buildInstance } from './dicom-builder.ts'
import { testKeys } from './site.ts'
import { until } from './until.ts'

export interface FederationSite {
  readonly name: string
  readonly dataDir: string
  readonly db: Db
  readonly blobs: Blobs
  readonly keys: SiteKeys
  readonly peers: Peers
  readonly clocks: ClockWatch
  readonly queue: Queue
  readonly inbound: Inbound
  readonly outbound: Outbound
  readonly recalls: Recalls
  readonly federation: Federation
  readonly url: string
  readonly projects: ProjectKeys
  readonly pseudonyms: Pseudonyms
}

export interface FederationSiteOptions {
  readonly name: string
  readonly clock?: () => number
  readonly limits?: Partial<InboundLimits>
  readonly freeSpace?: FreeSpaceOptions
  readonly outbound?: Partial<OutboundParts>
  readonly log?: Log
  /** In the place of the usual threads. */
  readonly deidentify?: Deidentify
  /** The active policy; without one everything of every paired site is accepted. */
  readonly policy?: object
}

/** A policy under which every paired site may send. */
export const acceptEverything = {
  format: 'hanse-policy-2',
  destinations: {},
  rules: [],
  incoming: [{ id: 'everything', when: { always: true }, accept: { from: ['*'] } }],
}

export const silent = openLog({ level: process.env['HANSE_TEST_LOG'] === 'debug' ? 'debug' : 'silent', pretty: true })

/** Starts a site; everything is stopped and removed after the test. */
export async function startFederationSite(t: TestContext, options: FederationSiteOptions): Promise<FederationSite> {
  const { name, clock = Date.now } = options
  const log = (options.log ?? silent).child({ site: name })
  const keys = await testKeys(t, name, clock)
  const db = await testDatabase(t)
  const dataDir = await mkdtemp(join(tmpdir(), 'hanse-federation-'))
  onEnd(t, () => rm(dataDir, { recursive: true, force: true }))
  const blobs = await openBlobs({ dir: dataDir, log, ...(options.freeSpace && { freeSpace: options.freeSpace }) })
  const peers = await openPeers({ db, appendAudit, log, clock })
  onEnd(t, () => peers.close())
  const clocks = openClockWatch({ notBefore: keys.validFrom, clock })
  const queue = await openQueue({ db, log })
  onEnd(t, () => queue.close())
  const now = () => new Date(clock())
  await publishPolicy(db, options.policy ?? acceptEverything, 'test')
  const inbound = await openInbound({
    db,
    blobs,
    queue,
    keys,
    checkpoint: () => Promise.resolve(`hanse.test/${name}\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n`),
    log,
    dataDir,
    clock: now,
    ...(options.limits && { limits: options.limits }),
  })
  queue.work('commit-inbound', { concurrency: 2 }, ({ transfer }, signal) => inbound.runCommit(transfer, signal))
  const deidentify = options.deidentify ?? openDeidentify({ threads: 2 })
  onEnd(t, () => deidentify.close())
  const outbox = openOutbox(dataDir)
  const projects = openProjectKeys({ db, dir: join(dataDir, 'keys', 'projects') })
  const pseudonyms = openPseudonyms({ db, keyPath: join(dataDir, 'keys', 'pseudonyms.json'), projects })
  const preparing = {
    outbox,
    ...createPreparing({ db, blobs, outbox, deidentify, projects, pseudonyms, log }),
  }
  const buffers = createRangeBuffers(6)
  const openCarrier = (peer: Peer): Carrier =>
    openHttpsCarrier({
      connection: connectionTo({ keys, clocks }, peer),
      self: keys.siteId,
      peer: { siteId: peer.siteId, signingKeys: [peer.signingKey] },
      buffers,
      connections: 4,
    })
  const outbound = openOutbound({
    db,
    blobs,
    queue,
    keys,
    peers,
    preparing,
    log,
    clock: now,
    openCarrier,
    ...options.outbound,
  })
  onEnd(t, () => outbound.close())
  queue.work('deliver', { concurrency: 16 }, ({ transfer }, signal) => outbound.run(transfer, signal))
  const recalls = openRecalls({ db, queue, keys, peers, openCarrier, removal: openRemoval({ db }), log })
  queue.work('recall', { concurrency: 2 }, ({ recall }, signal) => recalls.run(recall, signal))
  const tls = openFederationTls({ keys, directory: peers, hosts: () => ['127.0.0.1'], log, clock })
  const federation = await openFederation({
    tls,
    inbound,
    siteCard: () => signCard(keys, { name, urls: [], created: clock() }).bytes,
    pair: () => Promise.reject(new Error('not here')),
    recall: recalls.receive,
    log,
    host: '127.0.0.1',
    port: 0,
    clock: now,
  })
  onEnd(t, async () => {
    tls.close()
    await federation.close()
  })
  const url = `https://127.0.0.1:${federation.address.port}`
  return {
    name,
    dataDir,
    db,
    blobs,
    keys,
    peers,
    clocks,
    queue,
    inbound,
    outbound,
    recalls,
    federation,
    url,
    projects,
    pseudonyms,
  }
}

/** A pool of connections as the gateway makes it. */
export function connectionTo(from: Pick<FederationSite, 'keys' | 'clocks'>, peer: Peer): PeerConnection {
  const to = { id: peer.id, name: peer.name, url: peer.url ?? '' }
  const pool = openPeerPool({ to, caCertificate: peer.caCertificate, credential: () => from.keys.tls() })
  return { pool, to, clocks: from.clocks }
}

/** Makes each the other's active peer; `urlOf` says how one is reached by the other. */
export async function makePeers(
  a: FederationSite,
  b: FederationSite,
  urlOf: (site: FederationSite) => string = site => site.url,
): Promise<{ ofA: Peer; ofB: Peer }> {
  const add = async (site: FederationSite, other: FederationSite): Promise<Peer> => {
    const { bytes } = signCard(other.keys, { name: other.name, urls: [urlOf(other)], created: Date.now() })
    const id = randomUUID()
    await site.db.inTransaction(tx => site.peers.add(tx, { id, card: openCard(bytes, Date.now()), sas: '1' }, 'test'))
    await site.peers.refresh()
    return await site.peers.confirm(id, { principal: 'test' })
  }
  return { ofA: await add(a, b), ofB: await add(b, a) }
}

/** The peer row of `site` for `other`, as the transfer services take it. */
export function peerOf(site: FederationSite, other: FederationSite): TransferPeer {
  const peer = site.peers.bySiteId(other.keys.siteId)
  if (!peer) throw new Error('not paired')
  return { id: peer.id, siteId: peer.siteId, name: peer.name, signingKeys: [peer.signingKey] }
}

/** A synthetic CT study of `count` instances, about `rows * rows * 2` bytes each. */
export function buildStudy(count: number, options: { rows?: number; seed?: number } = {}): BuiltInstance[] {
  const { rows = 64, seed = 1 } = options
  const base = 1_000 * seed
  return Array.from({ length: count }, (_, index) =>
    buildInstance({
      seed: base + index,
      rows,
      cols: rows,
      studyInstanceUid: `1.2.826.0.1.3680043.10.9.${seed}`,
      seriesInstanceUid: `1.2.826.0.1.3680043.10.9.${seed}.1`,
      patientId: `TEST-${seed}`,
      patientName: `TEST^PATIENT^${seed}`,
      instanceNumber: index + 1,
    }),
  )
}

/** Puts files into the blob store, and a planned transfer of them into the database; no job yet. */
export async function planTransfer(
  site: FederationSite,
  to: Peer,
  instances: readonly BuiltInstance[],
  change: { expiresAt?: Date; priority?: string; profile?: string } = {},
): Promise<string> {
  const id = randomUUID()
  for (const { bytes } of instances) {
    const staged = await site.blobs.stageFrom(once(bytes))
    await site.blobs.commit(staged)
  }
  await site.db.inTransaction(async tx => {
    await sql`insert into policy_versions (version, document, sha256, author)
              values (1, '{}', ${Buffer.alloc(32, 5)}, 'test') on conflict do nothing`.execute(tx)
    await sql`
      insert into transfers (id, study_instance_uid, destination, peer, trigger, rule, policy_version, profile, purpose,
        priority, requested_by, snapshot_sha256, state, nonce, manifest_created, object_count, bytes_total, expires_at)
      values (${id}, ${instances[0]?.studyInstanceUid ?? ''}, ${to.name}, ${to.id}, 'stable', 'all', 1, ${change.profile ?? 'as-is'}, 'treatment',
        ${change.priority ?? 'normal'}, 'test', ${randomBytes(32)}, 'planned', ${randomBytes(16)}, ${new Date()},
        ${instances.length}, ${instances.reduce((sum, { bytes }) => sum + bytes.length, 0)},
        ${change.expiresAt ?? new Date(Date.now() + 86_400_000)})`.execute(tx)
    for (const [ordinal, item] of instances.entries()) {
      const digest = createHash('sha256').update(item.bytes).digest()
      await sql`
        insert into transfer_items values (${id}, ${ordinal}, ${item.sopInstanceUid}, ${item.sopClassUid},
          ${item.transferSyntaxUid}, ${item.bytes.length}, ${digest})`.execute(tx)
    }
  })
  return id
}

/** Gives a transfer its job. */
export async function deliver(site: FederationSite, id: string): Promise<void> {
  await site.db.inTransaction(tx => site.queue.enqueue(tx, 'deliver', { transfer: id }, { singletonKey: id }))
}

/** Waits until an outbound transfer is in this state. */
export async function untilState(site: FederationSite, id: string, state: string, deadlineMs = 30_000): Promise<void> {
  let seen = ''
  await until(`transfer ${state}`, deadlineMs, async () => {
    const row = await transferOf(site, id)
    seen = `${row.state} ${row.error_code ?? ''} ${row.error ?? ''}`
    return row.state === state
  }).catch(error => {
    throw new Error(`${String(error)}; it is ${seen}`)
  })
}

export async function transferOf(site: FederationSite, id: string) {
  return await site.db.kysely.selectFrom('transfers').selectAll().where('id', '=', id).executeTakeFirstOrThrow()
}

/** Reasons and outcomes of the audit events so far. */
export async function auditOf(site: FederationSite): Promise<{ event: string; outcome: string; reason?: string }[]> {
  const rows = await site.db.kysely.selectFrom('audit_events').select('payload').orderBy('id').execute()
  return rows.map(row => JSON.parse(row.payload ?? '{}'))
}

/** SOP Instance UIDs that users of the site can see. */
export async function visibleAt(site: FederationSite): Promise<string[]> {
  const rows = await site.db.kysely.selectFrom('instances').select('sop_instance_uid').execute()
  return rows.map(row => row.sop_instance_uid).sort()
}

/** A TCP wire to a port: it can be cut, and counts what goes to the far end. */
export interface Wire {
  readonly url: string
  /** Bytes of TLS that went to the far end. */
  sentBytes: number
  /** Cuts every connection after so many more bytes; again and again when `every`. */
  cutAfter: number
  isDown: boolean
  cuts: number
}

export async function openWire(t: TestContext, toPort: number): Promise<Wire> {
  const live = new Set<Socket>()
  const wire: Wire = { url: '', sentBytes: 0, cutAfter: Number.POSITIVE_INFINITY, isDown: false, cuts: 0 }
  const server = createServer(near => {
    if (wire.isDown) {
      near.destroy()
      return
    }
    const far = connect(toPort, '127.0.0.1')
    for (const socket of [near, far]) {
      live.add(socket)
      socket.on('error', () => undefined).on('close', () => live.delete(socket))
    }
    near.on('data', chunk => {
      wire.sentBytes += chunk.length
      wire.cutAfter -= chunk.length
      if (wire.cutAfter <= 0) {
        wire.cuts++
        wire.cutAfter = Number.POSITIVE_INFINITY
        for (const socket of live) socket.destroy()
      } else if (!far.write(chunk)) {
        near.pause()
        far.once('drain', () => near.resume())
      }
    })
    far.on('data', chunk => near.write(chunk))
    near.on('close', () => far.destroy())
    far.on('close', () => near.destroy())
  })
  server.listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  const { port } = server.address() as AddressInfo
  onEnd(t, async () => {
    for (const socket of live) socket.destroy()
    await new Promise(resolve => server.close(resolve))
  })
  return Object.assign(wire, { url: `https://127.0.0.1:${port}` })
}

async function* once(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  yield bytes
}
