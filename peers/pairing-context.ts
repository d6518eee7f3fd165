/** What both sides of pairing share. */
import type { Db } from '../gateway/db/db.ts'
import { GatewayError } from '../gateway/errors.ts'
import type { SignedCard } from './card.ts'
import type { ClockWatch } from './clock.ts'
import type { ProxySettings } from './connect-proxy.ts'
import type { SiteKeys } from './keys.ts'
import type { PeerId } from './peer.ts'
import type { AppendAudit, Peers } from './registry.ts'

/** What pairing needs, on either side. */
export interface PairingContext {
  readonly db: Db
  readonly keys: SiteKeys
  readonly peers: Peers
  /** Our card as it is now. */
  readonly card: () => SignedCard
  readonly appendAudit: AppendAudit
  readonly clocks: ClockWatch
  /** For outbound connections. */
  readonly proxy?: ProxySettings | undefined
  readonly clock?: () => number
  readonly random?: (length: number) => Uint8Array
}

/** Who asks, and what to call the new peer (its card's name when absent). */
export interface PairingOptions {
  readonly principal: string
  readonly name?: string | undefined
}

/** A peer that waits for confirmation, and what to compare with the other administrator. */
export interface Paired {
  readonly peerId: PeerId
  readonly sas: string
}

/** The error of every refusal that an unpaired site may see: it does not tell which check failed first. */
export const invalid = (reason: string): GatewayError => new GatewayError('PAIRING_INVALID', reason)
