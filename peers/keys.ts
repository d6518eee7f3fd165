/**
 * The site's own keys: the CA and TLS leaf, the Ed25519 signing key, the X25519 sealing key.
 *
 * They live in files below `dir`, mode 0600, outside the database and its backups:
 * - `site.json` is the identity: CA with its key, both seeds, the history of replaced keys. It is
 *   written once, in one rename, so that a crash leaves either a whole identity or none. Losing it
 *   means pairing with every peer again.
 * - `tls.pem` and `dicom-tls.pem`, key and certificate of a TLS leaf each, can always be made again below the CA.
 * - `ca.pem`, the certificate of the CA alone, is for those who are to trust it.
 */
import { randomBytes, X509Certificate } from 'node:crypto'
import { chmod, mkdir, open, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Credential, coversHosts, createCa, isIssuedBy, issueLeaf } from '../certs/ca.ts'
import { decode, list, object, oneOf, text } from '../gateway/decode.ts'
import { GatewayError } from '../gateway/errors.ts'
import { keyId, type SignatureContext, type Signer, signWith } from './envelope.ts'
import { base64, utcTime } from './json.ts'
import { type KeyPair, openSealedBytes, sealingKeyPair, signingKeyPair } from './sodium.ts'

export { verify } from './envelope.ts'

/** A key that was replaced; kept so that what it signed or sealed stays checkable. Unix times in ms. */
export interface FormerKey {
  readonly use: 'sign' | 'seal'
  readonly key: Uint8Array
  readonly validFrom: number
  readonly validUntil: number
}

/** This site's keys. Private parts stay inside; what needs them is a method. */
export interface SiteKeys extends Signer {
  /** 32 lower-case hex digits: the first 16 bytes of SHA-256 of the site's first signing key. */
  readonly siteId: string
  /** X25519 public key, 32 bytes. */
  readonly sealingKey: Uint8Array
  /** When the current keys came into use, Unix time in ms. */
  readonly validFrom: number
  readonly formerKeys: readonly FormerKey[]
  /** The CA certificate, PEM: what peers pin. */
  readonly caCertificate: string
  /** The current TLS leaf; ask again for each context, because renewal replaces it. */
  tls(): Credential
  /** Issues the TLS leaf anew when it ends within a third of its life or misses a host; true when it did. */
  renewTls(hosts: readonly string[]): Promise<boolean>
  /** The TLS leaf of the DICOM listener, a file of its own; issued anew under the same conditions. Writes `ca.pem`. */
  dicomTls(hosts: readonly string[]): Promise<Credential>
  /** A client certificate from our CA that is good for being paired and nothing else. */
  issueInvitation(options: { id: string; lifetimeMs: number }): Promise<Credential>
  /** Opens what was sealed to our sealing key, former ones included; undefined when it is not ours. */
  openSealed(box: Uint8Array): Uint8Array | undefined
}

const dayMs = 86_400_000
const tlsLifetimeMs = 397 * dayMs

/**
 * Opens the site's keys, making them at the first start.
 *
 * @param options.dir       directory, made with mode 0700
 * @param options.siteName  shown in the TLS certificate to people; not an identity
 * @param options.hosts     DNS names and IP addresses under which peers reach us
 * @throws GatewayError CONFIG_INVALID when the files are damaged or readable by others
 */
export async function openSiteKeys(options: {
  dir: string
  siteName: string
  hosts: readonly string[]
  clock?: () => number
}): Promise<SiteKeys> {
  const { dir, siteName, clock = Date.now } = options
  await mkdir(dir, { recursive: true, mode: 0o700 })
  const identity = (await readIdentity(dir)) ?? (await createIdentity(dir, clock()))
  const signing = signingKeyPair(identity.signingSeed)
  const sealing = sealingKeyPair(identity.sealingSeed)
  const formerSigning = identity.former.filter(({ use }) => use === 'sign')
  const siteId = keyId(formerSigning[0] ? publicKeyOf(formerSigning[0]) : signing.publicKey)
  const boxes = [
    sealing,
    ...identity.former.filter(({ use }) => use === 'seal').map(({ seed }) => sealingKeyPair(seed)),
  ]

  const renew = async (file: LeafFile, hosts: readonly string[]): Promise<Credential> => {
    const leaf = await issueLeaf(identity.ca, {
      use: 'site',
      commonName: siteId,
      organization: siteName,
      hosts,
      lifetimeMs: tlsLifetimeMs,
      now: clock(),
    })
    await writeSecret(join(dir, file), leaf.key + leaf.certificate)
    return leaf
  }
  const openLeaf = async (file: LeafFile, hosts: readonly string[]): Promise<Credential> => {
    const found = await readTls(dir, file)
    return found && isFresh(found, identity.ca, hosts, clock()) ? found : await renew(file, hosts)
  }
  let tls = await openLeaf('tls.pem', options.hosts)

  return {
    siteId,
    signingKey: signing.publicKey,
    sealingKey: sealing.publicKey,
    validFrom: identity.validFrom,
    formerKeys: identity.former.map(({ use, seed, validFrom, validUntil }) => ({
      use,
      key: publicKeyOf({ use, seed }),
      validFrom,
      validUntil,
    })),
    caCertificate: identity.ca.certificate,
    tls: () => tls,
    renewTls: async hosts => {
      if (isFresh(tls, identity.ca, hosts, clock())) return false
      tls = await renew('tls.pem', hosts)
      return true
    },
    dicomTls: async hosts => {
      await publish(join(dir, 'ca.pem'), identity.ca.certificate)
      return await openLeaf('dicom-tls.pem', hosts)
    },
    issueInvitation: ({ id, lifetimeMs }) =>
      issueLeaf(identity.ca, { use: 'invitation', commonName: id, hosts: [], lifetimeMs, now: clock() }),
    sign: (context: SignatureContext, bytes: Uint8Array) => signWith(signing.privateKey, context, bytes),
    openSealed: box => firstDefined(boxes, keys => openSealedBytes(box, keys)),
  }
}

