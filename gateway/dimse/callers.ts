/**
 * Who may open an association, and what is said when somebody may not.
 */
import type { AssociateRequest, Rejection } from './pdu.ts'
import { dicomApplicationContext, rejections } from './pdu.ts'
import type { AssociationPeer, Refusal, ScpOptions } from './scp.ts'

/** The admission rules of a listener. */
export type CallerPolicy = Pick<ScpOptions, 'aeTitle' | 'checkCalledAe' | 'unknownCallers' | 'isKnownCaller'>

/** A refusal as the peer and the audit log get it. */
export interface Denial {
  readonly rejection: Rejection
  readonly reason: Refusal['reason']
  /** For the log: what happened and what to do about it. */
  readonly message: string
}

/**
 * Decides whether this request is served.
 *
 * @returns undefined when it is
 */
export async function deny(
  request: AssociateRequest,
  peer: AssociationPeer,
  policy: CallerPolicy,
): Promise<Denial | undefined> {
  // Bit 0 is version 1; the others "shall not be tested" (PS3.8 Table 9-11).
  if ((request.protocolVersion & 1) === 0) {
    return denial('protocolVersion', 'protocol', 'association refused: protocol version 1 is not offered')
  }
  if (request.applicationContext !== dicomApplicationContext) {
    return denial('applicationContext', 'protocol', 'association refused: application context is not that of DICOM')
  }
  if (policy.checkCalledAe && peer.calledAe !== policy.aeTitle) {
    return denial('calledAe', 'called-ae', `association refused: the called AE title is not ours, ${policy.aeTitle}`)
  }
  const unknown = policy.unknownCallers ?? 'loopback'
  if (unknown === 'all' || (unknown === 'loopback' && isLoopback(peer.remoteAddress))) return undefined
  return await isKnown(peer, policy)
}

async function isKnown(peer: AssociationPeer, policy: CallerPolicy): Promise<Denial | undefined> {
  const { callingAe, remoteAddress } = peer
  try {
    if (await policy.isKnownCaller?.({ callingAe, remoteAddress })) return undefined
  } catch {
    return denial(
      'temporaryCongestion',
      'unavailable',
      'association refused: the known callers cannot be looked up now',
    )
  }
  return denial(
    'callingAe',
    'unknown-caller',
    'association refused: the calling AE title is not known from this address; register it (hanse ' +
      'modality add AETITLE --host ADDRESS), or serve unknown callers (HANSE_DICOM_UNKNOWN_CALLERS=all)',
  )
}

function denial(rejection: keyof typeof rejections, reason: Refusal['reason'], message: string): Denial {
  return { rejection: rejections[rejection], reason, message }
}

/** An address as it is compared and shown: IPv4 ones without the IPv6 mapping, none as empty text. */
export function plainAddress(address: string | undefined): string {
  return (address ?? '').replace(/^::ffff:(?=\d+\.)/i, '')
}

/** True for 127.0.0.0/8 and ::1. */
export function isLoopback(address: string): boolean {
  return /^127(\.\d{1,3}){3}$/.test(address) || address === '::1'
}
