/**
 * Pairing, the inviting site's side: invitations, the answers of `POST /x/1/pair`, answers by file.
 *
 * Online: commit -> offer -> reveal. The row of the invitation keeps what was answered, so a repeated
 * step gets the same bytes, and a second commitment, which would be a second guess at the short
 * authentication string, is refused. The joining site's part is in `join.ts`.
 */
import { randomBytes, randomUUID } from 'node:crypto'
import { fingerprint } from '../certs/ca.ts'
import { eventTypes, securityAlert } from '../gateway/audit/event.ts'
import type { Tx } from '../gateway/db/db.ts'
import { GatewayError, isGatewayError } from '../gateway/errors.ts'
import { checkName, openCard } from './card.ts'
import { type ExchangeRow, encodeExchange, type InviterExchange, lockExchange, saveExchange } from './exchange.ts'
import { invalid, type Paired, type PairingContext, type PairingOptions } from './pairing-context.ts'
import {
  decodeRequest,
  encodeAnswer,
  encodeInvitation,
  openStep,
  type PairAnswer,
  type PairRequest,
  type SignedStep,
  signAcknowledgement,
  signStep,
} from './pairing-messages.ts'
import { notify } from './registry.ts'
import { commitment, shortAuthenticationString } from './sas.ts'
import type { Identity } from './tls.ts'

/** An invitation as a list shows it. */
export interface InvitationSummary {
  readonly id: string
  readonly state: ExchangeRow['state'] | 'expired'
  readonly peer: string | undefined
  readonly expiresAt: Date
  readonly createdAt: Date
}

export interface Inviting {
  /** Makes an invitation; `file` is a secret to hand over. Valid for a week unless told. */
  invite(
    options: PairingOptions & { lifetimeMs?: number },
  ): Promise<{ readonly id: string; readonly file: Uint8Array; readonly expiresAt: Date }>
  cancel(id: string, by: { principal: string }): Promise<void>
  /** Our invitations, newest first. */
  find(): Promise<readonly InvitationSummary[]>
  /**
   * Answers `POST /x/1/pair`.
   *
   * @throws GatewayError PAIRING_INVALID, PAIRING_EXPIRED, PEER_CARD_INVALID, PEER_CLOCK_DRIFT
   */
  answer(identity: Identity, body: Uint8Array): Promise<Uint8Array>
  /** Takes an answer file; the acknowledgement may go back and is not needed for security. */
  acceptAnswer(file: Uint8Array, by: { principal: string }): Promise<Paired & { acknowledgement: Uint8Array }>
}

const dayMs = 86_400_000
const maxLifetimeMs = 30 * dayMs