type LeafFile = 'tls.pem' | 'dicom-tls.pem'

interface FormerSeed {
  readonly use: 'sign' | 'seal'
  readonly seed: Uint8Array
  readonly validFrom: number
  readonly validUntil: number
}

interface Identity {
  readonly ca: Credential
  readonly signingSeed: Uint8Array
  readonly sealingSeed: Uint8Array
  readonly validFrom: number
  readonly former: readonly FormerSeed[]
}

const seed = base64({ bytes: 32 })

const pem = text({ min: 100, max: 20_000, pattern: /^-----BEGIN /, expected: 'PEM' })

const identityShape = object({
  version: oneOf('1'),
  validFrom: utcTime,
  ca: object({ certificate: pem, key: pem }),
  signingSeed: seed,
  sealingSeed: seed,
  former: list(object({ use: oneOf('sign', 'seal'), seed, validFrom: utcTime, validUntil: utcTime })),
})

async function readIdentity(dir: string): Promise<Identity | undefined> {
  const path = join(dir, 'site.json')
  const content = await readSecret(path)
  if (content === undefined) return undefined
  let raw: unknown
  try {
    raw = JSON.parse(content)
  } catch {
    raw = undefined // the parser's message would quote the file
  }
  const result = decode(identityShape, raw)
  if (result.ok) return result.value
  const paths = result.problems.map(problem => problem.path || 'file').join(', ')
  throw new GatewayError('CONFIG_INVALID', `${path} is damaged (${paths}); restore it from your copy of the keys`)
}

async function createIdentity(dir: string, now: number): Promise<Identity> {
  const signingSeed = randomBytes(32)
  const sealingSeed = randomBytes(32)
  const ca = await createCa({ siteId: keyId(signingKeyPair(signingSeed).publicKey), now })
  const document = {
    version: '1',
    validFrom: new Date(now).toISOString(),
    ca,
    signingSeed: signingSeed.toString('base64'),
    sealingSeed: sealingSeed.toString('base64'),
    former: [],
  }
  await writeSecret(join(dir, 'site.json'), `${JSON.stringify(document, null, 2)}\n`)
  return { ca, signingSeed, sealingSeed, validFrom: now, former: [] }
}

async function readTls(dir: string, file: LeafFile): Promise<Credential | undefined> {
  const content = await readSecret(join(dir, file))
  const parts = content?.match(
    /^(-----BEGIN PRIVATE KEY-----.*?-----END PRIVATE KEY-----\n)(-----BEGIN CERTIFICATE-----.*)$/s,
  )
  return parts?.[1] && parts[2] ? { key: parts[1], certificate: parts[2] } : undefined
}

function isFresh(leaf: Credential, ca: Credential, hosts: readonly string[], now: number): boolean {
  try {
    const certificate = new X509Certificate(leaf.certificate)
    return (
      isIssuedBy(certificate, new X509Certificate(ca.certificate)) &&
      coversHosts(certificate, hosts) &&
      certificate.validFromDate.getTime() <= now &&
      certificate.validToDate.getTime() - now > tlsLifetimeMs / 3
    )
  } catch {
    return false // unreadable, so it is made again
  }
}

/** The content, or undefined when there is no such file. */
async function readSecret(path: string): Promise<string | undefined> {
  try {
    const { mode } = await stat(path)
    if ((mode & 0o007) !== 0) {
      throw new GatewayError('CONFIG_INVALID', `${path} holds private keys and is open to everybody; chmod it to 600`)
    }
    return await readFile(path, 'utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}

/** Writes what everybody may read, where it is not written yet. */
async function publish(path: string, content: string): Promise<void> {
  const known = await readFile(path, 'utf8').catch(() => undefined)
  if (known !== content) await writeFile(path, content, { mode: 0o644 })
}

/** Durable before it returns: file fsync, rename, directory fsync. */
async function writeSecret(path: string, content: string): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`
  const file = await open(temporary, 'wx', 0o600)
  try {
    await file.writeFile(content)
    await file.sync()
  } finally {
    await file.close()
  }
  await chmod(temporary, 0o600)
  await rename(temporary, path)
  const directory = await open(join(path, '..'), 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}

function publicKeyOf(former: { use: 'sign' | 'seal'; seed: Uint8Array }): Uint8Array {
  return former.use === 'sign' ? signingKeyPair(former.seed).publicKey : sealingKeyPair(former.seed).publicKey
}

function firstDefined<T>(pairs: readonly KeyPair[], open: (keys: KeyPair) => T | undefined): T | undefined {
  for (const keys of pairs) {
    const opened = open(keys)
    if (opened !== undefined) return opened
  }
  return undefined
}
