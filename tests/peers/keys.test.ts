import assert from 'node:assert/strict'
import { createHash, X509Certificate } from 'node:crypto'
import { chmod, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { coversHosts } from '../../certs/ca.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { openSiteKeys, verify } from '../../peers/keys.ts'
import { sealBytes } from '../../peers/sodium.ts'

const dayMs = 86_400_000

async function keyDir(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'hanse-keys-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  return join(dir, 'keys')
}

test('keys are made once, private, and are the same after a restart', async t => {
  const dir = await keyDir(t)
  const options = { dir, siteName: 'Hospital A', hosts: ['localhost', '127.0.0.1'] }

  const first = await openSiteKeys(options)
  const second = await openSiteKeys(options)

  assert.equal(first.siteId, createHash('sha256').update(first.signingKey).digest('hex').slice(0, 32))
  assert.equal(second.siteId, first.siteId)
  assert.deepEqual(second.sealingKey, first.sealingKey)
  assert.equal(second.caCertificate, first.caCertificate)
  assert.deepEqual(second.tls(), first.tls())
  assert.equal((await stat(dir)).mode & 0o777, 0o700)
  assert.deepEqual((await readdir(dir)).sort(), ['site.json', 'tls.pem'])
  for (const name of await readdir(dir)) assert.equal((await stat(join(dir, name))).mode & 0o777, 0o600)
})

test('DICOM has a leaf of its own below the same CA, whose certificate lies beside it for others', async t => {
  const dir = await keyDir(t)
  const options = { dir, siteName: 'Hospital A', hosts: ['localhost'] }
  const keys = await openSiteKeys(options)

  const leaf = await keys.dicomTls(['pacs.example'])
  const again = await (await openSiteKeys(options)).dicomTls(['pacs.example'])
  const moved = await keys.dicomTls(['other.example'])

  assert.deepEqual(again, leaf)
  assert.notEqual(leaf.certificate, keys.tls().certificate)
  assert.ok(coversHosts(new X509Certificate(moved.certificate), ['other.example']))
  const ca = await readFile(join(dir, 'ca.pem'), 'utf8')
  assert.equal(ca, keys.caCertificate)
  assert.ok(new X509Certificate(leaf.certificate).verify(new X509Certificate(ca).publicKey))
  assert.equal((await stat(join(dir, 'dicom-tls.pem'))).mode & 0o777, 0o600)
})

test('a signature is bound to its context', async t => {
  const keys = await openSiteKeys({ dir: await keyDir(t), siteName: 'A', hosts: [] })
  const bytes = Buffer.from('bytes')
  const signature = keys.sign('application/vnd.hanse.receipt.v1+json', bytes)

  assert.equal(verify('application/vnd.hanse.receipt.v1+json', keys.signingKey, bytes, signature), true)
  assert.equal(verify('application/vnd.hanse.manifest.v1+json', keys.signingKey, bytes, signature), false)
  assert.equal(verify('application/vnd.hanse.receipt.v1+json', keys.signingKey, bytes, signature.subarray(1)), false)
})

test('what is sealed to the site opens there only', async t => {
  const keys = await openSiteKeys({ dir: await keyDir(t), siteName: 'A', hosts: [] })
  const other = await openSiteKeys({ dir: await keyDir(t), siteName: 'B', hosts: [] })
  const box = sealBytes(Buffer.from('secret'), keys.sealingKey)

  assert.deepEqual(Buffer.from(keys.openSealed(box) ?? []), Buffer.from('secret'))
  assert.equal(other.openSealed(box), undefined)
  assert.equal(keys.openSealed(Buffer.from('short')), undefined)
})

test('the TLS leaf is issued anew for a new host and before it ends, below the same CA', async t => {
  const dir = await keyDir(t)
  let now = Date.now()
  const clock = () => now
  const keys = await openSiteKeys({ dir, siteName: 'A', hosts: ['a.example'], clock })
  const first = keys.tls()

  assert.equal(await keys.renewTls(['a.example']), false)
  assert.equal(await keys.renewTls(['a.example', 'b.example']), true)
  assert.equal(coversHosts(new X509Certificate(keys.tls().certificate), ['a.example', 'b.example']), true)
  now += 270 * dayMs
  const later = await openSiteKeys({ dir, siteName: 'A', hosts: ['b.example'], clock })
  assert.notEqual(later.tls().certificate, first.certificate)
  assert.equal(new X509Certificate(later.tls().certificate).validFromDate.getTime() > now - 10 * 60_000, true)
  assert.equal(later.caCertificate, keys.caCertificate)
})

test('a damaged TLS file is made again; a damaged identity stops the start and shows no secret', async t => {
  const dir = await keyDir(t)
  const options = { dir, siteName: 'A', hosts: ['a.example'] }
  const keys = await openSiteKeys(options)

  await truncate(join(dir, 'tls.pem'), 100)
  assert.notEqual((await openSiteKeys(options)).tls().certificate, keys.tls().certificate)

  const identity = JSON.parse(await readFile(join(dir, 'site.json'), 'utf8'))
  await writeFile(join(dir, 'site.json'), JSON.stringify({ ...identity, signingSeed: `${identity.signingSeed}AAAA` }))
  await assert.rejects(
    openSiteKeys(options),
    error =>
      isGatewayError(error, 'CONFIG_INVALID') &&
      error.message.includes('signingSeed') &&
      !error.message.includes(identity.signingSeed),
  )
})

test('keys that everybody may read stop the start', async t => {
  const dir = await keyDir(t)
  const options = { dir, siteName: 'A', hosts: [] }
  await openSiteKeys(options)

  await chmod(join(dir, 'site.json'), 0o604)

  await assert.rejects(openSiteKeys(options), error => isGatewayError(error, 'CONFIG_INVALID'))
})
