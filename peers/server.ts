/**
 * The federation listener: what peers may ask for, over TLS 1.3 with their certificate, below /x/1/
 * and nothing else (`PROTOCOL.md` §Verbs). It translates between HTTP and the inbound service.
 */
import { createHash } from 'node:crypto'
import { createServer, type Server } from 'node:https'
import type { AddressInfo } from 'node:net'
import { TLSSocket } from 'node:tls'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { errorLine, GatewayError } from '../gateway/errors.ts'
import type { Log } from '../gateway/log.ts'
import { type Inbound, offeredId } from '../gateway/services/inbound.ts'
import type { TransferPeer } from '../gateway/services/inbound-context.ts'
import { createBufferPool } from './buffer-pool.ts'
import { createByteBudget } from './byte-budget.ts'
import { maxCancelBytes } from './cancel.ts'
import { leafBytes, maxRangeLeaves, parseRun } from './leaves.ts'
import { isManifestId, maxOfferBytes } from './manifest.ts'
import { encodeOfferState, type OfferState } from './offer-state.ts'
import type { Peer } from './peer.ts'
import { parseDigestField, rangeDigestField } from './range-digest.ts'
import { maxRecallBytes } from './recall.ts'
import { createRefusalLimit } from './refusal-limit.ts'
import { announcedBytes, readBody, readInto } from './server-body.ts'
import { sendProblem, toGatewayError } from './server-problem.ts'
import type { FederationTls, Identity } from './tls.ts'

/** What the listener serves. */
export interface FederationParts {
  readonly tls: FederationTls
  readonly inbound: Inbound
  /** The site card as signed now. */
  readonly siteCard: () => Uint8Array
  /** Pairing's side of `POST /x/1/pair`: a message in, a message out. */
  readonly pair: (caller: Identity, message: Uint8Array) => Promise<Uint8Array>
  /** Answers signed recalls with signed answers. */
  readonly recall: (peer: TransferPeer, manifestId: string, envelope: Uint8Array) => Promise<Uint8Array>
  readonly log: Log
  readonly clock?: () => Date
}

/** A listening federation server. */
export interface Federation {
  readonly address: AddressInfo
  /** Stops listening and ends connections; ranges that are not acknowledged are sent again. */
  close(): Promise<void>
}

/** Ranges that our own sender makes find a buffer ready. */
const pooledBytes = (maxRangeLeaves / 2) * leafBytes
const maxPairBytes = 256 * 1024
const maxProbeBytes = 1024 * 1024
const maxWaitSeconds = 60
/** Strangers in their handshake included: file descriptors are also what the store and the database need. */
const maxConnections = 500
/** Of one peer; far beyond what an honest one collects. */
const refusalsPerMinute = 600
/** Bodies in memory: of all peers together, of one peer. */
const budgetBytes = 64 * 1024 * 1024
const peerBudgetBytes = 32 * 1024 * 1024
const requestTimeoutMs = 300_000

/** Starts the listener; port 0 takes a free one. */
export async function openFederation(parts: FederationParts & { host: string; port: number }): Promise<Federation> {
  const { tls, host, port } = parts
  const options = tls.serverOptions()
  const app = Fastify({
    logger: false,
    // Long enough for a range of one leaf, or a large offer, over the slowest line worth having.
    requestTimeout: requestTimeoutMs,
    keepAliveTimeout: 75_000,
    forceCloseConnections: true,
    serverFactory: (handler): Server => {
      const server = createServer({ ...options, headersTimeout: 20_000, maxHeaderSize: 16_384, noDelay: true }, handler)
      server.requestTimeout = requestTimeoutMs
      server.keepAliveTimeout = 75_000
      server.maxConnections = maxConnections
      tls.attach(server)
      return server
    },
  })
  federationRoutes(app, parts)
  await app.listen({ host, port })
  const address = app.server.address()
  if (address === null || typeof address === 'string') throw new Error('expected a TCP address')
  return { address, close: () => app.close() }
}

