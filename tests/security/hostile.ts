/**
 * A hostile client: a site that is paired like any other and then says what it likes, in whatever bytes
 * it likes, and strangers who only reach the port. Built from the parts that real peers use, below the
 * checks that real peers make.
 */
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { Agent, request } from 'node:https'
import { connect as connectTcp, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls'
import type { Credential } from '../../certs/ca.ts'
import { at, field, items } from '../../gateway/cli/answer.ts'
import { signCard } from '../../peers/card.ts'
import { openClockWatch } from '../../peers/clock.ts'
import { openSiteKeys, type SiteKeys } from '../../peers/keys.ts'
import type { Manifest } from '../../peers/manifest.ts'
import { askToPair } from '../../peers/pairing-client.ts'
import { decodeInvitation, openStep, signStep } from '../../peers/pairing-messages.ts'
import { formatDigestField } from '../../peers/range-digest.ts'
import { openReceipt, type Receipt } from '../../peers/receipt.ts'
import { commitment, shortAuthenticationString } from '../../peers/sas.ts'
import { onEnd } from '../support/cleanup.ts'
import type { BuiltInstance } from '../support/dicom-builder.ts'
import type { ProcessGateway } from '../support/process-gateway.ts'

/** A site of the attacker's own. */
export interface Hostile {
  readonly keys: SiteKeys
  /** Its row at the victim. */
  readonly peerId: string
}

/** What the attacked gateway is known by. */
export interface Victim {
  readonly gateway: ProcessGateway
  readonly siteId: string
  readonly caCertificate: string
  readonly signingKey: Uint8Array
}

/** Keys of a site that exists nowhere but here. */
export async function makeKeys(t: TestContext, name: string): Promise<SiteKeys> {
  const dir = await mkdtemp(join(tmpdir(), 'hanse-hostile-'))
  onEnd(t, () => rm(dir, { recursive: true, force: true }))
  return await openSiteKeys({ dir, siteName: name, hosts: ['127.0.0.1'] })
}

/** Makes the gateway invite somebody: what that site would be handed. */
export async function invite(gateway: ProcessGateway, name: string) {
  const { invitation } = await gateway.api('POST', '/api/v1/peers/invitations', { name })
  return decodeInvitation(Buffer.from(JSON.stringify(invitation)), Date.now())
}

/** Pairs with the gateway, whose administrator is asked to confirm with `sas`. */
export async function pairWith(
  gateway: ProcessGateway,
  keys: SiteKeys,
  name: string,
): Promise<{ victim: Victim; peerId: string; sas: string }> {
  const invitation = await invite(gateway, name)
  const { id, card: theirs, online } = invitation
  assert.ok(online)
  const ours = signCard(keys, { name, urls: [], created: Date.now() })
  const nonce = randomBytes(32)
  const promise = commitment(id, { cardSha256: ours.payloadSha256, nonce })
  const to = {
    to: { id: theirs.card.siteId, name: 'victim', url: online.url },
    caCertificate: theirs.card.caCertificate,
    credential: () => online.credential,
    clocks: openClockWatch({ notBefore: keys.validFrom }),
  }
  const answer = await askToPair(to, { step: 'commit', invitation: id, commitment: promise, time: Date.now() })
  assert.equal(answer.step, 'offer')
  const offer = openStep('offer', answer.step === 'offer' ? answer.message : new Uint8Array(), Date.now())
  const reveal = signStep(
    'reveal',
    { invitation: id, refersTo: offer.payloadSha256, card: ours, nonce, created: Date.now() },
    keys,
  )
  await askToPair(to, { step: 'reveal', message: reveal, time: Date.now() })
  const sas = shortAuthenticationString(
    'online',
    id,
    { cardSha256: offer.card.payloadSha256, nonce: offer.nonce },
    { cardSha256: ours.payloadSha256, nonce },
  )
  const peers = items(await gateway.api('GET', '/api/v1/peers'), 'peers')
  const peer = peers.find(found => field(found, 'siteId') === keys.siteId)
  const { siteId, caCertificate, signingKey } = theirs.card
  return { victim: { gateway, siteId, caCertificate, signingKey }, peerId: field(peer, 'id'), sas }
}

/** An answer, however it came about. */
export interface HostileAnswer {
  readonly status: number
  readonly body: Buffer
  /** Of a problem document. */
  readonly code: string
  readonly receipt: string | undefined
}

export interface HostileRequest {
  readonly method: string
  readonly path: string
  readonly body?: Uint8Array
  readonly headers?: Readonly<Record<string, string>>
}

/** A keep-alive agent that presents this certificate. */
export function agentOf(t: TestContext, victim: Victim, credential: Credential): Agent {
  const agent = new Agent({ keepAlive: true, ...trusting(victim, credential) })
  onEnd(t, () => agent.destroy())
  return agent
}

/** One request as written. */
export async function ask(victim: Victim, agent: Agent, question: HostileRequest): Promise<HostileAnswer> {
  const { method, path, body = new Uint8Array(), headers = {} } = question
  const { promise, resolve, reject } = Promise.withResolvers<HostileAnswer>()
  const sent = request(
    {
      host: '127.0.0.1',
      port: victim.gateway.ports.federation,
      method,
      path,
      agent,
      headers: { 'content-length': String(body.length), ...headers },
    },
    response => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk)).on('error', reject)
      response.on('end', () => resolve(toAnswer(response.statusCode ?? 0, Buffer.concat(chunks))))
    },
  )
  sent.on('error', reject).end(body)
  return await promise
}

