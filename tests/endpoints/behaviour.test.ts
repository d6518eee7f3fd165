/** One behaviour for all places: a package arrives whole, in order, once, or the error says why not. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { type TestContext, test } from 'node:test'
import { deliverFiles, removeDelivery } from '../../endpoints/delivery.ts'
import type { FileStore } from '../../endpoints/file-store.ts'
import { openFileStore } from '../../endpoints/open-place.ts'
import type { PackageFile } from '../../endpoints/package.ts'
import { decodePlace, type Place, type PlaceSecrets } from '../../endpoints/place.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { temporaryDir } from '../support/blobs.ts'
import { missingFtpd, startFtpd } from '../support/ftpd.ts'
import { missingRoot } from '../support/own-users.ts'
import { startS3 } from '../support/s3.ts'
import { missingSshd, startChrootedSshd, startSshd } from '../support/sshd.ts'
import { missingVsftpd, startVsftpd } from '../support/vsftpd.ts'
import { packageFile, seededBytes } from './package-files.ts'

interface Tried {
  readonly place: Place
  readonly secrets: PlaceSecrets
  /** Secrets that are wrong; undefined where nobody logs in. */
  readonly wrong?: PlaceSecrets
}

const ftp =
  (tls: 'none' | 'explicit' | 'implicit') =>
  async (t: TestContext): Promise<Tried> => {
    const { port, user, password, ca } = await startFtpd(t, tls)
    const place = decodePlace({ kind: 'ftp', host: '127.0.0.1', port, user, tls, ...(tls !== 'none' && { ca }) })
    return { place, secrets: { password }, wrong: { password: 'another' } }
  }

const vsftpd =
  (tls: 'none' | 'explicit' | 'implicit') =>
  async (t: TestContext): Promise<Tried> => {
    const { port, user, password, ca } = await startVsftpd(t, tls)
    const at = { host: '127.0.0.1', port, user, tls, root: '/upload', ...(tls !== 'none' && { ca }) }
    return { place: decodePlace({ kind: 'ftp', ...at }), secrets: { password }, wrong: { password: 'another' } }
  }

const places: readonly {
  readonly name: string
  readonly skip: string | false
  start(t: TestContext): Promise<Tried>
}[] = [
  {
    name: 'folder',
    skip: false,
    start: async t => ({ place: decodePlace({ kind: 'folder', root: await temporaryDir(t) }), secrets: {} }),
  },
  {
    name: 'OpenSSH',
    skip: missingSshd,
    async start(t) {
      const { port, user, privateKey, hostKey, root } = await startSshd(t)
      const other = await startSshd(t)
      const place = decodePlace({ kind: 'sftp', host: '127.0.0.1', port, user, root, hostKey })
      return { place, secrets: { privateKey }, wrong: { privateKey: other.privateKey } }
    },
  },
  {
    name: 'OpenSSH with a password and a chroot',
    skip: missingSshd || missingRoot,
    async start(t) {
      const { port, user, password, hostKey } = await startChrootedSshd(t)
      const place = decodePlace({ kind: 'sftp', host: '127.0.0.1', port, user, root: '/upload', hostKey })
      return { place, secrets: { password }, wrong: { password: 'another' } }
    },
  },
  { name: 'vsftpd', skip: missingVsftpd, start: vsftpd('none') },
  // The gate has vsftpd with TLS in tests/interop/endpoint-packaging.test.ts.
  ...(process.env['HANSE_SOAK'] === '1'
    ? [
        { name: 'vsftpd with explicit TLS', skip: missingVsftpd, start: vsftpd('explicit') },
        { name: 'vsftpd with implicit TLS', skip: missingVsftpd, start: vsftpd('implicit') },
      ]
    : []),
  { name: 'ProFTPD', skip: missingFtpd, start: ftp('none') },
  { name: 'ProFTPD with explicit TLS', skip: missingFtpd, start: ftp('explicit') },
  { name: 'ProFTPD with implicit TLS', skip: missingFtpd, start: ftp('implicit') },
  {
    name: 'S3',
    skip: false,
    async start(t) {
      const { endpoint, bucket, accessKeyId, secretAccessKey } = await startS3(t)
      const place = decodePlace({ kind: 's3', endpoint, bucket, accessKeyId })
      // This server takes any signature.
      return { place, secrets: { secretAccessKey } }
    },
  },
]

const study = (): readonly PackageFile[] => [
  packageFile('done', Buffer.from('done\n'), 'done'),
  ...Array.from({ length: 12 }, (_, i) => packageFile(`DICOM/S${i % 3}/I${i}`, seededBytes(i, 200_000 + i))),
  packageFile('manifest.json', Buffer.from('{}'), 'manifest'),
]

