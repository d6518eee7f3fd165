/** Peers and pairing as administrators use them: JSON documents in and out, a principal in every call. */
import type { Pairing } from '../../peers/pairing.ts'
import type { Peer } from '../../peers/peer.ts'
import type { Peers } from '../../peers/registry.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'

/** A peer as people see it; absent values are null, as in JSON. */
export interface PeerView {
  readonly id: string
  readonly siteId: string
  readonly name: string
  readonly state: Peer['state']
  readonly url: string | null
  /** Hex SHA-256 of its CA certificate. */
  readonly caFingerprint: string
  readonly sas: string | null
  readonly createdAt: Date
  readonly confirmedAt: Date | null
  readonly revokedAt: Date | null
}

/** A file of pairing, parsed. */
export type Handover = Readonly<Record<string, unknown>>

/** A peer that pairing found, and what to hand to the other site. */
export interface PeeringStep {
  readonly peer: PeerView
  readonly handover: Handover | undefined
}

export interface Peering {
  list(): Promise<readonly PeerView[]>
  /** @throws GatewayError NOT_FOUND */
  load(id: string): Promise<PeerView>
  invite(
    principal: Principal,
    options: { readonly validMs: number; readonly name?: string },
  ): Promise<{ readonly id: string; readonly expiresAt: Date; readonly invitation: Handover }>
  /** Redeems an invitation online, or answers it with a file. */
  accept(
    principal: Principal,
    invitation: Handover,
    options: { readonly name?: string; readonly offline: boolean },
  ): Promise<PeeringStep>
  /** Takes an answer file, or the acknowledgement of ours. @throws GatewayError PAIRING_INVALID */
  take(principal: Principal, handover: Handover): Promise<PeeringStep>
  /** `sas` is what the other site shows. @throws GatewayError PAIRING_INVALID when it is not ours */
  confirm(principal: Principal, id: string, sas: string): Promise<PeerView>
  revoke(principal: Principal, id: string, reason: string | undefined): Promise<PeerView>
  change(
    principal: Principal,
    id: string,
    change: { readonly name?: string; readonly url?: string | null },
  ): Promise<PeerView>
}

/** Opens the service; it holds nothing that must be closed. */
export function openPeering({ peers, pairing }: { peers: Peers; pairing: Pairing }): Peering {
  const view = async (id: string): Promise<PeerView> => toView(await peers.load(id))
  return {
    list: async () => (await peers.find()).map(toView),
    load: view,

    async invite(principal, { validMs, name }) {
      const { id, expiresAt, file } = await pairing.invite({ principal: principal.id, name, lifetimeMs: validMs })
      return { id, expiresAt, invitation: parse(file) }
    },

    async accept(principal, invitation, { name, offline }) {
      const options = { principal: principal.id, name }
      if (!offline) {
        const { peerId } = await pairing.accept(encode(invitation), options)
        return { peer: await view(peerId), handover: undefined }
      }
      const { peerId, answer } = await pairing.answerByFile(encode(invitation), options)
      return { peer: await view(peerId), handover: parse(answer) }
    },

    async take(principal, handover) {
      const kind = handover['payloadType']
      if (kind === 'application/vnd.hanse.pairing-answer.v1+json') {
        const { peerId, acknowledgement } = await pairing.acceptAnswer(encode(handover), { principal: principal.id })
        return { peer: await view(peerId), handover: parse(acknowledgement) }
      }
      if (kind === 'application/vnd.hanse.pairing-acknowledgement.v1+json') {
        const { peerId } = await pairing.readAcknowledgement(encode(handover))
        return { peer: await view(peerId), handover: undefined }
      }
      throw new GatewayError('PAIRING_INVALID', 'expected the answer to an invitation, or its acknowledgement')
    },

    confirm: async (principal, id, sas) => toView(await peers.confirm(id, { principal: principal.id, sas })),
    revoke: async (principal, id, reason) =>
      toView(await peers.revoke(id, { principal: principal.id, ...(reason !== undefined && { reason }) })),

    async change(principal, id, { name, url }) {
      const by = { principal: principal.id }
      if (name !== undefined) await peers.rename(id, name, by)
      if (url !== undefined) await peers.changeUrl(id, url ?? undefined, by)
      return await view(id)
    },
  }
}

function toView(peer: Peer): PeerView {
  const { id, siteId, name, state, createdAt } = peer
  return {
    id,
    siteId,
    name,
    state,
    url: peer.url ?? null,
    caFingerprint: peer.caFingerprint.toString('hex'),
    sas: peer.sas ?? null,
    createdAt,
    confirmedAt: peer.confirmedAt ?? null,
    revokedAt: peer.revokedAt ?? null,
  }
}

/** The outer JSON of a signed file may be written anew: what is signed is inside it, in base64. */
const encode = (handover: Handover): Uint8Array => Buffer.from(JSON.stringify(handover))
const parse = (file: Uint8Array): Handover => JSON.parse(Buffer.from(file).toString())
