/** Peers: the sites this gateway exchanges with, and how a new one becomes one. */
import type { FastifyInstance } from 'fastify'
import type { SignedCard } from '../../../peers/card.ts'
import type { Pairing } from '../../../peers/pairing.ts'
import { stepContexts } from '../../../peers/pairing-messages.ts'
import type { Peer } from '../../../peers/peer.ts'
import type { Peers } from '../../../peers/registry.ts'
import {
  answers,
  array,
  date,
  input,
  nullableDate,
  nullableString,
  object,
  open,
  string,
  uuid,
  uuidParams,
} from './schema.ts'

/** What the routes need of peers and pairing. */
export interface PeerServices {
  readonly peers: Pick<Peers, 'find' | 'load' | 'confirm' | 'revoke' | 'rename' | 'changeUrl'>
  readonly pairing: Pairing
  /** Our own card as it is now. */
  readonly card: () => SignedCard
}

/** A file that one administrator hands to the other: JSON, opaque to this API. */
type Handover = Readonly<Record<string, unknown>>

const fileOf = (handover: Handover): Uint8Array => Buffer.from(JSON.stringify(handover))
const handoverOf = (file: Uint8Array): unknown => JSON.parse(Buffer.from(file).toString('utf8'))

/** A peer as people see it: no keys, the fingerprint of its authority only. */
const infoOf = (peer: Peer) => ({
  id: peer.id,
  siteId: peer.siteId,
  name: peer.name,
  state: peer.state,
  url: peer.url ?? null,
  caFingerprint: peer.caFingerprint.toString('hex'),
  sas: peer.sas ?? null,
  createdAt: peer.createdAt,
  confirmedAt: peer.confirmedAt ?? null,
  revokedAt: peer.revokedAt ?? null,
})

const tags = ['Peers']
const peer = object({
  id: uuid,
  siteId: string,
  name: string,
  state: { enum: ['pending', 'active', 'revoked'] },
  url: nullableString,
  caFingerprint: string,
  sas: nullableString,
  createdAt: date,
  confirmedAt: nullableDate,
  revokedAt: nullableDate,
})
const name = { ...string, minLength: 1, maxLength: 64 } as const
const pairingStep = object({
  peer,
  handover: { ...open, type: ['object', 'null'], description: 'To be given to the other site, in file-based pairing' },
})

