/** Names and addresses under which a gateway is reached. */
import { isIP, type Server } from 'node:net'
import type { Config } from '../config.ts'
import type { Listeners } from '../run-files.ts'

/** Host names and addresses for our TLS certificate. */
export function hostsOf(config: Config): string[] {
  const { host, publicUrl } = config.federation
  const named = publicUrl === undefined ? [] : [new URL(publicUrl).hostname.replace(/^\[|\]$/g, '')]
  const bound = isWildcard(host) ? [] : [host]
  return [...new Set([...named, ...bound, 'localhost', '127.0.0.1'])]
}

/** The same for DICOM TLS. */
export function dicomHostsOf(config: Config): string[] {
  const { host } = config.dicom
  return [...new Set([...hostsOf(config), ...(isWildcard(host) ? [] : [host])])]
}

const isWildcard = (host: string): boolean => host === '0.0.0.0' || host === '::'

/** A URL under which the listener can be reached from here. */
export function reachable(scheme: string, host: string, port: number): string {
  const name = isWildcard(host) ? '127.0.0.1' : host
  return `${scheme}://${isIP(name) === 6 ? `[${name}]` : name}:${port}`
}

export function portOf(address: ReturnType<Server['address']>): number {
  return address !== null && typeof address === 'object' ? address.port : 0
}

/** The listeners in words, for the status. */
export function describeListeners(listeners: Listeners | undefined): {
  http: string
  dicom: string
  federation: string
} {
  if (!listeners) return { http: '', dicom: '', federation: '' }
  const { http, dicom, federation } = listeners
  const tls = dicom.tlsPort === undefined ? '' : `, TLS on port ${dicom.tlsPort}`
  return { http: http.url, dicom: `${dicom.aeTitle}@${dicom.host}:${dicom.port}${tls}`, federation: federation.url }
}
