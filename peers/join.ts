/**
 * Pairing, the joining site's side: redeems an invitation online, or answers it with a file.
 *
 * What we send is stored before it is sent, and our nonce leaves only after the other site's offer is
 * stored: whoever could make us answer two offers with one nonce would have two guesses at the short
 * authentication string. `accept` with the same file goes on wherever an earlier call stopped.
 */
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { type Credential, fingerprint } from '../certs/ca.ts'
import { GatewayError, isGatewayError } from '../gateway/errors.ts'
import { checkName, openCard } from './card.ts'
import type { Destination } from './diagnosis.ts'
import { encodeExchange, type JoinerExchange, lockExchange, saveExchange } from './exchange.ts'
import { askToPair } from './pairing-client.ts'
import { invalid, type Paired, type PairingContext, type PairingOptions } from './pairing-context.ts'
import {
  decodeInvitation,
  type Invitation,
  openAcknowledgement,
  openStep,
  type PairStatus,
  type SignedStep,
  signStep,
} from './pairing-messages.ts'
import { commitment, shortAuthenticationString } from './sas.ts'

export interface Joining {
  /**
   * Redeems an invitation online; again with the same file after any failure.
   *
   * @throws GatewayError PAIRING_INVALID, PAIRING_EXPIRED, PEER_CARD_INVALID, PEER_CLOCK_DRIFT, and those of `dial`
   */
  accept(file: Uint8Array, options: PairingOptions): Promise<Paired>
  /** Answers an invitation with a file to hand back; the same file each time. */
  answerByFile(file: Uint8Array, options: PairingOptions): Promise<Paired & { readonly answer: Uint8Array }>
  /** Reads what came back: the other site took our answer, and whether it has confirmed it. */
  readAcknowledgement(file: Uint8Array): Promise<{ readonly peerId: string; readonly state: PairStatus['state'] }>
  /** Asks a reachable peer how it sees the pairing. */
  status(peerId: string): Promise<PairStatus>
}

