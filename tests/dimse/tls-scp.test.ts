import assert from 'node:assert/strict'
import { copyFile, readFile, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { openCredentials } from '../../gateway/dimse/credentials.ts'
import type { Identity } from '../../gateway/services/modality-caller.ts'
import { temporaryDir } from '../support/blobs.ts'
import type { CertificateFiles } from '../support/certificates.ts'
import { missing, run, runOk } from '../support/dcmtk.ts'
import { memoryLog } from '../support/memory-log.ts'
import { until } from '../support/until.ts'
import {
  associateRequest,
  connectRaw,
  ctImageStorage,
  datasetOffsetOf,
  explicitLittleEndian,
  pdu,
  pdv,
  responseOf,
  sampleFile,
  storeCommand,
  storeMessage,
} from './fixture.ts'
import { connectRawTls, connectTls, startTlsScp, testCertificates } from './tls-fixture.ts'

const skip = missing('echoscu', 'storescu')
const ctContext = { id: 1, abstractSyntax: ctImageStorage, transferSyntaxes: [explicitLittleEndian] }

/** Options of DCMTK's tools. */
const withCertificate = ({ keyFile, certificateFile }: CertificateFiles, caFile: string): string[] => [
  ...['+tls', keyFile, certificateFile, '+cf', caFile],
]
const anonymous = (caFile: string): string[] => ['+tla', '+cf', caFile]

test('echoscu and storescu reach us by TLS with a certificate of our authority', { skip }, async t => {
  const { tlsPort, certificates, received, scp } = await startTlsScp(t)
  const { authority, modality } = certificates
  const file = join(await temporaryDir(t), 'image.dcm')
  await writeFile(file, sampleFile({ sopInstanceUid: '1.2.3', rows: 512 }).bytes)
  const options = withCertificate(modality, authority.certificateFile)

  await runOk(t, 'echoscu', [...options, '127.0.0.1', String(tlsPort)])
  await runOk(t, 'storescu', [...options, '-aet', 'CT1', '127.0.0.1', String(tlsPort), file])

  const [stored] = received
  assert.ok(stored)
  const source = await readFile(file)
  assert.deepEqual(await readFile(stored.path), source.subarray(datasetOffsetOf(source)))
  assert.deepEqual(stored.request.association, {
    callingAe: 'CT1',
    calledAe: 'ANY-SCP',
    remoteAddress: '127.0.0.1',
    certificate: { fingerprint: modality.fingerprint, commonName: 'CT1' },
  })
  await until('the connections to be gone', 30_000, () => scp.counters().connectionsOpen === 0)
})

test('a client without certificate is served only where none is required', { skip }, async t => {
  for (const clients of ['optional', 'off', 'required'] as const) {
    const { tlsPort, certificates, warnings, refusals } = await startTlsScp(t, { clients })

    const { code } = await run(t, 'echoscu', [
      ...anonymous(certificates.authority.certificateFile),
      ...['127.0.0.1', String(tlsPort)],
    ])

    assert.equal(code === 0, clients !== 'required', clients)
    assert.deepEqual(
      warnings('TLS'),
      clients === 'required' ? ['TLS connection refused: the client presented no certificate'] : [],
    )
    assert.deepEqual(
      refusals.map(refusal => refusal.reason),
      clients === 'required' ? ['certificate'] : [],
    )
  }
})

test('foreign and expired certificates are refused, and the log says why and what to do', { skip }, async t => {
  const { tlsPort, certificates, warnings } = await startTlsScp(t)
  const { authority, foreign, expired } = certificates

  for (const client of [foreign, expired]) {
    const options = withCertificate(client, authority.certificateFile)
    const { code } = await run(t, 'echoscu', [...options, '127.0.0.1', String(tlsPort)])
    assert.notEqual(code, 0)
  }

  const [first = ''] = warnings('TLS')
  assert.match(first, /from an authority that is not trusted \(\w+\).*--certificate FINGERPRINT/)
  assert.ok(first.includes(foreign.fingerprint))
})

test('an expired certificate is named as such', async t => {
  const { tlsPort, certificates, warnings } = await startTlsScp(t)

  const peer = await connectRawTls(t, tlsPort, certificates.expired)
  await peer.closed()

  assert.match(warnings('TLS')[0] ?? '', /^TLS connection refused: the client's certificate is expired since \d{4}-/)
})

test('a registered certificate is accepted, whoever issued it, but not beyond its end', async t => {
  const { foreign, expired } = await testCertificates()
  const seen: unknown[] = []
  const { tlsPort } = await startTlsScp(t, {
    registered: [foreign.fingerprint, expired.fingerprint],
    scp: {
      identifyCaller: async (caller): Promise<Identity> => {
        seen.push(caller.certificate)
        return { kind: 'unknown' }
      },
    },
  })

  const accepted = await connectRawTls(t, tlsPort, foreign)
  accepted.write(associateRequest([ctContext]))
  assert.equal((await accepted.read())?.type, 0x02)
  const refused = await connectRawTls(t, tlsPort, expired)
  await refused.closed()

  // Nobody vouches for its name.
  assert.deepEqual(seen, [{ fingerprint: foreign.fingerprint }])
})

test('a certificate under a foreign AE title is refused, and an AE title without its certificate', async t => {
  const identities: Identity[] = [
    { kind: 'impostor', needs: 'title' },
    { kind: 'impostor', needs: 'certificate' },
  ]
  const { tlsPort, certificates, refusals } = await startTlsScp(t, {
    scp: { identifyCaller: async () => identities.shift() ?? { kind: 'unknown' } },
  })

  for (let count = 0; count < 2; count += 1) {
    const peer = await connectRawTls(t, tlsPort, certificates.modality)
    peer.write(associateRequest([ctContext], { callingAe: `CT${count}` }))
    assert.deepEqual(await peer.read(), { type: 0x03, body: Buffer.from([0, 1, 1, 3]) })
  }

  assert.deepEqual(
    refusals.map(refusal => refusal.reason),
    ['certificate', 'certificate'],
  )
})

test('only TLS 1.2 and 1.3 are spoken, with the cipher suites of the profile', async t => {
  const { tlsPort, certificates, warnings } = await startTlsScp(t)
  const client = { cert: certificates.modality.certificate, key: certificates.modality.key }
  const versions = async (options: object): Promise<string> => {
    const socket = await connectTls(t, tlsPort, { ...client, ...options }).catch((error: Error) => error)
    return socket instanceof Error ? 'refused' : `${socket.getProtocol()} ${socket.getCipher().standardName}`
  }

  assert.equal(await versions({}), 'TLSv1.3 TLS_AES_256_GCM_SHA384')
  assert.equal(await versions({ maxVersion: 'TLSv1.2' }), 'TLSv1.2 TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384')
  const old = { ciphers: 'ALL:@SECLEVEL=0', minVersion: 'TLSv1', maxVersion: 'TLSv1.1' }
  assert.equal(await versions(old), 'refused')
  for (const ciphers of ['AES128-SHA', 'AES256-GCM-SHA384', 'ECDHE-RSA-AES128-SHA256', 'NULL-SHA256:@SECLEVEL=0']) {
    assert.equal(await versions({ ciphers, maxVersion: 'TLSv1.2' }), 'refused', ciphers)
  }
  assert.match(warnings('TLS')[0] ?? '', /offers no TLS 1\.2 or 1\.3/)
})

test('openssl agrees on the versions', { skip: missing('openssl') }, async t => {
  const { tlsPort, certificates } = await startTlsScp(t, { clients: 'optional' })
  const ask = (version: string) =>
    run(t, 'openssl', [
      ...['s_client', '-connect', `127.0.0.1:${tlsPort}`, version, '-brief', '-cipher', 'ALL:@SECLEVEL=0'],
      ...['-CAfile', certificates.authority.certificateFile, '-verify_return_error'],
    ])

  assert.match((await ask('-tls1_3')).output, /Protocol version: TLSv1\.3[\s\S]*Verification: OK/)
  assert.match((await ask('-tls1_2')).output, /Protocol version: TLSv1\.2[\s\S]*Verification: OK/)
  assert.doesNotMatch((await ask('-tls1_1')).output, /Protocol version/)
})

test('plain DICOM on the TLS port is refused with a clear line, and so is TLS on the plain port', async t => {
  const { port, tlsPort, warnings } = await startTlsScp(t)

  const plain = await connectRaw(t, tlsPort)
  plain.write(associateRequest([ctContext]))
  await plain.closed()
  await assert.rejects(connectTls(t, port))

  assert.deepEqual(warnings('TLS'), ['TLS connection refused: the client does not speak TLS'])
  assert.match(warnings('association aborted')[0] ?? '', /TLS on the port for plain DICOM/)
})

test('connections that never finish their handshake end, and make room for others meanwhile', async t => {
  const { tlsPort, certificates, scp, warnings } = await startTlsScp(t, {
    scp: { limits: { handshakes: 4, associationRequestMs: 400 } },
  })
  const silent = Array.from({ length: 12 }, () => connect({ host: '127.0.0.1', port: tlsPort }))
  for (const socket of silent) {
    socket.on('error', () => undefined)
    t.after(() => socket.destroy())
  }
  await until('most are given up', 30_000, () => silent.filter(socket => socket.closed).length >= 8)
  assert.ok(scp.counters().connectionsOpen <= 5)

  const peer = await connectRawTls(t, tlsPort, certificates.modality)
  peer.write(associateRequest([ctContext]))
  assert.equal((await peer.read())?.type, 0x02)

  await until('the rest times out', 30_000, () => scp.counters().connectionsOpen === 1)
  assert.match(warnings('TLS')[0] ?? '', /the handshake took too long/)
})

test('a slow store stops what is sent by TLS as well', async t => {
  const begun = Promise.withResolvers<void>()
  const goOn = Promise.withResolvers<void>()
  let stored = 0
  const { tlsPort, certificates } = await startTlsScp(t, {
    scp: {
      limits: { heldBytesPerAssociation: 1_000_000 },
      store: {
        begin: async () => ({
          async write(chunks) {
            begun.resolve()
            await goOn.promise
            for (const chunk of chunks) stored += chunk.length
          },
          finish: async () => ({ status: 0 }),
          discard: async () => undefined,
        }),
      },
    },
  })
  const peer = await connectRawTls(t, tlsPort, certificates.modality)
  peer.write(associateRequest([ctContext]))
  await peer.read()
  const part = Buffer.alloc(200_000, 7)

  peer.write(pdu(0x04, [pdv(1, 3, storeCommand())]))
  for (let count = 0; count < 150; count += 1) peer.write(pdu(0x04, [pdv(1, count === 149 ? 2 : 0, part)]))
  await begun.promise
  const held = process.memoryUsage().rss
  await until('the sender is stopped', 30_000, () => peer.socket.writableLength > 10_000_000)
  const waiting = peer.socket.writableLength
  for (let turn = 0; turn < 20; turn += 1) await new Promise(resolve => setImmediate(resolve))
  assert.equal(peer.socket.writableLength, waiting)
  assert.ok(process.memoryUsage().rss - held < 60_000_000)
  goOn.resolve()

  assert.equal(responseOf(await peer.read()).get(0x0900), 0)
  assert.equal(stored, 150 * part.length)
})

test('many instances by TLS arrive byte by byte', async t => {
  const { tlsPort, certificates, received } = await startTlsScp(t)
  const peer = await connectRawTls(t, tlsPort, certificates.modality)
  peer.write(associateRequest([ctContext]))
  await peer.read()
  const ids = Array.from({ length: 30 }, (_, index) => index + 1)

  const before = peer.chunks
  peer.write(
    Buffer.concat(
      ids.map(id => storeMessage(1, storeCommand({ 272: id, 4096: `1.2.${id}` }), Buffer.alloc(70_000, id))),
    ),
  )
  for (const id of ids) assert.equal(responseOf(await peer.read()).get(0x0120), id)

  assert.equal(peer.chunks - before, ids.length)
  for (const [index, { path }] of received.entries()) {
    assert.deepEqual(await readFile(path), Buffer.alloc(70_000, index + 1))
  }
})

test('a certificate that is replaced is used for the next connection, a broken one never', async t => {
  const { authority, gateway } = await testCertificates()
  const next = await authority.issue('renewed')
  const dir = await temporaryDir(t)
  const files = { certificateFile: join(dir, 'cert.pem'), keyFile: join(dir, 'key.pem') }
  const put = async (from: CertificateFiles): Promise<void> => {
    await copyFile(from.certificateFile, files.certificateFile)
    await copyFile(from.keyFile, files.keyFile)
  }
  await put(gateway)
  const lines: Parameters<typeof memoryLog>[0] = []
  const credentials = await openCredentials({
    source: { ...files, issue: () => Promise.reject(new Error('not asked')) },
    log: memoryLog(lines),
    checkMs: 20,
  })
  const { tlsPort } = await startTlsScp(t, { clients: 'off', credentials })
  const subject = async (): Promise<string | undefined> =>
    (await connectTls(t, tlsPort)).getPeerX509Certificate()?.subject

  assert.equal(await subject(), 'CN=gateway')
  await writeFile(files.certificateFile, 'no certificate')
  await until('it is noticed', 30_000, () => lines.some(line => /cannot be used/.test(line.message)))
  assert.equal(await subject(), 'CN=gateway')
  await put(next)
  await until('the new one is used', 30_000, async () => (await subject()) === 'CN=renewed')
})