/** Opens the inviting side. */
export function openInviting(context: PairingContext): Inviting {
  const { db, keys, peers, card, appendAudit, clocks, clock = Date.now, random = randomBytes } = context

  const audit = (tx: Tx, reason: string, principal: string, detail: Record<string, string>): Promise<void> =>
    appendAudit(
      tx,
      securityAlert({
        type: eventTypes.securityConfiguration,
        reason,
        participants: [{ userId: principal, requestor: true }],
        detail,
      }),
    )

  const redeem = async (
    tx: Tx,
    row: ExchangeRow,
    exchange: InviterExchange,
    step: SignedStep,
    sas: string,
    principal: string,
  ): Promise<string> => {
    if (step.card.card.siteId === keys.siteId) throw invalid('a site cannot be paired with itself')
    const peerId = randomUUID()
    await peers.add(tx, { id: peerId, card: step.card, sas, name: exchange.name }, principal)
    await saveExchange(tx, row.id, { state: 'redeemed', exchange, peer: peerId })
    return peerId
  }

  const offer = async (request: PairRequest & { step: 'commit' }): Promise<PairAnswer> => {
    const message = await db.inTransaction(async tx => {
      const { row, exchange } = await lockOpen(tx, request.invitation, clock())
      if (exchange.offer && exchange.commitment) {
        // Another commitment after our nonce is known would be another guess.
        if (!Buffer.from(request.commitment).equals(exchange.commitment)) throw invalid('another exchange has begun')
        return exchange.offer
      }
      const signed = signStep(
        'offer',
        {
          invitation: row.id,
          refersTo: Buffer.from(request.commitment).toString('hex'),
          card: card(),
          nonce: random(32),
          created: clock(),
        },
        keys,
      )
      const next: InviterExchange = { ...exchange, commitment: request.commitment, offer: signed }
      await saveExchange(tx, row.id, { state: 'started', exchange: next })
      await audit(tx, 'pairing-started', `invitation ${row.id}`, { invitation: row.id })
      return signed
    })
    return { step: 'offer', message }
  }

  const reveal = async (invitationId: string, message: Uint8Array): Promise<PairAnswer> => {
    const step = openStep('reveal', message, clock())
    if (step.invitation !== invitationId) throw invalid('the reveal is for another invitation')
    const joiner = { cardSha256: step.card.payloadSha256, nonce: step.nonce }
    await db.inTransaction(async tx => {
      const { row, exchange } = await lockOpen(tx, invitationId, clock())
      if (!exchange.offer || !exchange.commitment) throw invalid('expected a commitment first')
      const ours = openStep('offer', exchange.offer, clock())
      if (step.refersTo !== ours.payloadSha256) throw invalid('the reveal answers another offer')
      if (!commitment(invitationId, joiner).equals(exchange.commitment))
        throw invalid('the reveal is not what was committed to')
      const inviter = { cardSha256: ours.card.payloadSha256, nonce: ours.nonce }
      const sas = shortAuthenticationString('online', invitationId, inviter, joiner)
      await redeem(tx, row, exchange, step, sas, `invitation ${invitationId}`)
    })
    await peers.refresh()
    return { step: 'status', state: 'pending', cardSha256: step.card.payloadSha256 }
  }

  const respond = async (identity: Identity, request: PairRequest): Promise<PairAnswer> => {
    if (identity.kind === 'peer') {
      const { peer } = identity
      clocks.check(peer, request.time)
      if (request.step !== 'status' || peer.state === 'revoked') throw invalid('this site is paired already')
      return { step: 'status', state: peer.state, cardSha256: peer.cardSha256 }
    }
    clocks.check({ id: identity.id, name: 'the site that answers the invitation' }, request.time)
    if (request.step === 'reveal') return await reveal(identity.id, request.message)
    if (request.step === 'commit' && request.invitation === identity.id) return await offer(request)
    throw invalid('not a step of this invitation')
  }

  return {
    async invite({ principal, name, lifetimeMs = 7 * dayMs }) {
      checkName(name)
      if (lifetimeMs <= 0 || lifetimeMs > maxLifetimeMs) {
        throw new GatewayError('BAD_REQUEST', 'expected an invitation to be valid for at most 30 days')
      }
      const id = randomUUID()
      const ours = card()
      const credential = await keys.issueInvitation({ id, lifetimeMs })
      const expires = clock() + lifetimeMs
      const nonce = random(32)
      const url = ours.card.urls[0]
      const exchange: InviterExchange = { role: 'inviter', name, card: ours.bytes, nonce }
      await db.inTransaction(async tx => {
        await tx
          .insertInto('invitations')
          .values({
            id,
            certificate_fingerprint: fingerprint(credential.certificate),
            exchange: encodeExchange(exchange),
            expires_at: new Date(expires),
            created_at: new Date(clock()),
          })
          .execute()
        await audit(tx, 'invitation-created', principal, { invitation: id })
        await notify(tx)
      })
      await peers.refresh()
      const online = url === undefined ? undefined : { url, credential }
      return { id, file: encodeInvitation({ id, card: ours, nonce, expires, online }), expiresAt: new Date(expires) }
    },

    async cancel(id, { principal }) {
      await db.inTransaction(async tx => {
        const row = await lockExchange(tx, id)
        if (row?.exchange.role !== 'inviter') throw new GatewayError('NOT_FOUND', 'no such invitation')
        if (row.state === 'cancelled') return
        if (row.state === 'redeemed')
          throw new GatewayError('STATE_CONFLICT', 'redeemed already; revoke the peer instead')
        await saveExchange(tx, id, { state: 'cancelled', exchange: row.exchange })
        await audit(tx, 'invitation-cancelled', principal, { invitation: id })
        await notify(tx)
      })
      await peers.refresh()
    },

    async find() {
      const rows = await db.kysely.selectFrom('invitations').selectAll().orderBy('created_at', 'desc').execute()
      return rows
        .filter(row => isInviter(row.exchange))
        .map(row => ({
          id: row.id,
          state: row.state !== 'redeemed' && row.expires_at.getTime() <= clock() ? 'expired' : row.state,
          peer: row.peer ?? undefined,
          expiresAt: row.expires_at,
          createdAt: row.created_at,
        }))
    },

    async answer(identity, body) {
      try {
        return encodeAnswer(await respond(identity, decodeRequest(body)))
      } catch (error) {
        if (isGatewayError(error) && error.meaning.audit !== 'none') {
          const who = identity.kind === 'peer' ? identity.peer.siteId : `invitation ${identity.id}`
          await db.inTransaction(tx => audit(tx, error.code, who, { step: 'pairing-refused' }))
        }
        throw error
      }
    },

    async acceptAnswer(file, { principal }) {
      const step = openStep('answer', file, clock())
      const joiner = { cardSha256: step.card.payloadSha256, nonce: step.nonce }
      clocks.checkCreated({ id: step.card.card.siteId, name: step.card.card.name }, step.created)
      const peerId = await db.inTransaction(async tx => {
        const known = await lockExchange(tx, step.invitation)
        if (known?.exchange.role === 'inviter' && known.exchange.answer === step.payloadSha256 && known.peer)
          return known.peer
        const { row, exchange } = await lockOpen(tx, step.invitation, clock())
        const ours = openCard(exchange.card, clock())
        if (step.refersTo !== ours.payloadSha256) throw invalid('the answer is for another invitation')
        const inviter = { cardSha256: ours.payloadSha256, nonce: exchange.nonce }
        const sas = shortAuthenticationString('file', step.invitation, inviter, joiner)
        return await redeem(tx, row, { ...exchange, answer: step.payloadSha256 }, step, sas, principal)
      })
      await peers.refresh()
      const peer = await peers.load(peerId)
      const acknowledgement = signAcknowledgement(
        {
          invitation: step.invitation,
          answer: step.payloadSha256,
          state: peer.state === 'active' ? 'active' : 'pending',
          created: clock(),
        },
        keys,
      )
      return { peerId: peer.id, sas: peer.sas ?? '', acknowledgement }
    },
  }
}

/** Locks an invitation of ours that can still be redeemed. */
async function lockOpen(tx: Tx, id: string, now: number): Promise<{ row: ExchangeRow; exchange: InviterExchange }> {
  const row = await lockExchange(tx, id)
  if (row === undefined || row.exchange.role !== 'inviter') throw invalid('no such invitation')
  if (row.state === 'redeemed' || row.state === 'cancelled') throw invalid(`this invitation was ${row.state}`)
  if (row.expiresAt.getTime() <= now) throw new GatewayError('PAIRING_EXPIRED', 'this invitation has expired')
  return { row, exchange: row.exchange }
}

function isInviter(exchange: unknown): boolean {
  return typeof exchange === 'object' && exchange !== null && 'role' in exchange && exchange.role === 'inviter'
}
