/** Certificates for DICOM TLS in files, as DCMTK and Orthanc want them; made by the OpenSSL that they use. */
import { execFile } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

const openssl = promisify(execFile)

/** A certificate and its key as PEM files. */
export interface CertificateFiles {
  readonly certificateFile: string
  readonly keyFile: string
  readonly certificate: string
  readonly key: string
  /** SHA-256 of the DER, 64 lower-case hex digits. */
  readonly fingerprint: string
}

/** An authority of a test. */
export interface TestAuthority extends CertificateFiles {
  /** Issues a certificate for 127.0.0.1 and localhost. `ended` makes one that is expired. */
  issue(commonName: string, options?: { ended?: boolean; names?: string }): Promise<CertificateFiles>
}

/** Makes an authority whose files are in `dir`. */
export async function makeAuthority(dir: string, name: string): Promise<TestAuthority> {
  const at = (file: string): string => join(dir, `${name}-${file}`)
  const files = { certificateFile: at('ca.pem'), keyFile: at('ca.key') }
  await run(
    'req',
    '-x509',
    ...newKey(files.keyFile),
    '-days',
    '2',
    '-subj',
    `/CN=${name}`,
    '-out',
    files.certificateFile,
  )
  let count = 0
  return {
    ...(await load(files)),
    issue: async (commonName, { ended = false, names = 'IP:127.0.0.1,DNS:localhost' } = {}) => {
      count += 1
      const leaf = { certificateFile: at(`${count}.pem`), keyFile: at(`${count}.key`) }
      const [request, extensions] = [at(`${count}.csr`), at(`${count}.ext`)]
      await writeFile(extensions, `subjectAltName=${names}\nextendedKeyUsage=serverAuth,clientAuth\n`)
      await run('req', ...newKey(leaf.keyFile), '-subj', `/CN=${commonName}`, '-out', request)
      const signed = ['-CA', files.certificateFile, '-CAkey', files.keyFile, '-CAcreateserial', '-extfile', extensions]
      await run('x509', '-req', '-in', request, ...signed, '-days', ended ? '-1' : '2', '-out', leaf.certificateFile)
      return await load(leaf)
    },
  }
}

/** RSA: DCMTK 3.6.7 offers no cipher suite for others before TLS 1.3. */
const newKey = (file: string): string[] => ['-newkey', 'rsa:2048', '-nodes', '-keyout', file]

async function run(...args: readonly string[]): Promise<void> {
  await openssl('openssl', [...args])
}

async function load(files: { certificateFile: string; keyFile: string }): Promise<CertificateFiles> {
  const certificate = await readFile(files.certificateFile, 'utf8')
  return {
    ...files,
    certificate,
    key: await readFile(files.keyFile, 'utf8'),
    fingerprint: new X509Certificate(certificate).fingerprint256.replaceAll(':', '').toLowerCase(),
  }
}
