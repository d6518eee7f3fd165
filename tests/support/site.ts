/**
 * A site for tests of identity: real keys, a database of its own, the registry, pairing, and a real
 * TLS listener that answers `/x/1/pair` and tells anybody else who they are.
 */
import { cp, mkdtemp, rm } from 'node:fs/promises'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type Server } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, type TestContext } from 'node:test'
import { TLSSocket } from 'node:tls'
import { appendAudit } from '../../gateway/audit/log.ts'
import type { Db } from '../../gateway/db/db.ts'
import { GatewayError } from '../../gateway/errors.ts'
import { openLog } from '../../gateway/log.ts'
import { type SignedCard, signCard } from '../../peers/card.ts'
import { type ClockWatch, openClockWatch } from '../../peers/clock.ts'
import type { ProxySettings } from '../../peers/connect-proxy.ts'
import type { DialOptions } from '../../peers/dial.ts'
import { openSiteKeys, type SiteKeys } from '../../peers/keys.ts'
import { openPairing, type Pairing } from '../../peers/pairing.ts'
import { pairPath } from '../../peers/pairing-client.ts'
import type { Peer } from '../../peers/peer.ts'
import { openPeers, type Peers } from '../../peers/registry.ts'
import { type FederationTls, openFederationTls } from '../../peers/tls.ts'
import { testDatabase } from './database.ts'

export interface TestSite {
  readonly name: string
  readonly url: string
  readonly port: number
  readonly db: Db
  readonly keys: SiteKeys
  readonly peers: Peers
  readonly clocks: ClockWatch
  readonly tls: FederationTls
  readonly server: Server
  readonly pairing: Pairing
  readonly card: () => SignedCard
  /** Bytes of HTTP requests that reached the handler. */
  readonly requests: string[]
  /** Opens pairing again over the same database and keys, as after a restart. */
  restartPairing(): Pairing
  /** Breaks the connection of a pairing step, before or after it is processed, when it returns true. */
  lose: ((step: string, when: 'before' | 'after') => boolean) | undefined
}

export interface SiteOptions {
  readonly name: string
  readonly clock?: () => number
  readonly proxy?: ProxySettings
  /** A site that cannot be reached announces no URL. */
  readonly isReachable?: boolean
}

export const silent = openLog({ level: 'silent' })

/**
 * Keys in a temporary directory. The n-th site of a test has the keys of the n-th site of every other
 * test of the file: making RSA keys takes longer than the rest of a test.
 */
export async function testKeys(t: TestContext, name: string, clock: () => number = Date.now): Promise<SiteKeys> {
  const place = made.get(t) ?? 0
  made.set(t, place + 1)
  templates[place] ??= makeTemplate()
  const dir = await mkdtemp(join(tmpdir(), 'hanse-site-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  await cp(await templates[place], dir, { recursive: true })
  return await openSiteKeys({ dir, siteName: name, hosts: ['localhost', '127.0.0.1'], clock })
}

const made = new WeakMap<TestContext, number>()
const templates: Promise<string>[] = []

async function makeTemplate(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'hanse-keys-'))
  await openSiteKeys({ dir, siteName: 'template', hosts: ['localhost', '127.0.0.1'] })
  return dir
}

after(async () => {
  for (const dir of await Promise.all(templates)) await rm(dir, { recursive: true, force: true })
})

export async function startSite(t: TestContext, options: SiteOptions): Promise<TestSite> {
  const { name, clock = Date.now, proxy, isReachable = true } = options
  const keys = await testKeys(t, name, clock)
  const db = await testDatabase(t)
  const peers = await openPeers({ db, appendAudit, log: silent, clock })
  t.after(() => peers.close())
  const clocks = openClockWatch({ notBefore: keys.validFrom, clock })
  const tls = openFederationTls({ keys, directory: peers, hosts: () => ['localhost', '127.0.0.1'], log: silent, clock })
  const server = createServer(tls.serverOptions())
  tls.attach(server)
  server.listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  const { port } = server.address() as AddressInfo
  const url = `https://127.0.0.1:${port}`
  t.after(async () => {
    tls.close()
    server.closeAllConnections()
    await new Promise(resolve => server.close(resolve))
  })
  const card = (): SignedCard => signCard(keys, { name, urls: isReachable ? [url] : [], created: clock() })
  const restartPairing = (): Pairing => openPairing({ db, keys, peers, card, appendAudit, clocks, proxy, clock })
  const site: TestSite = {
    name,
    url,
    port,
    db,
    keys,
    peers,
    clocks,
    tls,
    server,
    pairing: restartPairing(),
    card,
    requests: [],
    restartPairing,
    lose: undefined,
  }
  server.on('request', (request, response) => {
    serve(site, clock, request, response).catch(() => request.socket.destroy())
  })
  return site
}

/** Pairs two sites online and confirms on both sides; returns each one's row of the other. */
export async function pair(inviting: TestSite, joining: TestSite): Promise<{ joined: Peer; inviter: Peer }> {
  const { file } = await inviting.pairing.invite({ principal: 'admin' })
  const { peerId } = await joining.pairing.accept(file, { principal: 'admin' })
  const inviter = await joining.peers.confirm(peerId, { principal: 'admin' })
  const pending = inviting.peers.bySiteId(joining.keys.siteId)
  if (!pending) throw new Error('not paired')
  const joined = await inviting.peers.confirm(pending.id, { principal: 'admin' })
  return { joined, inviter }
}

/** How `from` would dial `to`, pinned as a peer would pin it. */
export function dialOptions(from: { keys: SiteKeys }, to: TestSite, changes: Partial<DialOptions> = {}): DialOptions {
  return {
    to: { id: to.keys.siteId, name: to.name, url: to.url },
    caCertificate: to.keys.caCertificate,
    credential: () => from.keys.tls(),
    ...changes,
  }
}

async function serve(
  site: TestSite,
  clock: () => number,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  site.requests.push(`${request.method} ${request.url}`)
  const identity = request.socket instanceof TLSSocket ? site.tls.identify(request.socket) : undefined
  if (identity === undefined) {
    request.socket.destroy()
    return
  }
  response.setHeader('date', new Date(clock()).toUTCString())
  if (request.url !== pairPath) {
    const who = identity.kind === 'peer' ? { peer: identity.peer.siteId, state: identity.peer.state } : identity
    response.end(JSON.stringify(who))
    return
  }
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk)
  const body = Buffer.concat(chunks)
  const step = String(JSON.parse(body.toString()).step)
  try {
    if (site.lose?.(step, 'before')) throw new Error('lost before')
    const answer = await site.pairing.answer(identity, body)
    if (site.lose?.(step, 'after')) throw new Error('lost after')
    response.end(answer)
  } catch (error) {
    if (!(error instanceof GatewayError)) throw error
    response.statusCode = error.meaning.http
    response.setHeader('content-type', 'application/problem+json')
    response.end(JSON.stringify({ code: error.code, detail: error.message }))
  }
}
