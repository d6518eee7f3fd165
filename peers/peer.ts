/** A site that we know, as its row says, and the picture of all of them that is kept in memory. */
import type { Row } from '../gateway/db/schema.ts'
import { openCard, type SiteCard } from './card.ts'
import type { SigningKey } from './envelope.ts'

declare const peerIdBrand: unique symbol
/** A peer's local id, a UUID. Paired again after a revocation, the same site has another. */
export type PeerId = string & { readonly [peerIdBrand]: true }

/** `pending` until a person here has compared the short authentication string; `revoked` for good. */
export type PeerState = 'pending' | 'active' | 'revoked'

/** A site that we know. */
export interface Peer {
  readonly id: PeerId
  readonly siteId: string
  /** Our name for it; unique among peers that are not revoked. */
  readonly name: string
  readonly state: PeerState
  /** Origin at which we reach it; absent when it only dials out. */
  readonly url: string | undefined
  /** Its card as pinned. */
  readonly card: SiteCard
  /** SHA-256 of the card's payload, lower-case hex. */
  readonly cardSha256: string
  /** PEM; what its TLS certificates must be issued by. */
  readonly caCertificate: string
  /** SHA-256 over the CA certificate's DER. */
  readonly caFingerprint: Buffer
  readonly signingKey: SigningKey
  readonly sealingKey: Uint8Array
  /** Short authentication string of its pairing. */
  readonly sas: string | undefined
  readonly confirmedAt: Date | undefined
  readonly revokedAt: Date | undefined
  readonly createdAt: Date
}

/** An invitation whose credential may still be used. */
export interface OpenInvitation {
  readonly id: string
  /** SHA-256 over the credential's DER certificate. */
  readonly fingerprint: Buffer
  readonly expiresAt: Date
}

/** Who may speak to us right now; from memory. */
export interface PeerDirectory {
  /** Pending and active peers. */
  readonly peers: readonly Peer[]
  readonly invitations: readonly OpenInvitation[]
  /** Calls back after each change; returns how to stop. */
  onChange(listener: () => void): () => void
}

/** A row as a peer. Its card was checked when it was pinned, and is read as of then. */
export function toPeer(row: Row<'peers'>): Peer {
  const { card, payloadSha256 } = openCard(row.card, row.created_at.getTime())
  return {
    id: row.id as PeerId,
    siteId: row.site_id,
    name: row.name,
    state: row.state,
    url: row.url ?? undefined,
    card,
    cardSha256: payloadSha256,
    caCertificate: row.ca_certificate,
    caFingerprint: row.ca_fingerprint,
    signingKey: row.signing_key,
    sealingKey: row.sealing_key,
    sas: row.sas ?? undefined,
    confirmedAt: row.confirmed_at ?? undefined,
    revokedAt: row.revoked_at ?? undefined,
    createdAt: row.created_at,
  }
}
