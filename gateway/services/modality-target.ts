/** What is needed to call a registered modality. */
import { GatewayError } from '../errors.ts'
import type { Modality } from './modality.ts'

/** How a modality is called by TLS; credentials of our own are added where the socket is opened. */
export interface TargetTls {
  /** False takes any certificate. */
  readonly verify: boolean
  /** The name its certificate must have; its host when absent. */
  readonly servername?: string
  /** Authorities that may have issued its certificate, PEM; those of the configuration when absent. */
  readonly ca?: string
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
}

/** @throws GatewayError STATE_CONFLICT when the registration has no host or port */
export function targetOf(entry: Modality, callingAe: string): ModalityTarget {
  const { name, host, port, tls, certificateFingerprint, limits } = entry
  if (host === undefined || port === undefined) {
    throw new GatewayError('STATE_CONFLICT', `modality ${name} is registered without host or port: it cannot be called`)
  }
  return {
    name,
    host,
    port,
    callingAe,
    calledAe: entry.aeTitle.trim(),
    ...(limits?.timeoutSeconds !== undefined && { timeoutMs: limits.timeoutSeconds * 1000 }),
    ...(tls && {
      tls: {
        verify: tls.verify,
        ...(tls.servername !== undefined && { servername: tls.servername }),
        ...(tls.ca !== undefined && { ca: tls.ca }),
        ...(certificateFingerprint !== undefined && { fingerprint: certificateFingerprint }),
      },
    }),
  }
}