function federationRoutes(app: FastifyInstance, parts: FederationParts): void {
  const { tls, inbound, log, clock = () => new Date() } = parts
  const budget = createByteBudget({ totalBytes: budgetBytes, perPeerBytes: peerBudgetBytes, waitMs: 10_000 })
  const buffers = createBufferPool(pooledBytes, budgetBytes / pooledBytes)

  const refusals = createRefusalLimit(refusalsPerMinute)

  // Bodies are read by the handlers: they know how large one may be, and where it goes.
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', (_request, _payload, done) => done(null))

  const identify = (request: FastifyRequest): Identity | undefined =>
    request.raw.socket instanceof TLSSocket ? tls.identify(request.raw.socket) : undefined
  const peerOf = (request: FastifyRequest): TransferPeer => {
    const caller = identify(request)
    if (caller?.kind !== 'peer') throw new GatewayError('NOT_FOUND', 'not found')
    if (caller.peer.state !== 'active') {
      throw new GatewayError('PEER_PENDING', 'expected both administrators to have confirmed the pairing')
    }
    refusals.check(caller.peer.id)
    return toTransferPeer(caller.peer)
  }
  const sendState = (reply: FastifyReply, peer: TransferPeer, state: OfferState): FastifyReply =>
    reply
      .type('application/json')
      .send(JSON.stringify(encodeOfferState({ ...state, creditBytes: budget.credit(peer.id) })))

  // A certificate that was revoked since the handshake gets no answer either.
  app.addHook('onRequest', async request => {
    if (!identify(request)) request.raw.socket.destroy()
  })
  app.setErrorHandler(async (cause, request, reply) => {
    const error = toGatewayError(cause)
    if (error.message === 'internal error') {
      log.error({ part: 'federation', verb: request.method, error: errorLine(cause) }, 'request failed')
    }
    return await sendProblem(reply, error)
  })
  app.setNotFoundHandler(
    async (_request, reply) => await sendProblem(reply, new GatewayError('NOT_FOUND', 'not found')),
  )

  app.get('/x/1/site', async (request, reply) => {
    peerOf(request)
    return reply.type('application/json').send(Buffer.from(parts.siteCard()))
  })

  app.post('/x/1/pair', async (request, reply) => {
    const caller = identify(request)
    if (!caller) throw new GatewayError('NOT_FOUND', 'not found')
    const answer = await parts.pair(caller, await readBody(request.raw, maxPairBytes))
    return reply.type('application/json').send(Buffer.from(answer))
  })

  app.post('/x/1/probe', async (request, reply) => {
    peerOf(request)
    const started = performance.now()
    const body = await readBody(request.raw, maxProbeBytes)
    const elapsedMs = Math.round(performance.now() - started)
    return reply
      .type('application/json')
      .send(JSON.stringify({ time: clock().toISOString(), receivedBytes: body.length, elapsedMs }))
  })

  app.post('/x/1/offers', async (request, reply) => {
    const peer = peerOf(request)
    const bytes = announcedBytes(request.raw)
    if (bytes === undefined) throw new GatewayError('BAD_REQUEST', 'expected a Content-Length')
    if (bytes > maxOfferBytes) {
      // Not read, so it has no name that a signed refusal could be about.
      refusals.count(peer.id)
      await inbound.auditRefusal(peer, { manifestId: '', code: 'MANIFEST_LIMIT' })
      throw new GatewayError('MANIFEST_LIMIT', `expected at most ${maxOfferBytes} bytes, got ${bytes}`)
    }
    const release = await budget.take(peer.id, bytes, gone(reply))
    try {
      const offer = await readBody(request.raw, maxOfferBytes)
      try {
        return sendState(reply, peer, await inbound.offer(peer, offer))
      } catch (cause) {
        const error = toGatewayError(cause)
        refusals.count(peer.id)
        const receipt = await inbound.recordRefusal(peer, { manifestId: offeredId(offer), code: error.code })
        log.warn({ part: 'federation', peer: peer.name, code: error.code }, `offer refused: ${error.message}`)
        return await sendProblem(reply, error, receipt)
      }
    } finally {
      release()
    }
  })

  app.get<OfferRoute & { Querystring: { wait?: string; state?: string } }>(
    '/x/1/offers/:id',
    async (request, reply) => {
      const peer = peerOf(request)
      const { wait = '0', state } = request.query
      const waitMs = Math.min(maxWaitSeconds, /^\d{1,4}$/.test(wait) ? Number(wait) : 0) * 1000
      const id = offerId(request)
      return sendState(reply, peer, await inbound.waitForChange(peer, id, { waitMs, from: state }, gone(reply)))
    },
  )

  app.put<OfferRoute & { Params: { range: string } }>('/x/1/offers/:id/leaves/:range', async (request, reply) => {
    const peer = peerOf(request)
    const id = offerId(request)
    try {
      const rangeDigest = parseDigestField(request.headers[rangeDigestField])
      const contentDigest = parseDigestField(request.headers['content-digest'])
      if (!rangeDigest && !contentDigest) {
        throw new GatewayError('CHUNK_DIGEST', 'expected a Hanse-Range-Digest or Content-Digest with sha-256')
      }
      const range = await inbound.openRange(peer, id, leafCount => parseRun(request.params.range, leafCount))
      const expected = range.map.runBytes(range.run)
      const announced = announcedBytes(request.raw)
      if (announced !== expected) {
        throw new GatewayError(
          'CHUNK_RANGE',
          `expected ${expected} bytes for these leaves, got ${announced ?? 'no length'}`,
        )
      }
      const release = await budget.take(peer.id, expected, gone(reply))
      const buffer = buffers.take(expected)
      try {
        const body = buffer.subarray(0, expected)
        const hash = contentDigest && createHash('sha256')
        await readInto(request.raw, body, hash)
        if (contentDigest && !hash?.digest().equals(contentDigest)) throw digestMismatch()
        await inbound.receiveRange(range, body, rangeDigest)
      } finally {
        buffers.give(buffer)
        release()
      }
      return reply.header('hanse-credit', budget.credit(peer.id)).status(204).send()
    } catch (cause) {
      const error = toGatewayError(cause)
      if (!error.code.startsWith('CHUNK_')) throw error
      refusals.count(peer.id)
      const receipt = await inbound.recordRefusal(peer, {
        manifestId: id,
        code: error.code,
        range: shownRange(request.params.range),
      })
      log.warn({ part: 'federation', peer: peer.name, code: error.code }, `range refused: ${error.message}`)
      return await sendProblem(reply, error, receipt)
    }
  })

  app.post<OfferRoute>('/x/1/offers/:id/commit', async (request, reply) => {
    const peer = peerOf(request)
    reply.status(202)
    return sendState(reply, peer, await inbound.commit(peer, offerId(request)))
  })

  app.post<OfferRoute>('/x/1/offers/:id/cancel', async (request, reply) => {
    const peer = peerOf(request)
    const id = offerId(request)
    const envelope = await readBody(request.raw, maxCancelBytes)
    try {
      return sendState(reply, peer, await inbound.cancel(peer, id, envelope))
    } catch (cause) {
      const error = toGatewayError(cause)
      // Recorded and not signed: a refusal of its cancellation is no end of the transfer.
      refusals.count(peer.id)
      await inbound.auditRefusal(peer, { manifestId: id, code: error.code })
      throw error
    }
  })

  app.post<OfferRoute>('/x/1/offers/:id/recall', async (request, reply) => {
    const peer = peerOf(request)
    const id = offerId(request)
    const envelope = await readBody(request.raw, maxRecallBytes)
    try {
      return reply.type('application/json').send(Buffer.from(await parts.recall(peer, id, envelope)))
    } catch (cause) {
      const error = toGatewayError(cause)
      refusals.count(peer.id)
      await inbound.auditRefusal(peer, { manifestId: id, code: error.code })
      throw error
    }
  })

  app.get<OfferRoute>('/x/1/offers/:id/receipts', async (request, reply) => {
    const peer = peerOf(request)
    const { receipts } = await inbound.state(peer, offerId(request))
    const texts = receipts.map(envelope => new TextDecoder().decode(envelope))
    return reply.type('application/json').send(JSON.stringify({ receipts: texts }))
  })
}

interface OfferRoute {
  Params: { id: string }
}

function offerId(request: FastifyRequest<OfferRoute>): string {
  const { id } = request.params
  if (!isManifestId(id)) throw new GatewayError('NOT_FOUND', 'no such offer')
  return id
}

/** Aborts when the caller has its answer or has gone. The request's own 'close' comes with the end of its body. */
function gone(reply: FastifyReply): AbortSignal {
  const controller = new AbortController()
  reply.raw.once('close', () => controller.abort())
  return controller.signal
}

const digestMismatch = (): GatewayError =>
  new GatewayError('CHUNK_DIGEST', 'the bytes do not have the digest they came with')

/** The range as it may be repeated in a signed answer. */
const shownRange = (text: string): string => (/^\d{1,10}-\d{1,10}$/.test(text) ? text : '0-0')

function toTransferPeer(peer: Peer): TransferPeer {
  return { id: peer.id, siteId: peer.siteId, name: peer.name, signingKeys: [peer.signingKey] }
}
