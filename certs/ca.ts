/**
 * A site's own certificate authority: one self-signed CA that peers pin, and short-lived leaves below it.
 *
 * RSA, because node-forge neither makes nor reads EC certificates. The CA has 3072 bits (128 bits of
 * strength, NIST SP 800-57 part 1 §5.6.1): peers pin it for years. Leaves have 2048 bits (112): a leaf
 * only authenticates live handshakes for a year, TLS 1.3 takes its secrecy from ephemeral keys, and
 * signing is about three times cheaper. Keys come from node:crypto, as forge's own are made in JavaScript.
 *
 * A CA's subject carries no name of the site: a TLS server lists the subjects of the authorities it
 * accepts to whoever connects, and that list must not tell who works with whom.
 */
import { createHash, generateKeyPair, randomBytes, X509Certificate } from 'node:crypto'
import { isIP } from 'node:net'
import { promisify } from 'node:util'
import forge from 'node-forge'
import { GatewayError } from '../gateway/errors.ts'

/** A certificate with its private key, both PEM. The key is PKCS#8 and a secret. */
export interface Credential {
  readonly certificate: string
  readonly key: string
}

/** What a leaf is for. `site` serves and connects; `invitation` only connects, to be paired. */
export type LeafUse = 'site' | 'invitation'

/** Sites' clocks may differ by this much, so a certificate is valid from that long before its making. */
export const backdatingMs = 5 * 60_000

const dayMs = 86_400_000
const caLifetimeMs = 20 * 365 * dayMs
const caModulusBits = 3072
const leafModulusBits = 2048

/**
 * A new site CA.
 *
 * @param options.siteId  32 hex digits; the only thing the subject says
 * @param options.now     Unix time in ms
 */
export async function createCa(options: { siteId: string; now: number }): Promise<Credential> {
  const { publicKey, privateKey } = await generateRsa(caModulusBits)
  const certificate = draft(publicKey, options.now, caLifetimeMs)
  const subject = [{ name: 'commonName', value: `Hanse site CA ${options.siteId}` }]
  certificate.setSubject(subject)
  certificate.setIssuer(subject)
  certificate.setExtensions([
    { name: 'basicConstraints', cA: true, pathLenConstraint: 0, critical: true },
    { name: 'keyUsage', keyCertSign: true, cRLSign: true, critical: true },
    { name: 'subjectKeyIdentifier' },
  ])
  return sign(certificate, privateKey, privateKey)
}

/** What the certificate of a leaf says. */
export interface LeafRequest {
  readonly use: LeafUse
  /** Common name; at most 64 characters are kept (RFC 5280 ub-common-name). */
  readonly commonName: string
  /** Organization name, shown to people only; absent for an invitation. */
  readonly organization?: string
  /** DNS names and IP addresses for the subject alternative name. */
  readonly hosts: readonly string[]
  readonly lifetimeMs: number
  /** Unix time in ms. */
  readonly now: number
}

/** Makes a key pair and a certificate for it below `ca`; it never outlives the CA. */
export async function issueLeaf(ca: Credential, request: LeafRequest): Promise<Credential> {
  const { publicKey, privateKey } = await generateRsa(leafModulusBits)
  const issuer = forge.pki.certificateFromPem(ca.certificate)
  const untilCaEndsMs = issuer.validity.notAfter.getTime() - request.now
  const certificate = draft(publicKey, request.now, Math.min(request.lifetimeMs, untilCaEndsMs))
  certificate.setSubject([
    { name: 'commonName', value: bounded(request.commonName), ...utf8 },
    ...(request.organization ? [{ name: 'organizationName', value: bounded(request.organization), ...utf8 }] : []),
  ])
  certificate.setIssuer(issuer.subject.attributes)
  certificate.setExtensions([
    { name: 'basicConstraints', cA: false, critical: true },
    // TLS 1.3 needs nothing but signatures (RFC 8446 §4.4.2.2).
    { name: 'keyUsage', digitalSignature: true, critical: true },
    { name: 'extKeyUsage', clientAuth: true, ...(request.use === 'site' ? { serverAuth: true } : {}) },
    { name: 'subjectKeyIdentifier' },
    { name: 'authorityKeyIdentifier', keyIdentifier: issuer.generateSubjectKeyIdentifier().getBytes() },
    ...(request.hosts.length > 0 ? [{ name: 'subjectAltName', altNames: request.hosts.map(altName) }] : []),
  ])
  return sign(certificate, privateKey, ca.key)
}

