/** Pairing of two sites: the inviting side (`invite.ts`) and the joining side (`join.ts`) of one gateway. */
import { type Inviting, openInviting } from './invite.ts'
import { type Joining, openJoining } from './join.ts'
import type { PairingContext } from './pairing-context.ts'

/** All of pairing. Confirmation, after the strings were compared, is `Peers.confirm`. */
export interface Pairing extends Inviting, Joining {}

/** Opens pairing; it holds nothing that must be closed. */
export function openPairing(context: PairingContext): Pairing {
  return { ...openInviting(context), ...openJoining(context) }
}