/** Opens the joining side. */
export function openJoining(context: PairingContext): Joining {
  const { db, keys, peers, clock = Date.now, random = randomBytes } = context

  /** The invitation, and our part of its exchange: stored at the first call, the same ever after. */
  const begin = async (
    file: Uint8Array,
    mode: JoinerExchange['mode'],
    name: string | undefined,
  ): Promise<{ invitation: Invitation; exchange: JoinerExchange; peer: string | undefined }> => {
    checkName(name)
    const invitation = decodeInvitation(file, clock())
    const { id, card, expires, online } = invitation
    if (card.card.siteId === keys.siteId) throw invalid('this invitation is our own')
    const known = await db.inTransaction(async tx => {
      const row = await lockExchange(tx, id)
      if (row) return row
      if (peers.bySiteId(card.card.siteId)) throw invalid(`${card.card.name} is paired already; revoke it first`)
      if (expires <= clock())
        throw new GatewayError('PAIRING_EXPIRED', 'this invitation has expired; ask for a new one')
      const exchange: JoinerExchange = { role: 'joiner', mode, name, card: context.card().bytes, nonce: random(32) }
      const proof = online ? fingerprint(online.credential.certificate) : createHash('sha256').update(file).digest()
      await tx
        .insertInto('invitations')
        .values({
          id,
          certificate_fingerprint: proof,
          state: 'started',
          exchange: encodeExchange(exchange),
          expires_at: new Date(expires),
          created_at: new Date(clock()),
        })
        .execute()
      return { exchange, peer: undefined }
    })
    if (known.exchange.role !== 'joiner') throw invalid('this invitation is our own')
    if (known.exchange.mode !== mode)
      throw invalid(`this invitation was begun ${known.exchange.mode === 'file' ? 'by file' : 'online'}`)
    return { invitation, exchange: known.exchange, peer: known.peer }
  }

  /** Stores our signed message; of two calls at once, the first one's stands. */
  const keep = async (id: string, change: (exchange: JoinerExchange) => JoinerExchange): Promise<JoinerExchange> =>
    await db.inTransaction(async tx => {
      const row = await lockExchange(tx, id)
      if (row?.exchange.role !== 'joiner') throw invalid('no such invitation')
      const exchange = change(row.exchange)
      await saveExchange(tx, id, { state: row.state, exchange })
      return exchange
    })

  const finish = async (
    invitation: Invitation,
    inviter: Pick<SignedStep, 'card' | 'nonce'>,
    exchange: JoinerExchange,
    principal: string,
  ): Promise<Paired> => {
    const { id } = invitation
    const joiner = { cardSha256: openCard(exchange.card, clock()).payloadSha256, nonce: exchange.nonce }
    const contribution = { cardSha256: inviter.card.payloadSha256, nonce: inviter.nonce }
    const sas = shortAuthenticationString(exchange.mode, id, contribution, joiner)
    const peerId = await db.inTransaction(async tx => {
      const row = await lockExchange(tx, id)
      if (row?.peer) return row.peer
      const added = randomUUID()
      await peers.add(tx, { id: added, card: inviter.card, sas, name: exchange.name }, principal)
      await saveExchange(tx, id, { state: 'redeemed', exchange, peer: added })
      return added
    })
    await peers.refresh()
    return await paired(peerId)
  }

  const paired = async (peerId: string): Promise<Paired> => {
    const peer = await peers.load(peerId)
    return { peerId: peer.id, sas: peer.sas ?? '' }
  }

  const ask = (to: Destination, caCertificate: string, credential: Credential) => ({
    ...context,
    to,
    caCertificate,
    credential: () => credential,
  })

  return {
    async accept(file, { principal, name }) {
      const { invitation, exchange: begun, peer } = await begin(file, 'online', name)
      if (peer !== undefined) return await paired(peer)
      const { id, card, online } = invitation
      if (online === undefined) throw invalid('this site cannot be reached by its invitation; answer it by file')
      const to = { id: card.card.siteId, name: card.card.name, url: online.url }
      const asInvited = ask(to, card.card.caCertificate, online.credential)
      const ours = openCard(begun.card, clock())

      let exchange = begun
      if (exchange.offer === undefined) {
        const promise = commitment(id, { cardSha256: ours.payloadSha256, nonce: exchange.nonce })
        const answer = await askToPair(asInvited, {
          step: 'commit',
          invitation: id,
          commitment: promise,
          time: clock(),
        })
        if (answer.step !== 'offer') throw invalid('expected an offer')
        const offer = checkOffer(answer.message, invitation, promise)
        context.clocks.checkCreated(to, offer.created)
        const reveal = signStep(
          'reveal',
          { invitation: id, refersTo: offer.payloadSha256, card: ours, nonce: exchange.nonce, created: clock() },
          keys,
        )
        exchange = await keep(id, stored => (stored.offer ? stored : { ...stored, offer: answer.message, reveal }))
      }
      if (exchange.offer === undefined || exchange.reveal === undefined) throw invalid('the exchange is damaged')
      const offer = openStep('offer', exchange.offer, clock())
      const asOurselves = ask(to, card.card.caCertificate, keys.tls())
      const result = await askToPair(asInvited, { step: 'reveal', message: exchange.reveal, time: clock() }).catch(
        // An answer was lost, now or by an earlier call that used up the credential: then we are known by now.
        async (error: unknown) => {
          if (!isGatewayError(error, 'PEER_UNREACHABLE') && !isGatewayError(error, 'PEER_UNKNOWN')) throw error
          const status = askToPair(asOurselves, { step: 'status', time: clock() })
          return await status.catch(() => Promise.reject(error))
        },
      )
      if (result.step !== 'status' || result.cardSha256 !== ours.payloadSha256)
        throw invalid(`${to.name} has this site paired already, by another invitation; have it revoke that first`)
      return await finish(invitation, offer, exchange, principal)
    },

    async answerByFile(file, { principal, name }) {
      const { invitation, exchange: begun } = await begin(file, 'file', name)
      const { id, card, nonce } = invitation
      const exchange = await keep(id, stored => {
        if (stored.answer) return stored
        const step = {
          invitation: id,
          refersTo: card.payloadSha256,
          card: openCard(begun.card, clock()),
          nonce: begun.nonce,
          created: clock(),
        }
        return { ...stored, answer: signStep('answer', step, keys) }
      })
      const result = await finish(invitation, { card, nonce }, exchange, principal)
      return { ...result, answer: exchange.answer ?? new Uint8Array() }
    },

    async readAcknowledgement(file) {
      const answered = await findAnswered(context)
      for (const { peer, answerSha256, invitation } of answered) {
        const known = await peers.load(peer)
        try {
          const message = openAcknowledgement(file, known.signingKey)
          if (message.invitation === invitation && message.answer === answerSha256)
            return { peerId: peer, state: message.state }
        } catch (error) {
          if (!isGatewayError(error, 'PAIRING_INVALID')) throw error
        }
      }
      throw invalid('this acknowledges no answer of ours')
    },

    async status(peerId) {
      const peer = await peers.load(peerId)
      if (peer.url === undefined) throw new GatewayError('STATE_CONFLICT', `${peer.name} cannot be reached from here`)
      const to = { id: peer.id, name: peer.name, url: peer.url }
      const answer = await askToPair(ask(to, peer.caCertificate, keys.tls()), { step: 'status', time: clock() })
      if (answer.step !== 'status') throw invalid('expected a status')
      return { state: answer.state, cardSha256: answer.cardSha256 }
    },
  }

  /** The offer must come from the site that invited us, and answer our commitment. */
  function checkOffer(message: Uint8Array, invitation: Invitation, promise: Buffer) {
    const offer = openStep('offer', message, clock())
    const [offered, invited] = [offer.card.card, invitation.card.card]
    const isSame =
      offered.siteId === invited.siteId &&
      offered.caFingerprint.equals(invited.caFingerprint) &&
      Buffer.from(offered.signingKey).equals(invited.signingKey)
    if (!isSame) throw invalid('the offer comes from another site than the invitation')
    if (offer.invitation !== invitation.id || offer.refersTo !== promise.toString('hex'))
      throw invalid('the offer answers something else')
    return offer
  }
}

/** Our answers by file, with the digest by which they are acknowledged. */
async function findAnswered(
  context: PairingContext,
): Promise<readonly { invitation: string; peer: string; answerSha256: string }[]> {
  const { db, clock = Date.now } = context
  const rows = await db.kysely.selectFrom('invitations').select('id').where('peer', 'is not', null).execute()
  const answered = []
  for (const { id } of rows) {
    const row = await db.inTransaction(tx => lockExchange(tx, id))
    if (row?.exchange.role !== 'joiner' || row.exchange.answer === undefined || row.peer === undefined) continue
    const { payloadSha256 } = openStep('answer', row.exchange.answer, clock())
    answered.push({ invitation: id, peer: row.peer, answerSha256: payloadSha256 })
  }
  return answered
}