/** SHA-256 over the DER certificate, 32 bytes: how a certificate is pinned and looked up. */
export function fingerprint(certificate: X509Certificate | string): Buffer {
  const parsed = typeof certificate === 'string' ? new X509Certificate(certificate) : certificate
  return createHash('sha256').update(parsed.raw).digest()
}

/**
 * Checks that a peer's certificate can be pinned as its CA: one self-signed X.509 CA certificate,
 * valid now, with a key that is strong enough.
 *
 * The own signature matters: TLS libraries do not check it on a trust anchor, so without this a peer
 * could present another site's subject and public key as its own CA.
 *
 * @param der  the certificate, DER
 * @param now  Unix time in ms
 * @throws GatewayError PEER_CARD_INVALID saying what is wrong
 */
export function readCaCertificate(der: Uint8Array, now: number): X509Certificate {
  const refuse = (reason: string): never => {
    throw new GatewayError('PEER_CARD_INVALID', `CA certificate: ${reason}`)
  }
  let certificate: X509Certificate
  try {
    certificate = new X509Certificate(der)
  } catch {
    return refuse('expected an X.509 certificate')
  }
  // The parser also takes PEM and ignores what follows; a pin must have one spelling.
  if (!certificate.raw.equals(der)) return refuse('expected one certificate in DER and nothing else')
  if (!certificate.ca) return refuse('expected a certificate authority (basicConstraints CA)')
  if (!certificate.checkIssued(certificate) || !verifies(certificate, certificate)) {
    return refuse('expected a certificate signed by itself')
  }
  const { asymmetricKeyType, asymmetricKeyDetails } = certificate.publicKey
  const bits = asymmetricKeyDetails?.modulusLength ?? 0
  const isStrong =
    (asymmetricKeyType === 'rsa' && bits >= 2048 && bits <= 8192) ||
    asymmetricKeyType === 'ec' ||
    asymmetricKeyType === 'ed25519'
  if (!isStrong) return refuse('expected RSA of 2048 to 8192 bits, an elliptic curve or Ed25519')
  if (certificate.validFromDate.getTime() - backdatingMs > now) return refuse('not valid yet')
  if (certificate.validToDate.getTime() < now) return refuse('expired')
  return certificate
}

/** True when `issuer` signed `certificate` directly, by names, key identifiers and signature. */
export function isIssuedBy(certificate: X509Certificate, issuer: X509Certificate): boolean {
  return certificate.checkIssued(issuer) && verifies(certificate, issuer)
}

/** True when a certificate names every one of these DNS names and IP addresses. */
export function coversHosts(certificate: X509Certificate, hosts: readonly string[]): boolean {
  return hosts.every(host => (isIP(host) ? certificate.checkIP(host) : certificate.checkHost(host)) !== undefined)
}

const utf8 = { valueTagClass: forge.asn1.Type.UTF8 as unknown as forge.asn1.Class }

function verifies(certificate: X509Certificate, issuer: X509Certificate): boolean {
  try {
    return certificate.verify(issuer.publicKey)
  } catch {
    return false // e.g. a key type that cannot have made this signature
  }
}

interface KeyPem {
  readonly publicKey: string
  readonly privateKey: string
}

async function generateRsa(modulusLength: number): Promise<KeyPem> {
  return await promisify(generateKeyPair)('rsa', {
    modulusLength,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  })
}

function draft(publicKey: string, now: number, lifetimeMs: number): forge.pki.Certificate {
  const certificate = forge.pki.createCertificate()
  certificate.publicKey = forge.pki.publicKeyFromPem(publicKey)
  certificate.serialNumber = serialNumber()
  certificate.validity.notBefore = new Date(now - backdatingMs)
  certificate.validity.notAfter = new Date(now + lifetimeMs)
  return certificate
}

/** 126 random bits, positive and without a leading zero byte (RFC 5280 §4.1.2.2). */
function serialNumber(): string {
  const bytes = randomBytes(16)
  bytes.writeUInt8((bytes.readUInt8(0) & 0x7f) | 0x40, 0)
  return bytes.toString('hex')
}

function sign(certificate: forge.pki.Certificate, subjectKey: string, issuerKey: string): Credential {
  certificate.sign(forge.pki.privateKeyFromPem(issuerKey), forge.md.sha256.create())
  return { certificate: forge.pki.certificateToPem(certificate).replaceAll('\r\n', '\n'), key: subjectKey }
}

const bounded = (name: string): string => [...name].slice(0, 64).join('')

// GeneralName: 7 iPAddress, 2 dNSName (RFC 5280 §4.2.1.6).
const altName = (host: string): object => (isIP(host) ? { type: 7, ip: host } : { type: 2, value: host })