/** Registers the routes. */
export function peerRoutes(app: FastifyInstance, { peers, pairing, card }: PeerServices): void {
  const step = async (peerId: string, handover?: Uint8Array) => ({
    peer: infoOf(await peers.load(peerId)),
    handover: handover === undefined ? null : handoverOf(handover),
  })

  app.get(
    '/peers',
    {
      schema: {
        tags,
        summary: 'All peers, revoked ones too',
        response: answers('Peers', object({ peers: array(peer) })),
      },
    },
    async () => ({ peers: (await peers.find()).map(infoOf) }),
  )

  app.get(
    '/peers/card',
    {
      schema: {
        tags,
        summary: "This site's own signed card, for those who verify what it delivers: hanse open --signer",
        response: answers('The card', open),
      },
    },
    async () => handoverOf(card().bytes),
  )

  app.get<{ Params: { id: string } }>(
    '/peers/:id',
    { schema: { tags, summary: 'One peer', params: uuidParams, response: answers('The peer', peer) } },
    async request => infoOf(await peers.load(request.params.id)),
  )

  app.patch<{ Params: { id: string }; Body: { name?: string; url?: string | null } }>(
    '/peers/:id',
    {
      schema: {
        tags,
        summary: 'Change our name for a peer, or where we reach it',
        params: uuidParams,
        body: input({ name, url: { type: ['string', 'null'], maxLength: 2048 } }),
        response: answers('The peer', peer),
      },
    },
    async request => {
      const by = { principal: request.principal.id }
      const { id } = request.params
      const { name, url } = request.body
      if (name !== undefined) await peers.rename(id, name, by)
      if (url !== undefined) await peers.changeUrl(id, url ?? undefined, by)
      return infoOf(await peers.load(id))
    },
  )

  app.post<{ Body: { validMinutes: number; name?: string } | null }>(
    '/peers/invitations',
    {
      schema: {
        tags,
        summary: 'Invite another site; the invitation is a secret to be handed over out of band',
        body: {
          ...input({ validMinutes: { type: 'integer', minimum: 1, maximum: 43_200, default: 1440 }, name }),
          type: ['object', 'null'],
        },
        response: answers('The invitation', object({ id: uuid, expiresAt: date, invitation: open })),
      },
    },
    async request => {
      const { validMinutes, name } = request.body ?? { validMinutes: 1440, name: undefined }
      const by = { principal: request.principal.id, name }
      const { id, expiresAt, file } = await pairing.invite({ ...by, lifetimeMs: validMinutes * 60_000 })
      return { id, expiresAt, invitation: handoverOf(file) }
    },
  )

  app.get(
    '/peers/invitations',
    {
      schema: {
        tags,
        summary: 'Our invitations, newest first',
        response: answers(
          'Invitations',
          object({
            invitations: array(
              object({ id: uuid, state: string, peer: nullableString, expiresAt: date, createdAt: date }),
            ),
          }),
        ),
      },
    },
    async () => ({
      invitations: (await pairing.find()).map(({ peer, ...rest }) => ({ ...rest, peer: peer ?? null })),
    }),
  )

  app.delete<{ Params: { id: string } }>(
    '/peers/invitations/:id',
    { schema: { tags, summary: 'Take back an invitation', params: uuidParams } },
    async (request, reply) => {
      await pairing.cancel(request.params.id, { principal: request.principal.id })
      return reply.code(204).send()
    },
  )

  app.post<{ Body: { invitation: Handover; name?: string; offline: boolean } }>(
    '/peers/accept',
    {
      schema: {
        tags,
        summary: 'Redeem another site’s invitation',
        body: input(
          {
            invitation: open,
            name,
            offline: { type: 'boolean', default: false, description: 'Pair by files, without a connection' },
          },
          ['invitation'],
        ),
        response: answers('The pending peer, or what to hand over', pairingStep),
      },
    },
    async request => {
      const { invitation, name, offline } = request.body
      const by = { principal: request.principal.id, name }
      if (!offline) return await step((await pairing.accept(fileOf(invitation), by)).peerId)
      const { peerId, answer } = await pairing.answerByFile(fileOf(invitation), by)
      return await step(peerId, answer)
    },
  )

  app.post<{ Body: { handover: Handover } }>(
    '/peers/handovers',
    {
      schema: {
        tags,
        summary: 'Take what the other site handed over in file-based pairing',
        body: input({ handover: open }, ['handover']),
        response: answers('The pending peer, or what to hand over next', pairingStep),
      },
    },
    async request => {
      const { handover } = request.body
      if (handover['payloadType'] !== stepContexts.answer) {
        return await step((await pairing.readAcknowledgement(fileOf(handover))).peerId)
      }
      const by = { principal: request.principal.id }
      const { peerId, acknowledgement } = await pairing.acceptAnswer(fileOf(handover), by)
      return await step(peerId, acknowledgement)
    },
  )

  app.post<{ Params: { id: string }; Body: { sas: string } }>(
    '/peers/:id/confirm',
    {
      schema: {
        tags,
        summary: 'Confirm a peer: both administrators have seen the same short authentication string',
        params: uuidParams,
        body: input({ sas: { ...string, minLength: 1, maxLength: 64 } }, ['sas']),
        response: answers('The active peer', peer),
      },
    },
    async request =>
      infoOf(await peers.confirm(request.params.id, { principal: request.principal.id, sas: request.body.sas })),
  )

  app.post<{ Params: { id: string }; Body: { reason?: string } | null }>(
    '/peers/:id/revoke',
    {
      schema: {
        tags,
        summary: 'Revoke a peer, at once and for good',
        params: uuidParams,
        body: { ...input({ reason: { ...string, maxLength: 200 } }), type: ['object', 'null'] },
        response: answers('The revoked peer', peer),
      },
    },
    async request => {
      const reason = request.body?.reason
      const by = { principal: request.principal.id, ...(reason !== undefined && { reason }) }
      return infoOf(await peers.revoke(request.params.id, by))
    },
  )
}
