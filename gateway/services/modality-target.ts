/** What is needed to call a registered modality. */
import { GatewayError } from '../errors.ts'
import type { Modality } from './modality.ts'

/** Our own certificate and key, and the authorities that we trust unless a registration names others; PEM. */
export interface OwnCredentials {
  readonly certificate: string
  readonly key: string
  readonly ca?: string
}

/** How a modality is called by TLS. */
export interface TargetTls {
  /** False takes any certificate. */
  readonly verify: boolean
  /** The name its certificate must have; its host when absent. */
  readonly servername?: string
  /** Authorities that may have issued its certificate, PEM. */
  readonly ca?: string
  /** Our certificate and its key, PEM, for those who ask for one. */
  readonly cert?: string
  readonly key?: string
  /** SHA-256 of the only certificate that it may have, hex; issued by whomever. */
  readonly fingerprint?: string
}

/** A modality as the SCU takes it. */
export interface ModalityTarget {
  /** Its symbolic name, for logs. */
  readonly name: string
  readonly host: string
  readonly port: number
  readonly callingAe: string
  readonly calledAe: string
  readonly timeoutMs?: number
  readonly tls?: TargetTls
  /** It is outside of the hospital: instances go there by a transfer only. */
  readonly isOutside?: true
}

/** @throws GatewayError STATE_CONFLICT when the registration has no host or port */
export function targetOf(entry: Modality, callingAe: string, own: OwnCredentials | undefined): ModalityTarget {
  const { name, host, port, limits } = entry
  if (host === undefined || port === undefined) {
    throw new GatewayError('STATE_CONFLICT', `modality ${name} is registered without host or port: it cannot be called`)
  }
  const tls = tlsOf(entry, own)
  return {
    name,
    host,
    port,
    callingAe,
    calledAe: entry.aeTitle.trim(),
    ...(limits?.timeoutSeconds !== undefined && { timeoutMs: limits.timeoutSeconds * 1000 }),
    ...(tls && { tls }),
    ...(entry.zone === 'outside' && { isOutside: true as const }),
  }
}

function tlsOf({ tls, certificateFingerprint }: Modality, own: OwnCredentials | undefined): TargetTls | undefined {
  if (!tls) return undefined
  const ca = tls.ca ?? own?.ca
  return {
    verify: tls.verify,
    ...(tls.servername !== undefined && { servername: tls.servername }),
    ...(ca !== undefined && { ca }),
    ...(own && { cert: own.certificate, key: own.key }),
    ...(certificateFingerprint !== undefined && { fingerprint: certificateFingerprint }),
  }
}
