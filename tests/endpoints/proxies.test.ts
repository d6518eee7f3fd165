/** Endpoints behind proxies: HTTP CONNECT with and without a login, and OpenSSH as a SOCKS 5 proxy. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { type TestContext, test } from 'node:test'
import type { FileStore } from '../../endpoints/file-store.ts'
import { openFileStore } from '../../endpoints/open-place.ts'
import { decodePlace } from '../../endpoints/place.ts'
import { proxyAgent } from '../../endpoints/proxy.ts'
import { readHostKey } from '../../endpoints/sftp.ts'
import { callRest } from '../../gateway/services/rest-client.ts'
import { temporaryDir } from '../support/blobs.ts'
import { makeAuthority } from '../support/certificates.ts'
import { onEnd } from '../support/cleanup.ts'
import { missing, untilListening } from '../support/dcmtk.ts'
import { freePort } from '../support/free-port.ts'
import { missingFtpd, startFtpd } from '../support/ftpd.ts'
import { startProxy } from '../support/proxy.ts'
import { startS3 } from '../support/s3.ts'
import { missingSshd, type RunningSshd, startSshd } from '../support/sshd.ts'
import { startTlsFront } from '../support/tls-front.ts'

const { signal } = new AbortController()
const login = 'hanse:a word'
const hello = Buffer.from('hello')

async function carry(store: FileStore): Promise<string> {
  try {
    await store.put('a', Readable.from([hello]), { offset: 0, size: hello.length, onSent: () => undefined }, signal)
    return await text(await store.get('a', 0, signal))
  } finally {
    await store.close()
  }
}

const sftpPlace = ({ port, user, root, hostKey }: RunningSshd, proxy: object) =>
  decodePlace({ kind: 'sftp', host: '127.0.0.1', port, user, root, hostKey, proxy })

/** OpenSSH's dynamic forwarding, which is a SOCKS 5 proxy. */
async function startSocks(t: TestContext, { port, user, privateKey }: RunningSshd): Promise<number> {
  const key = join(await temporaryDir(t), 'key')
  await writeFile(key, privateKey, { mode: 0o600 })
  const at = await freePort()
  const options = ['-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null', '-o', 'BatchMode=yes']
  const child = spawn(
    'ssh',
    ['-N', '-D', `127.0.0.1:${at}`, '-i', key, '-p', String(port), ...options, `${user}@127.0.0.1`],
    {
      stdio: 'ignore',
    },
  )
  const ended = new Promise<void>(resolve => child.once('exit', () => resolve()))
  onEnd(t, async () => {
    child.kill('SIGKILL')
    await ended
  })
  await untilListening(at)
  return at
}

test('SFTP through HTTP CONNECT and SOCKS: the host key and files', {
  skip: missingSshd || missing('ssh'),
}, async t => {
  const sshd = await startSshd(t)
  const proxy = await startProxy(t, { login })
  const secrets = { privateKey: sshd.privateKey, proxyPassword: 'a word' }
  const place = sftpPlace(sshd, { url: proxy.url, user: 'hanse' })
  assert.ok(place.kind === 'sftp')

  assert.equal(await readHostKey(place, signal, secrets), sshd.hostKey)
  assert.equal(await carry(await openFileStore(place, secrets, signal)), 'hello')
  assert.deepEqual(proxy.connections, Array(2).fill(`127.0.0.1:${sshd.port}`))
  await assert.rejects(openFileStore(place, { ...secrets, proxyPassword: 'another' }, signal), {
    code: 'PROXY_REFUSED',
    message: /refuses this login/,
  })

  const behind = await startSshd(t)
  const socks = await startSocks(t, sshd)
  const other = sftpPlace(behind, { url: `socks5://127.0.0.1:${socks}` })
  assert.equal(await carry(await openFileStore(other, { privateKey: behind.privateKey }, signal)), 'hello')
  assert.deepEqual(await readdir(behind.root), ['a'])
  const closed = sftpPlace({ ...behind, port: await freePort() }, { url: `socks5://127.0.0.1:${socks}` })
  await assert.rejects(openFileStore(closed, { privateKey: behind.privateKey }, signal), { code: 'PROXY_REFUSED' })
  const none = sftpPlace(behind, { url: `socks5://127.0.0.1:${proxy.url.split(':').at(-1)}` })
  await assert.rejects(openFileStore(none, { privateKey: behind.privateKey }, signal), { code: 'PROXY_REFUSED' })
})

for (const tls of ['none', 'explicit'] as const) {
  test(`FTP (TLS: ${tls}) through HTTP CONNECT: control and data connections`, { skip: missingFtpd }, async t => {
    const { port, user, password, ca } = await startFtpd(t, tls)
    const proxy = await startProxy(t, { login })
    const on = { url: proxy.url, user: 'hanse' }
    const place = decodePlace({ kind: 'ftp', host: '127.0.0.1', port, user, tls, ca, proxy: on })

    assert.equal(await carry(await openFileStore(place, { password, proxyPassword: 'a word' }, signal)), 'hello')
    assert.ok(proxy.connections.length >= 3)
    await assert.rejects(openFileStore(place, { password, proxyPassword: 'another' }, signal), {
      code: 'PROXY_REFUSED',
    })
  })
}

test('S3 and HTTPS through HTTP CONNECT', async t => {
  const proxy = await startProxy(t)
  const { endpoint, bucket, accessKeyId, secretAccessKey } = await startS3(t)
  const place = decodePlace({ kind: 's3', endpoint, bucket, accessKeyId, proxy: { url: proxy.url } })
  assert.equal(await carry(await openFileStore(place, { secretAccessKey }, signal)), 'hello')
  assert.ok(proxy.connections.includes(new URL(endpoint).host))

  const authority = await makeAuthority(await temporaryDir(t), 'Partner')
  const [server, ours] = [await authority.issue('server'), await authority.issue('hanse')]
  const inner = createServer((_request, answer) => answer.end('inside')).listen(0, '127.0.0.1')
  await once(inner, 'listening')
  onEnd(t, () => void inner.close())
  const port = await startTlsFront(t, (inner.address() as AddressInfo).port, {
    ...server,
    clients: authority.certificate,
  })
  const url = `https://localhost:${port}`
  const answer = await callRest(
    {
      ...{ name: 'PARTNER', url, headers: {}, timeoutMs: 10_000, ca: authority.certificate },
      ...{
        certificate: ours.certificate,
        key: ours.key,
        agent: proxyAgent(url, { url: proxy.url, user: undefined }, undefined),
      },
    },
    { method: 'GET', path: '/' },
    signal,
  )
  assert.equal(await text(answer), 'inside')
  assert.ok(proxy.connections.includes(`localhost:${port}`))
})
