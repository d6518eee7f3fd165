/**
 * Our certificate for DICOM TLS and the authorities that we trust, for both roles. Files that an administrator
 * replaces are in use some seconds later; while what is there cannot be used, the last good one stays.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import { createSecureContext } from 'node:tls'
import { GatewayError } from '../errors.ts'
import type { Log } from '../log.ts'
import { tlsProfile } from './tls-profile.ts'

/** PEM texts. `key` is a secret. */
export interface Credentials {
  readonly certificate: string
  readonly key: string
  /** Authorities whose certificates we trust; absent when only registered fingerprints are. */
  readonly ca?: string
}

/** Where they come from. */
export interface CredentialSource {
  /** PEM files of the configuration; without them `issue` is asked. */
  readonly certificateFile?: string | undefined
  readonly keyFile?: string | undefined
  readonly caFile?: string | undefined
  /** A certificate from the site's own authority, the same one until it is due for renewal. */
  issue(): Promise<{ certificate: string; key: string }>
}

export interface DicomCredentials {
  current(): Credentials
  /** Calls back after each change; returns how to stop that. */
  onChange(listener: () => void): () => void
  close(): void
}

/** How often files are looked at. */
const checkMs = 5_000
/** How often the site's authority is asked whether its certificate is due for renewal. */
const renewalMs = 6 * 3_600_000

/**
 * Reads the credentials and follows their changes.
 *
 * @throws GatewayError CONFIG_INVALID when they cannot be used at the start
 */
export async function openCredentials(options: {
  source: CredentialSource
  log: Log
  checkMs?: number
}): Promise<DicomCredentials> {
  const { source, log } = options
  const listeners = new Set<() => void>()
  let seen = await versionOf(source)
  let current = await load(source)
  tell(current, log)
  let loadedAt = performance.now()
  let isChecking = false

  const check = async (): Promise<void> => {
    const version = await versionOf(source)
    const isDue = source.certificateFile === undefined && performance.now() - loadedAt > renewalMs
    if (version === seen && !isDue) return
    seen = version
    loadedAt = performance.now()
    const next = await load(source)
    if (next.certificate === current.certificate && next.key === current.key && next.ca === current.ca) return
    current = next
    tell(next, log)
    for (const listener of listeners) listener()
  }
  const timer = setInterval(() => {
    if (isChecking) return
    isChecking = true
    check()
      .catch((error: unknown) => {
        const cause = error instanceof Error ? error.message : 'unknown'
        log.error({ cause }, 'DICOM TLS: the new certificate cannot be used, the last good one stays')
      })
      .finally(() => {
        isChecking = false
      })
  }, options.checkMs ?? checkMs)
  timer.unref()

  return {
    current: () => current,
    onChange: listener => {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    close: () => clearInterval(timer),
  }
}

/** Changes when one of the files is written or replaced. */
async function versionOf({ certificateFile, keyFile, caFile }: CredentialSource): Promise<string> {
  const parts = [certificateFile, keyFile, caFile].map(async path => {
    if (path === undefined) return ''
    const found = await stat(path, { bigint: true }).catch(() => undefined)
    return found ? `${found.ino} ${found.size} ${found.mtimeNs}` : 'absent'
  })
  return (await Promise.all(parts)).join('\n')
}

async function load(source: CredentialSource): Promise<Credentials> {
  const { certificateFile, keyFile, caFile } = source
  const own =
    certificateFile !== undefined && keyFile !== undefined
      ? { certificate: await readPem(certificateFile), key: await readPem(keyFile) }
      : await source.issue()
  const loaded = { ...own, ...(caFile !== undefined && { ca: await readPem(caFile) }) }
  const refuse = (problem: string, cause?: unknown): never => {
    throw new GatewayError('CONFIG_INVALID', `DICOM TLS: ${problem}`, { cause })
  }
  try {
    createSecureContext({ ...tlsProfile, cert: loaded.certificate, key: loaded.key, ca: loaded.ca ?? [] })
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : 'not PEM'
    return refuse(`certificate, key or authorities cannot be used (${code})`, cause)
  }
  const certificate = new X509Certificate(loaded.certificate)
  if (!certificate.checkPrivateKey(createPrivateKey(loaded.key))) refuse('the key is not that of the certificate')
  return loaded
}

async function readPem(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (cause) {
    throw new GatewayError('CONFIG_INVALID', `DICOM TLS: cannot read ${path}`, { cause })
  }
}

function tell({ certificate }: Credentials, log: Log): void {
  const { validToDate, fingerprint256 } = new X509Certificate(certificate)
  const context = {
    validTo: validToDate.toISOString(),
    fingerprint: fingerprint256.replaceAll(':', '').toLowerCase(),
  }
  if (validToDate.getTime() < Date.now()) log.error(context, 'DICOM TLS: our certificate is expired, others refuse it')
  else log.info(context, 'DICOM TLS: certificate in use')
}
