import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { before, test } from 'node:test'
import { promisify } from 'node:util'
import {
  type Credential,
  coversHosts,
  createCa,
  fingerprint,
  isIssuedBy,
  issueLeaf,
  readCaCertificate,
} from '../../certs/ca.ts'
import { isGatewayError } from '../../gateway/errors.ts'

const now = Date.now()
const hourMs = 3_600_000
const siteId = '0123456789abcdef0123456789abcdef'
let ca: Credential
let otherCa: Credential

before(async () => {
  ca = await createCa({ siteId, now })
  otherCa = await createCa({ siteId: 'f'.repeat(32), now })
})

const leafFor = (hosts: string[], use: 'site' | 'invitation' = 'site') =>
  issueLeaf(ca, { use, commonName: 'leaf', organization: 'Zürich ‘A’', hosts, lifetimeMs: hourMs, now })

async function openssl(
  t: import('node:test').TestContext,
  args: (path: (name: string) => string) => string[],
  files: Record<string, string>,
) {
  const dir = await mkdtemp(join(tmpdir(), 'hanse-ca-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  for (const [name, content] of Object.entries(files)) await writeFile(join(dir, name), content)
  return await promisify(execFile)(
    'openssl',
    args(name => join(dir, name)),
  )
}

test('OpenSSL verifies a site leaf for both directions and for its host names', async t => {
  const leaf = await leafFor(['a.example', '192.0.2.7', '2001:db8::1'])

  for (const purpose of ['sslserver', 'sslclient']) {
    const { stdout } = await openssl(
      t,
      path => [
        'verify',
        '-x509_strict',
        '-purpose',
        purpose,
        '-verify_hostname',
        'a.example',
        '-CAfile',
        path('ca.pem'),
        path('leaf.pem'),
      ],
      { 'ca.pem': ca.certificate, 'leaf.pem': leaf.certificate },
    )
    assert.match(stdout, /leaf\.pem: OK/)
  }
  for (const ip of ['192.0.2.7', '2001:db8::1']) {
    const { stdout } = await openssl(
      t,
      path => ['verify', '-verify_ip', ip, '-CAfile', path('ca.pem'), path('leaf.pem')],
      {
        'ca.pem': ca.certificate,
        'leaf.pem': leaf.certificate,
      },
    )
    assert.match(stdout, /OK/)
  }
})

test('OpenSSL refuses a leaf below another CA', async t => {
  const leaf = await leafFor(['a.example'])

  await assert.rejects(
    openssl(t, path => ['verify', '-CAfile', path('ca.pem'), path('leaf.pem')], {
      'ca.pem': otherCa.certificate,
      'leaf.pem': leaf.certificate,
    }),
    /unable to get local issuer certificate/,
  )
})

test('an invitation credential cannot act as a server', async t => {
  const leaf = await leafFor([], 'invitation')

  await assert.rejects(
    openssl(t, path => ['verify', '-purpose', 'sslserver', '-CAfile', path('ca.pem'), path('leaf.pem')], {
      'ca.pem': ca.certificate,
      'leaf.pem': leaf.certificate,
    }),
    /unsuitable certificate purpose/,
  )
})

test('a certificate is valid five minutes before it was made', async () => {
  const leaf = new X509Certificate((await leafFor(['a.example'])).certificate)

  assert.equal(leaf.validFromDate.getTime(), Math.floor((now - 300_000) / 1000) * 1000)
})

test('a leaf never outlives its CA', async () => {
  const leaf = await issueLeaf(ca, {
    use: 'site',
    commonName: 'x',
    hosts: [],
    lifetimeMs: 1000 * 365 * 24 * hourMs,
    now,
  })

  assert.equal(new X509Certificate(leaf.certificate).validTo, new X509Certificate(ca.certificate).validTo)
})

test('a leaf names its hosts and only them', async () => {
  const leaf = new X509Certificate((await leafFor(['a.example', '127.0.0.1'])).certificate)

  assert.equal(coversHosts(leaf, ['a.example', '127.0.0.1']), true)
  assert.equal(coversHosts(leaf, ['b.example']), false)
  assert.equal(coversHosts(leaf, ['127.0.0.2']), false)
})

test('the subject of a CA tells the site id and no name', () => {
  assert.equal(new X509Certificate(ca.certificate).subject, `CN=Hanse site CA ${siteId}`)
})

test('issuing is recognised by signature, not by name', async () => {
  const twin = await createCa({ siteId, now })
  const leaf = new X509Certificate((await leafFor([])).certificate)

  assert.equal(isIssuedBy(leaf, new X509Certificate(ca.certificate)), true)
  assert.equal(isIssuedBy(leaf, new X509Certificate(twin.certificate)), false)
  assert.notDeepEqual(fingerprint(ca.certificate), fingerprint(twin.certificate))
})

const der = (certificate: string): Buffer => new X509Certificate(certificate).raw
const refused = (bytes: Uint8Array, at: number, reason: RegExp) =>
  assert.throws(
    () => readCaCertificate(bytes, at),
    error => isGatewayError(error, 'PEER_CARD_INVALID') && reason.test(error.message),
  )

test('a CA certificate is accepted for pinning only when it is one self-signed CA that is valid now', async () => {
  const leaf = await leafFor([])
  const bytes = der(ca.certificate)

  assert.deepEqual(readCaCertificate(bytes, now).raw, bytes)
  assert.deepEqual(readCaCertificate(bytes, now - 5 * 60_000).raw, bytes) // the peer's clock is ahead of ours
  refused(der(leaf.certificate), now, /authority/)
  refused(Buffer.concat([bytes, Buffer.from([0])]), now, /DER|X.509/)
  refused(Buffer.from(ca.certificate), now, /DER/)
  refused(Buffer.from('nonsense'), now, /X.509/)
  refused(bytes, now + 21 * 365 * 24 * hourMs, /expired/)
  refused(bytes, now - hourMs, /not valid yet/)
})

test('a CA certificate with another site’s key and a broken own signature is refused', () => {
  const bytes = Buffer.from(der(ca.certificate))
  bytes.writeUInt8(bytes.readUInt8(bytes.length - 1) ^ 1, bytes.length - 1)

  refused(bytes, now, /signed by itself/)
})
