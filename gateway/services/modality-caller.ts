/** Which registration a caller is: by its AE title, its address, and its certificate where it has one. */
import type { HostAddresses } from './host-addresses.ts'
import type { Modality } from './modality.ts'

/** A certificate that the TLS handshake has shown to be the caller's. */
export interface CallerCertificate {
  /** SHA-256 over its DER, 64 lower-case hex digits. */
  readonly fingerprint: string
  /** Common name of its subject; absent when no authority of ours vouches for it. */
  readonly commonName?: string | undefined
}

/** Who opens an association. */
export interface Caller {
  readonly callingAe: string
  readonly remoteAddress: string
  /** Absent on a plain connection, and by TLS from a client that presented none. */
  readonly certificate?: CallerCertificate | undefined
}

/** Who a caller is. */
export type Identity =
  | { readonly kind: 'registered'; readonly modality: Modality }
  | { readonly kind: 'unknown' }
  /** It uses a name that a certificate protects without that certificate, or a certificate under another name. */
  | { readonly kind: 'impostor'; readonly needs: 'certificate' | 'title' }

/**
 * Finds the registration of a caller. Of several that fit the one that says most wins: certificate before host
 * before AE title alone, then the first.
 */
export async function identifyCaller(
  caller: Caller,
  known: readonly Modality[],
  addresses: HostAddresses,
): Promise<Identity> {
  const { callingAe, remoteAddress, certificate } = caller
  const titled = known.filter(entry => entry.aeTitle.trim() === callingAe)
  const owners = certificate ? known.filter(entry => isOwner(certificate, entry)) : []
  if (owners.length > 0 && !owners.some(entry => titled.includes(entry))) return { kind: 'impostor', needs: 'title' }
  const candidates = titled.filter(entry => !hasCertificate(entry) || owners.includes(entry))
  for (const modality of candidates.sort((one, other) => weight(other) - weight(one))) {
    if (modality.host === undefined || (await addresses.has(modality.host, remoteAddress)))
      return { kind: 'registered', modality }
  }
  return titled.length > 0 && titled.every(hasCertificate) && owners.length === 0
    ? { kind: 'impostor', needs: 'certificate' }
    : { kind: 'unknown' }
}

const hasCertificate = ({ certificateFingerprint, certificateName }: Modality): boolean =>
  certificateFingerprint !== undefined || certificateName !== undefined

const weight = (entry: Modality): number => (hasCertificate(entry) ? 2 : 0) + (entry.host === undefined ? 0 : 1)

function isOwner(certificate: CallerCertificate, entry: Modality): boolean {
  const { certificateFingerprint, certificateName } = entry
  return (
    hasCertificate(entry) &&
    (certificateFingerprint === undefined || certificateFingerprint === certificate.fingerprint) &&
    (certificateName === undefined || certificateName === certificate.commonName)
  )
}