async function content(store: FileStore, path: string, signal: AbortSignal): Promise<Buffer> {
  return Buffer.concat(await (await store.get(path, 0, signal)).toArray())
}

async function tree(store: FileStore, path: string, signal: AbortSignal): Promise<string[]> {
  const out: string[] = []
  for (const { name, kind } of await store.list(path, signal)) {
    if (kind === 'folder') out.push(...(await tree(store, `${path}/${name}`, signal)))
    else out.push(`${path}/${name}`)
  }
  return out.sort()
}

const watching = () => {
  const done: string[] = []
  let sent = 0
  return {
    done,
    get sent() {
      return sent
    },
    isDone: (name: string) => done.includes(name),
    onDone: async ({ name }: PackageFile) => void done.push(name),
    onSent: (bytes: number) => {
      sent += bytes
    },
    mayContinue: async () => true,
  }
}

for (const { name, skip, start } of places) {
  test(`${name}: a package arrives whole, what closes it last`, { skip }, async t => {
    const { place, secrets } = await start(t)
    const { signal } = new AbortController()
    const open = (each: AbortSignal) => openFileStore(place, secrets, each)
    const files = study()
    const progress = watching()

    assert.equal(await deliverFiles(open, 'trial/one', files, { parallel: 3 }, progress, signal), 'delivered')

    assert.deepEqual(progress.done.slice(-2), ['manifest.json', 'done'])
    const store = await open(signal)
    const names = files.map(file => `trial/one/${file.name}`).sort()
    // The S3 server of the tests leaves folders out of listings whose names come before those of files.
    if (place.kind !== 's3') assert.deepEqual(await tree(store, 'trial/one', signal), names)
    for (const file of files) {
      const found = createHash('sha256')
        .update(await content(store, `trial/one/${file.name}`, signal))
        .digest('hex')
      assert.equal(found, file.sha256, file.name)
    }
    await store.close()
    assert.equal(progress.sent >= files.reduce((sum, { size }) => sum + size, 0), true)

    await removeDelivery(open, 'trial/one', files, 'all', signal)
    const after = await open(signal)
    assert.deepEqual(await tree(after, 'trial/one', signal).catch(() => []), [])
    await after.close()
  })

  test(`${name}: a delivery that is stopped goes on where it was and sends nothing twice`, { skip }, async t => {
    const { place, secrets } = await start(t)
    const { signal } = new AbortController()
    const open = (each: AbortSignal) => openFileStore(place, secrets, each)
    const files = study()
    const progress = watching()
    let asked = 0
    const hesitant = { ...progress, isDone: progress.isDone, mayContinue: async () => ++asked <= 5 }

    assert.equal(await deliverFiles(open, 'one', files, { parallel: 1 }, hesitant, signal), 'stopped')
    assert.equal(progress.done.length, 5)
    assert.ok(!progress.done.includes('done'))
    assert.equal(await deliverFiles(open, 'one', files, { parallel: 2 }, progress, signal), 'delivered')

    assert.equal(progress.done.length, files.length)
    assert.equal(new Set(progress.done).size, files.length)
    assert.equal(
      progress.sent,
      files.reduce((sum, { size }) => sum + size, 0),
    )
  })

  test(`${name}: wrong secrets and paths that leave the root are refused`, { skip }, async t => {
    const { place, secrets, wrong } = await start(t)
    const { signal } = new AbortController()
    if (wrong) {
      const open = async () => {
        const store = await openFileStore(place, wrong, signal)
        const options = { offset: 0, size: 1, onSent: () => {} }
        await store.put('x', Readable.from([Buffer.of(0)]), options, signal).finally(() => store.close())
      }
      await assert.rejects(
        open(),
        error => isGatewayError(error, 'ENDPOINT_LOGIN') || isGatewayError(error, 'ENDPOINT_DENIED'),
      )
    }
    const store = await openFileStore(place, secrets, signal)
    await assert.rejects(
      async () => await store.stat('../outside', signal),
      error => isGatewayError(error, 'ENDPOINT_UNSUPPORTED'),
    )
    await store.close()
  })
}

test('OpenSSH: another host key than the confirmed one gets no login, and without a confirmed one nobody tries', {
  skip: missingSshd,
}, async t => {
  const server = await startSshd(t)
  const { port, user, privateKey, hostKey, root } = server
  const { signal } = new AbortController()
  const settings = { kind: 'sftp', host: '127.0.0.1', port, user, root }
  await server.kill()
  await server.changeHostKey()
  await server.start()

  for (const place of [decodePlace({ ...settings, hostKey }), decodePlace(settings)])
    await assert.rejects(openFileStore(place, { privateKey }, signal), error =>
      isGatewayError(error, 'ENDPOINT_HOST_KEY'),
    )
})
