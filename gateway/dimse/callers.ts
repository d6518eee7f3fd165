/**
 * Who may open an association and what for, and what is said when somebody may not.
 */
import { type Modality, type ModalityService, unknownCallerServices } from '../services/modality.ts'
import type { Identity } from '../services/modality-caller.ts'
import type { AssociateRequest, Rejection } from './pdu.ts'
import { dicomApplicationContext, rejections } from './pdu.ts'
import type { AssociationPeer, Refusal, ScpOptions } from './scp.ts'

/** The admission rules of a listener. */
export type CallerPolicy = Pick<ScpOptions, 'aeTitle' | 'checkCalledAe' | 'unknownCallers' | 'identifyCaller'>

/** What a caller may do. */
export interface Admission {
  readonly kind: 'admitted'
  /** Its registration; absent for unknown callers that are served. */
  readonly modality?: Modality
  readonly services: ReadonlySet<ModalityService>
  /** Whose associations this one is counted with: nobody else can use up those of a registered caller. */
  readonly countedAs: string
}

/** A refusal as the peer and the audit log get it. */
export interface Denial {
  readonly kind: 'denied'
  readonly rejection: Rejection
  readonly reason: Refusal['reason']
  /** For the log: what happened and what to do about it. */
  readonly message: string
}

/** Decides whether this request is served. */
export async function admit(
  request: AssociateRequest,
  peer: AssociationPeer,
  policy: CallerPolicy,
): Promise<Admission | Denial> {
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
  return await identify(peer, policy)
}

async function identify(peer: AssociationPeer, policy: CallerPolicy): Promise<Admission | Denial> {
  const { callingAe, remoteAddress, certificate } = peer
  let identity: Identity | undefined
  try {
    identity = await policy.identifyCaller?.({ callingAe, remoteAddress, certificate })
  } catch {
    return denial(
      'temporaryCongestion',
      'unavailable',
      'association refused: the registered callers cannot be looked up now',
    )
  }
  if (identity?.kind === 'registered') {
    const { modality } = identity
    return { kind: 'admitted', modality, services: new Set(modality.permissions), countedAs: `name ${modality.name}` }
  }
  if (identity?.kind === 'impostor') {
    return denial(
      'callingAe',
      'certificate',
      identity.needs === 'title'
        ? 'association refused: the client certificate is registered for another AE title'
        : 'association refused: this AE title is registered with a certificate, which was not presented',
    )
  }
  const unknown = policy.unknownCallers ?? 'loopback'
  if (unknown === 'all' || (unknown === 'loopback' && isLoopback(remoteAddress))) {
    return { kind: 'admitted', services: new Set(unknownCallerServices), countedAs: `title ${callingAe}` }
  }
  return denial(
    'callingAe',
    'unknown-caller',
    'association refused: the calling AE title is not known from this address; register it (hanse ' +
      'modality add AETITLE --host ADDRESS), or serve unknown callers (HANSE_DICOM_UNKNOWN_CALLERS=all)',
  )
}

/** A refusal of this kind. */
export function denial(rejection: keyof typeof rejections, reason: Refusal['reason'], message: string): Denial {
  return { kind: 'denied', rejection: rejections[rejection], reason, message }
}

/** An address as it is compared and shown: IPv4 ones without the IPv6 mapping, none as empty text. */
export function plainAddress(address: string | undefined): string {
  return (address ?? '').replace(/^::ffff:(?=\d+\.)/i, '')
}

/** True for 127.0.0.0/8 and ::1. */
export function isLoopback(address: string): boolean {
  return /^127(\.\d{1,3}){3}$/.test(address) || address === '::1'
}
