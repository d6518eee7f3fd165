import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { deliverFiles } from '../../endpoints/delivery.ts'
import { openFileStore } from '../../endpoints/open-place.ts'
import type { PackageFile } from '../../endpoints/package.ts'
import { decodePlace } from '../../endpoints/place.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { startCuttingProxy } from '../support/cutting-proxy.ts'
import { missingFtpd, startFtpd } from '../support/ftpd.ts'
import { openLine } from '../support/line.ts'
import { missingSshd, startSshd } from '../support/sshd.ts'
import { packageFile, seededBytes } from './package-files.ts'

const { signal } = new AbortController()
const soak = process.env['HANSE_SOAK'] !== undefined
const wantedCuts = soak ? 100 : 30
const chunkBytes = 1_048_576

test('SFTP over a line that breaks again and again: whole, once, and less than a chunk sent again for each cut', {
  skip: missingSshd,
}, async t => {
  const { port, user, privateKey, hostKey, root } = await startSshd(t)
  const files: readonly PackageFile[] = [
    ...Array.from({ length: 12 }, (_, i) => packageFile(`S/I${i}`, seededBytes(i, 1_500_000 + i))),
    packageFile('done', Buffer.from('done\n'), 'done'),
  ]
  // Numbers of a linear congruential generator, the same in each run.
  let state = 17
  const random = (): number => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648
    return state / 2_147_483_648
  }
  let made = 0
  const line = await startCuttingProxy(t, port, () => (made++ < wantedCuts ? 20_000 + random() * 900_000 : undefined))
  const place = decodePlace({ kind: 'sftp', host: '127.0.0.1', port: line.port, user, root, hostKey })
  const done = new Set<string>()
  const progress = {
    isDone: (name: string) => done.has(name),
    onDone: async ({ name }: PackageFile) => {
      assert.ok(!done.has(name))
      done.add(name)
    },
    onSent: () => {},
    mayContinue: async () => true,
  }

  for (;;) {
    try {
      await deliverFiles(
        each => openFileStore(place, { privateKey }, each),
        'one',
        files,
        { parallel: 1 },
        progress,
        signal,
      )
      break
    } catch (error) {
      assert.ok(isGatewayError(error) && error.meaning.retry === 'yes', String(error))
      // Nothing that closes a delivery is there before the rest.
      if (done.size < files.length) assert.ok(!done.has('done'))
    }
  }

  assert.equal(line.cuts, wantedCuts)
  for (const { name, sha256 } of files)
    assert.equal(
      createHash('sha256')
        .update(await readFile(join(root, 'one', name)))
        .digest('hex'),
      sha256,
    )
  const left = (await readdir(join(root, 'one'), { recursive: true })).filter(name => name.endsWith('.part'))
  assert.deepEqual(left, [])
  const total = files.reduce((sum, { size }) => sum + size, 0)
  const again = line.forwarded - total
  assert.ok(again < (line.cuts + 1) * chunkBytes, `${again} bytes more than ${total} for ${line.cuts} cuts`)
})

for (const [name, skip, start] of [
  ['OpenSSH', missingSshd, startSshd],
  ['ProFTPD', missingFtpd, startFtpd],
] as const) {
  test(`${name} killed in the middle: the next attempt after its return finishes`, { skip }, async t => {
    const server = await start(t, 'none')
    const secrets = 'privateKey' in server ? { privateKey: server.privateKey } : { password: server.password }
    const own =
      'hostKey' in server ? { kind: 'sftp', hostKey: server.hostKey, root: server.root } : { kind: 'ftp', tls: 'none' }
    const place = decodePlace({ ...own, host: '127.0.0.1', port: server.port, user: server.user })
    const files = Array.from({ length: 6 }, (_, i) => packageFile(`I${i}`, seededBytes(i, 400_000)))
    const done: string[] = []
    const progress = (onDone: () => Promise<void>) => ({
      isDone: (each: string) => done.includes(each),
      onDone: async (file: PackageFile) => {
        done.push(file.name)
        await onDone()
      },
      onSent: () => {},
      mayContinue: async () => true,
    })
    const open = (each: AbortSignal) => openFileStore(place, secrets, each)
    const killing = progress(async () => {
      if (done.length === 3) await server.kill()
    })

    await assert.rejects(deliverFiles(open, 'one', files, { parallel: 1 }, killing, signal), error =>
      isGatewayError(error, 'ENDPOINT_UNREACHABLE'),
    )
    await assert.rejects(open(signal), error => isGatewayError(error, 'ENDPOINT_UNREACHABLE'))
    await server.start()
    assert.equal(
      await deliverFiles(
        open,
        'one',
        files,
        { parallel: 2 },
        progress(async () => {}),
        signal,
      ),
      'delivered',
    )

    assert.deepEqual(
      done.toSorted(),
      files.map(file => file.name),
    )
    assert.deepEqual(
      (await readdir(join(server.root, 'one'))).sort(),
      files.map(file => file.name),
    )
  })
}

test('a server that falls silent is given up, and the next attempt ends it', { skip: missingSshd }, async t => {
  const { port, user, privateKey, hostKey, root } = await startSshd(t)
  let isSilent = true
  const silent = await openLine(t, port, (client, upstream) => {
    client.pipe(upstream)
    let received = 0
    upstream.on('data', bytes => {
      received += bytes.length
      if (!isSilent || received < 4_000) client.write(bytes)
    })
  })
  const files = Array.from({ length: 3 }, (_, i) => packageFile(`I${i}`, seededBytes(i, 400_000)))
  const place = decodePlace({ kind: 'sftp', host: '127.0.0.1', port: silent, user, root, hostKey })
  const open = (each: AbortSignal) => openFileStore(place, { privateKey }, each)
  const progress = { isDone: () => false, onDone: async () => {}, onSent: () => {}, mayContinue: async () => true }

  await assert.rejects(
    deliverFiles(open, 'one', files, { parallel: 1, stallMs: 1_000 }, progress, signal),
    error => isGatewayError(error, 'ENDPOINT_UNREACHABLE') && /neither answered nor took/.test(error.message),
  )
  isSilent = false
  assert.equal(await deliverFiles(open, 'one', files, { parallel: 1, stallMs: 20_000 }, progress, signal), 'delivered')
})

test('a bandwidth cap that makes it wait is no silence', { skip: missingSshd }, async t => {
  const { port, user, privateKey, hostKey, root } = await startSshd(t)
  const place = decodePlace({ kind: 'sftp', host: '127.0.0.1', port, user, root, hostKey })
  const open = (each: AbortSignal) => openFileStore(place, { privateKey }, each)
  const progress = { isDone: () => false, onDone: async () => {}, onSent: () => {}, mayContinue: async () => true }
  const files = [packageFile('I1', seededBytes(1, 150_000)), packageFile('I2', seededBytes(2, 150_000))]
  const rules = { parallel: 1, bytesPerSecond: 75_000, stallMs: 700 }
  assert.equal(await deliverFiles(open, 'one', files, rules, progress, signal), 'delivered')
})