function toAnswer(status: number, body: Buffer): HostileAnswer {
  const problem: unknown = status >= 400 ? JSON.parse(body.toString()) : undefined
  const receipt = at(problem, 'receipt')
  return {
    status,
    body,
    code: problem === undefined ? '' : field(problem, 'code'),
    receipt: typeof receipt === 'string' ? receipt : undefined,
  }
}

/** The refusal that an answer carries, verified as the site that it refuses would. */
export function refusalIn(answer: HostileAnswer, victim: Victim, to: SiteKeys, manifest: string): Receipt {
  assert.ok(answer.receipt, `a signed refusal with ${answer.code}`)
  const expected = { manifest, from: victim.siteId, to: to.siteId, keys: [victim.signingKey] }
  return openReceipt(Buffer.from(answer.receipt), expected).receipt
}

export const trusting = ({ caCertificate }: Victim, { certificate, key }: Credential): ConnectionOptions => ({
  ca: [caCertificate],
  cert: certificate,
  key,
})

/** What a stranger saw: bytes inside TLS, bytes on the wire, and how it ended. */
export interface Sighting {
  readonly inside: Buffer
  readonly wire: Buffer
  readonly error: string
}

const getSite = 'GET /x/1/site HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n'

/** Connects by TLS, asks for the site card, and waits until the other side hangs up. */
export async function knock(victim: Victim, options: ConnectionOptions, text = getSite): Promise<Sighting> {
  await using tap = await openTap(victim.gateway.ports.federation)
  const socket = connectTls({ port: tap.port, ca: [victim.caCertificate], host: '127.0.0.1', ...options })
  socket.on('secureConnect', () => socket.write(text))
  return { ...(await untilClosed(socket)), wire: Buffer.concat(tap.seen) }
}

/** A relay to a port that keeps what came back. */
async function openTap(toPort: number) {
  const seen: Buffer[] = []
  const server = createServer(near => {
    const far = connectTcp(toPort, '127.0.0.1')
    far.on('data', (chunk: Buffer) => {
      seen.push(chunk)
      near.write(chunk)
    })
    near.on('data', (chunk: Buffer) => far.write(chunk))
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      one.on('error', () => undefined).on('close', () => other.destroySoon())
    }
  })
  server.listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  const address = server.address()
  assert.ok(address && typeof address === 'object')
  return {
    port: address.port,
    seen,
    [Symbol.asyncDispose]: async () => {
      await new Promise(resolve => server.close(resolve))
    },
  }
}

/** Sends bytes by TCP and waits until the other side hangs up. */
export async function knockPlain(victim: Victim, bytes: string): Promise<Buffer> {
  const socket = connectTcp(victim.gateway.ports.federation, '127.0.0.1')
  const seen: Buffer[] = []
  socket.on('data', (chunk: Buffer) => seen.push(chunk)).on('error', () => undefined)
  const closed = new Promise<void>(resolve => socket.once('close', () => resolve()))
  socket.write(bytes)
  await closed
  return Buffer.concat(seen)
}

/** Resolves when the other side has closed the connection. */
export async function untilClosed(socket: TLSSocket): Promise<{ inside: Buffer; error: string }> {
  const inside: Buffer[] = []
  let error = ''
  socket.on('data', (chunk: Buffer) => inside.push(chunk))
  socket.on('error', cause => {
    error = 'code' in cause ? String(cause.code) : cause.message
  })
  await new Promise<void>(resolve => socket.once('close', () => resolve()))
  return { inside: Buffer.concat(inside), error }
}

/** A manifest of these instances, as an honest sender would write it. */
export function manifestOf(
  from: SiteKeys,
  victim: Victim,
  instances: readonly BuiltInstance[],
  change: Partial<Manifest> = {},
): Manifest {
  return {
    from: from.siteId,
    to: victim.siteId,
    created: new Date(),
    expires: new Date(Date.now() + 3_600_000),
    priority: 'normal',
    purpose: 'treatment',
    policy: { version: 1, sha256: 'ab'.repeat(32) },
    rule: 'all',
    profile: 'as-is',
    studies: [{ studyInstanceUid: instances[0]?.studyInstanceUid ?? '', instances: instances.length, basis: 'timer' }],
    objects: instances.map(objectOf),
    attachments: [],
    nonce: randomBytes(32).toString('base64'),
    ...change,
  }
}

/** One object of a manifest. */
export const objectOf = (instance: BuiltInstance): Manifest['objects'][number] => ({
  sopInstanceUid: instance.sopInstanceUid,
  sopClassUid: instance.sopClassUid,
  transferSyntaxUid: instance.transferSyntaxUid,
  study: 0,
  sizeBytes: instance.bytes.length,
  sha256: sha256(instance.bytes).toString('hex'),
})

export const sha256 = (bytes: Uint8Array): Buffer => createHash('sha256').update(bytes).digest()

/** The header that RFC 9530 wants. */
export const contentDigest = (bytes: Uint8Array): Record<string, string> => ({
  'content-digest': formatDigestField(sha256(bytes)),
})

/** A copy with one bit turned. */
export function flipped(bytes: Uint8Array, bit: number): Buffer {
  const copy = Buffer.from(bytes)
  copy[bit >> 3] = (copy[bit >> 3] ?? 0) ^ (1 << (bit & 7))
  return copy
}
