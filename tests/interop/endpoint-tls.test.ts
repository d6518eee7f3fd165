/** Systems of third parties by TLS with client certificates: whole studies arrive, and whoever is not the one is refused. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import type { EndpointInput } from '../../gateway/services/endpoint.ts'
import { temporaryDir } from '../support/blobs.ts'
import { makeAuthority } from '../support/certificates.ts'
import { missing, startStorescp } from '../support/dcmtk.ts'
import { type BuiltInstance, buildInstance } from '../support/dicom-builder.ts'
import { type EndpointSite, endpointFolder, filesBelow, startEndpointSite } from '../support/endpoints.ts'
import { missingOrthanc, startOrthanc } from '../support/orthanc.ts'
import { startProcessGateway } from '../support/process-gateway.ts'
import { startTlsFront } from '../support/tls-front.ts'
import { until } from '../support/until.ts'

const instances = process.env['HANSE_SOAK'] ? 300 : 20
const study = (count: number): BuiltInstance[] =>
  Array.from({ length: count }, (_, index) =>
    buildInstance({
      seed: index + 1,
      rows: 8,
      cols: 8,
      patientId: 'QZID-4711',
      studyInstanceUid: '1.2.826.0.1.3680043.10.9.780',
      seriesInstanceUid: '1.2.826.0.1.3680043.10.9.780.1',
      sopInstanceUid: `1.2.826.0.1.3680043.10.9.780.1.${index + 1}`,
    }),
  )

/** Certificates of a partner and of ours, and those that are wrong. */
async function makeCertificates(t: TestContext) {
  const dir = await temporaryDir(t)
  const [partner, stranger] = [await makeAuthority(dir, 'Partner'), await makeAuthority(dir, 'Stranger')]
  const [server, expired] = [await partner.issue('server'), await partner.issue('expired', { ended: true })]
  const [ours, theirs] = [await partner.issue('hanse'), await stranger.issue('hanse')]
  return { partner, stranger, server, expired, ours, theirs }
}

const secretsOf = ({ certificate, key }: { certificate: string; key: string }) => ({
  clientCertificate: certificate,
  clientKey: key,
})

const put = (site: EndpointSite, kind: EndpointInput['kind'], settings: object, secrets: object = {}) =>
  site.endpoints.put(site.admin, 'PARTNER', { kind, settings, secrets, profile: 'trial' })

/** The words with which an endpoint was stopped after a send. */
async function refusal(site: EndpointSite, row: number): Promise<string> {
  await site.send(row, 'PARTNER')
  const { reasonCode, reason } = await until('a stopped endpoint', 30_000, async () => {
    const endpoint = await site.endpoints.load(site.admin, 'PARTNER')
    return endpoint.state === 'stopped' && endpoint
  }).catch(async error => {
    const { rows } = await site.db.pool.query('select state, error_code, error from transfers')
    throw new Error(`${String(error)}; ${JSON.stringify(rows)}`)
  })
  await site.db.pool.query(`update transfers set state = 'cancelled'`)
  await site.endpoints.resume(site.admin, 'PARTNER')
  return `${reasonCode}: ${reason}`
}

/** Digests of what was sent, as the sender counts them. */
async function sentDigests(site: EndpointSite, transfer: string): Promise<string[]> {
  const { rows } = await site.db.pool.query<{ sha256: Buffer }>(
    'select sha256 from transfer_outputs where transfer = $1',
    [transfer],
  )
  return rows.map(({ sha256 }) => sha256.toString('hex')).sort()
}

const digestsOf = (files: Iterable<Uint8Array>): string[] =>
  [...files].map(bytes => createHash('sha256').update(bytes).digest('hex')).sort()

