/** Peers: the sites this gateway exchanges with, and how a new one becomes one. */
import type { FastifyInstance } from 'fastify'
import type { Principal } from '../../principal.ts'
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

/** A peer as people see it. */
export interface PeerInfo {
  readonly id: string
  readonly siteId: string
  readonly name: string
  readonly state: 'pending' | 'active' | 'revoked'
  /** Origin at which we reach it; null when it only dials out. */
  readonly url: string | null
  /** Hex SHA-256 of its certificate authority. */
  readonly caFingerprint: string
  /** Short authentication string of its pairing, shown until it is confirmed. */
  readonly sas: string | null
  readonly createdAt: Date
  readonly confirmedAt: Date | null
  readonly revokedAt: Date | null
}

/** What one side hands to the other, out of band or as a file. */
export type Handover = Readonly<Record<string, unknown>>

/** A step of pairing: `handover` goes to the other site where it could not be reached online. */
export interface PairingStep {
  readonly peer: PeerInfo | undefined
  readonly handover: Handover | undefined
}

export interface PeerService {
  list(): Promise<readonly PeerInfo[]>
  /** @throws GatewayError NOT_FOUND */
  load(id: string): Promise<PeerInfo>
  /** Makes an invitation that another site redeems once. */
  invite(
    principal: Principal,
    options: { readonly validMs: number; readonly name?: string },
  ): Promise<{ readonly id: string; readonly expiresAt: Date; readonly invitation: Handover }>
  /** Redeems an invitation: online where the inviter can be reached, else with a handover. */
  accept(
    principal: Principal,
    invitation: Handover,
    options: { readonly name?: string; readonly offline: boolean },
  ): Promise<PairingStep>
  /** Takes what the other site handed over in file-based pairing. */
  take(principal: Principal, handover: Handover): Promise<PairingStep>
  /** Makes a pending peer active. @throws GatewayError PAIRING_INVALID when the string is not the peer's */
  confirm(principal: Principal, id: string, sas: string): Promise<PeerInfo>
  /** Ends all trust in a peer, at once and for good. */
  revoke(principal: Principal, id: string, reason: string | undefined): Promise<PeerInfo>
  change(
    principal: Principal,
    id: string,
    change: { readonly name?: string; readonly url?: string | null },
  ): Promise<PeerInfo>
}

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
const step = object({
  peer: { ...peer, nullable: true },
  handover: { ...open, nullable: true, description: 'To be given to the other site, where it could not be reached' },
})
const nextStep = ({ peer, handover }: PairingStep) => ({ peer: peer ?? null, handover: handover ?? null })

/** Registers the routes. */
export function peerRoutes(app: FastifyInstance, peers: PeerService): void {
  app.get(
    '/peers',
    {
      schema: {
        tags,
        summary: 'All peers, revoked ones too',
        response: answers('Peers', object({ peers: array(peer) })),
      },
    },
    async () => ({ peers: await peers.list() }),
  )

  app.get<{ Params: { id: string } }>(
    '/peers/:id',
    { schema: { tags, summary: 'One peer', params: uuidParams, response: answers('The peer', peer) } },
    async request => await peers.load(request.params.id),
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
    async request => await peers.change(request.principal, request.params.id, request.body),
  )

  app.post<{ Body: { validMinutes: number; name?: string } }>(
    '/peers/invitations',
    {
      schema: {
        tags,
        summary: 'Invite another site; the invitation is a secret to be handed over out of band',
        body: input({ validMinutes: { type: 'integer', minimum: 1, maximum: 43_200, default: 1440 }, name }),
        response: answers('The invitation', object({ id: uuid, expiresAt: date, invitation: open })),
      },
    },
    async request => {
      const { validMinutes, name } = request.body
      return await peers.invite(request.principal, { validMs: validMinutes * 60_000, ...(name && { name }) })
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
        response: answers('The pending peer, or what to hand over', step),
      },
    },
    async request => {
      const { invitation, name, offline } = request.body
      return nextStep(await peers.accept(request.principal, invitation, { offline, ...(name && { name }) }))
    },
  )

  app.post<{ Body: { handover: Handover } }>(
    '/peers/handovers',
    {
      schema: {
        tags,
        summary: 'Take what the other site handed over in file-based pairing',
        body: input({ handover: open }, ['handover']),
        response: answers('The pending peer, or what to hand over next', step),
      },
    },
    async request => nextStep(await peers.take(request.principal, request.body.handover)),
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
    async request => await peers.confirm(request.principal, request.params.id, request.body.sas),
  )

  app.post<{ Params: { id: string }; Body: { reason?: string } | null }>(
    '/peers/:id/revoke',
    {
      schema: {
        tags,
        summary: 'Revoke a peer, at once and for good',
        params: uuidParams,
        body: { type: ['object', 'null'], properties: { reason: { ...string, maxLength: 200 } } },
        response: answers('The revoked peer', peer),
      },
    },
    async request => await peers.revoke(request.principal, request.params.id, request.body?.reason),
  )
}
