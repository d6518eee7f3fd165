/** Places that have no room, forbid it, or are left in the middle: the error says why, nothing closes the delivery, and the next attempt ends it. */
import assert from 'node:assert/strict'
import { chmod, mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { deliverFiles } from '../../endpoints/delivery.ts'
import { openFileStore } from '../../endpoints/open-place.ts'
import type { PackageFile } from '../../endpoints/package.ts'
import { decodePlace, type Place, type PlaceSecrets } from '../../endpoints/place.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { missingNamespaces, runWithDisks, smallDisks } from '../interop/small-disk.ts'
import { onEnd } from '../support/cleanup.ts'
import { missingFtpd, startFtpd } from '../support/ftpd.ts'
import { launchSshd, missingSshd, startSshd } from '../support/sshd.ts'
import { packageFile, seededBytes } from './package-files.ts'

const { signal } = new AbortController()
const [disk] = smallDisks()

const files: readonly PackageFile[] = [
  ...Array.from({ length: 6 }, (_, i) => packageFile(`S/I${i}`, seededBytes(i, 1_000_000 + i))),
  packageFile('done', Buffer.from('done\n'), 'done'),
]
const names = ['S', ...Array.from({ length: 6 }, (_, i) => `S/I${i}`), 'done'].toSorted()

function deliver(
  place: Place,
  secrets: PlaceSecrets,
  finished: Set<string>,
  { until = signal, onSent = () => {} }: { until?: AbortSignal; onSent?: () => void } = {},
): Promise<unknown> {
  const progress = {
    isDone: (name: string) => finished.has(name),
    onDone: async ({ name }: PackageFile) => void finished.add(name),
    onSent,
    mayContinue: async () => true,
  }
  return deliverFiles(each => openFileStore(place, secrets, each), 'one', files, { parallel: 2 }, progress, until)
}

const found = async (root: string): Promise<string[]> =>
  (await readdir(join(root, 'one'), { recursive: true })).toSorted()

if (disk) {
  const tries = async (t: TestContext, kind: 'folder' | 'sftp') => {
    if (kind === 'folder') {
      const root = join(disk.dir, 'folder')
      await mkdir(root)
      return { root, place: decodePlace({ kind, root }), secrets: {} }
    }
    const server = await launchSshd(join(disk.dir, 'sshd'))
    onEnd(t, () => server.kill())
    const { port, user, root, hostKey, privateKey } = server
    return { root, place: decodePlace({ kind, host: '127.0.0.1', port, user, root, hostKey }), secrets: { privateKey } }
  }
  for (const kind of ['folder', 'sftp'] as const) {
    test(`${kind}: a full disk is said to be full, and with room again the delivery ends`, async t => {
      const { root, place, secrets } = await tries(t, kind)
      const finished = new Set<string>()
      await disk.fillTo(2_500_000)
      await assert.rejects(deliver(place, secrets, finished), error => isGatewayError(error, 'ENDPOINT_FULL'))
      assert.ok(!(await found(root)).includes('done'))
      await disk.free()

      await deliver(place, secrets, finished)

      assert.deepEqual(await found(root), names)
    })
  }
} else {
  test('places on full disks', { skip: missingSshd || (await missingNamespaces()) }, async t => {
    await runWithDisks(t, import.meta.filename, { count: 1, sizeMiB: 24 })
  })

  test('a folder that may not be written any more is said to be forbidden, until it may again', {
    skip: missingFtpd,
  }, async t => {
    const { port, user, password, root } = await startFtpd(t, 'none')
    const place = decodePlace({ kind: 'ftp', host: '127.0.0.1', port, user, tls: 'none' })
    const finished = new Set<string>()
    await chmod(root, 0o555)
    await assert.rejects(deliver(place, { password }, finished), error => isGatewayError(error, 'ENDPOINT_DENIED'))
    assert.deepEqual([finished.size, await readdir(root)], [0, []])
    await chmod(root, 0o755)

    await deliver(place, { password }, finished)

    assert.deepEqual(await found(root), names)
  })

  for (const tls of ['none', 'explicit'] as const) {
    test(`a file that an FTP server (TLS: ${tls}) does not let us write is said to be forbidden`, {
      skip: missingFtpd,
    }, async t => {
      const { port, user, password, root, ca } = await startFtpd(t, tls)
      const place = decodePlace({ kind: 'ftp', host: '127.0.0.1', port, user, tls, ca })
      await mkdir(join(root, 'one', 'S'), { recursive: true })
      await chmod(join(root, 'one', 'S'), 0o555)

      for (let attempt = 0; attempt < 3; attempt++)
        await assert.rejects(deliver(place, { password }, new Set()), error => isGatewayError(error, 'ENDPOINT_DENIED'))
    })
  }

  for (const [name, skip, start] of [
    ['OpenSSH', missingSshd, startSshd],
    ['ProFTPD', missingFtpd, startFtpd],
  ] as const) {
    test(`${name}: a delivery that is called off ends with the reason, and may begin again`, { skip }, async t => {
      const server = await start(t, 'none')
      const isSsh = 'hostKey' in server
      const secrets = isSsh ? { privateKey: server.privateKey } : { password: server.password }
      const own = isSsh ? { kind: 'sftp', hostKey: server.hostKey, root: server.root } : { kind: 'ftp', tls: 'none' }
      const place = decodePlace({ ...own, host: '127.0.0.1', port: server.port, user: server.user })
      const finished = new Set<string>()
      const calledOff = new AbortController()
      const reason = new Error('called off')
      const onSent = (): void => calledOff.abort(reason)
      await assert.rejects(deliver(place, secrets, finished, { until: calledOff.signal, onSent }), reason)
      assert.ok(!(await found(server.root)).includes('done'))

      await deliver(place, secrets, finished)

      assert.deepEqual(await found(server.root), names)
    })
  }
}