test('DCMTK by C-STORE: whole with our certificate, refused with a wrong authority, pin, date or client', {
  skip: missing('storescp'),
}, async t => {
  const { partner, stranger, server, expired, ours, theirs } = await makeCertificates(t)
  const folder = await endpointFolder(t)
  const secure = ({ keyFile, certificateFile }: typeof server): string[] => [
    ...['+tls', keyFile, certificateFile, '+cf', partner.certificateFile, '-rc'],
    ...['-od', folder],
  ]
  const { port } = await startStorescp(t, secure(server))
  const late = await startStorescp(t, secure(expired))
  const site = await startEndpointSite(t)
  const at = (to: number, tls: object) => ({ host: '127.0.0.1', port: to, aeTitle: 'PARTNER', tls })
  const [own, few] = [secretsOf(ours), await site.store(study(2))]

  await put(site, 'dimse', at(port, { ca: stranger.certificate }), own)
  assert.match(await refusal(site, few), /^ENDPOINT_HOST_KEY: .*authority that is not trusted/)
  await put(site, 'dimse', at(late.port, { ca: partner.certificate }), own)
  assert.match(await refusal(site, few), /^ENDPOINT_HOST_KEY: .*expired/)
  await put(site, 'dimse', at(port, { fingerprint: expired.fingerprint }), own)
  assert.match(await refusal(site, few), /^ENDPOINT_HOST_KEY: .*another certificate/)
  await put(site, 'dimse', at(port, { ca: partner.certificate }), secretsOf(theirs))
  assert.match(await refusal(site, few), /^ENDPOINT_LOGIN: .*refused our certificate/)
  assert.equal((await filesBelow(folder)).size, 0)

  await put(site, 'dimse', at(port, { fingerprint: server.fingerprint }), own)
  const id = await site.send(await site.store(study(instances)), 'PARTNER')
  await site.untilState(id, 'delivered')

  const files = await filesBelow(folder)
  assert.equal(files.size, instances)
  for (const bytes of files.values()) assert.ok(!bytes.includes('QZID'))
})

// Debian's Orthanc 1.10.1 ends with the first request by TLS of its own: it stands behind a server that speaks TLS.
test('an Orthanc by its REST API behind TLS: password and client certificate, whole', {
  skip: missingOrthanc,
}, async t => {
  const { partner, stranger, server, ours } = await makeCertificates(t)
  const login = { AuthenticationEnabled: true, RegisteredUsers: { hanse: 'a word' } }
  const orthanc = await startOrthanc(t, {}, login)
  const port = await startTlsFront(t, Number(new URL(orthanc.url).port), { ...server, clients: partner.certificate })
  const site = await startEndpointSite(t)
  const settings = { url: `https://127.0.0.1:${port}`, username: 'hanse', ca: partner.certificate }
  const secrets = { ...secretsOf(ours), password: 'a word' }
  const few = await site.store(study(2))

  await put(site, 'orthanc', { ...settings, ca: stranger.certificate }, secrets)
  assert.match(await refusal(site, few), /^ENDPOINT_HOST_KEY: /)
  await put(site, 'orthanc', settings, { ...secrets, password: 'another' })
  assert.match(await refusal(site, few), /^ENDPOINT_LOGIN: .*login/)
  await put(site, 'orthanc', settings, secrets)
  const id = await site.send(await site.store(study(instances)), 'PARTNER')
  await site.untilState(id, 'delivered')

  const headers = { authorization: `Basic ${Buffer.from('hanse:a word').toString('base64')}` }
  const ask = async (path: string): Promise<Buffer> =>
    Buffer.from(await (await fetch(`${orthanc.url}${path}`, { headers })).arrayBuffer())
  const ids: unknown = JSON.parse((await ask('/instances')).toString())
  assert.ok(Array.isArray(ids))
  const files = await Promise.all(ids.map(each => ask(`/instances/${each}/file`)))
  assert.deepEqual(digestsOf(files), await sentDigests(site, id))
})

test('another Hanse by STOW-RS behind TLS that demands client certificates, whole', async t => {
  const { partner, server, ours, theirs } = await makeCertificates(t)
  const other = await startProcessGateway(t, 'stow-tls')
  const port = await startTlsFront(t, other.ports.http, { ...server, clients: partner.certificate })
  const site = await startEndpointSite(t)
  const settings = { url: `https://127.0.0.1:${port}/dicom-web`, ca: partner.certificate }

  await put(site, 'stow', settings, secretsOf(theirs))
  const refused = await site.send(await site.store(study(2)), 'PARTNER')
  await until('a transfer that waits', 30_000, async () => {
    const row = await site.db.kysely.selectFrom('transfers').select('error').executeTakeFirstOrThrow()
    return row.error?.includes('client certificate')
  })
  await site.db.pool.query(`update transfers set state = 'cancelled' where id = $1`, [refused])
  await put(site, 'stow', settings, secretsOf(ours))
  const id = await site.send(await site.store(study(instances)), 'PARTNER')
  await site.untilState(id, 'delivered')

  const ids = await other.api<readonly string[]>('GET', '/instances')
  const files = await Promise.all(
    ids.map(async each => Buffer.from(await (await fetch(`${other.url}/instances/${each}/file`)).arrayBuffer())),
  )
  assert.deepEqual(digestsOf(files), await sentDigests(site, id))
})
