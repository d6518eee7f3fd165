/** OpenSSH as sponsors run it: users shut into a folder, passwords that expire. */
import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { test } from 'node:test'
import { deliverFiles } from '../../endpoints/delivery.ts'
import { openFileStore } from '../../endpoints/open-place.ts'
import type { PackageFile } from '../../endpoints/package.ts'
import { decodePlace } from '../../endpoints/place.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { missingRoot } from '../support/own-users.ts'
import { missingSshd, startChrootedSshd } from '../support/sshd.ts'
import { packageFile, seededBytes } from './package-files.ts'

const { signal } = new AbortController()
const files: readonly PackageFile[] = [
  ...Array.from({ length: 4 }, (_, i) => packageFile(`S/I${i}`, seededBytes(i, 200_000))),
  packageFile('done', Buffer.from('done\n'), 'done'),
]
const progress = { isDone: () => false, onDone: async () => {}, onSent: () => {}, mayContinue: async () => true }

test('a user with a password, shut into a folder, gets everything; without rights at the top the error says so', {
  skip: missingSshd || missingRoot,
}, async t => {
  const { port, user, password, hostKey, upload, expired, stale } = await startChrootedSshd(t)
  const place = (as: string, root: string) =>
    decodePlace({ kind: 'sftp', host: '127.0.0.1', port, user: as, hostKey, root })
  const deliver = (as: string, root: string, word = password) =>
    deliverFiles(
      each => openFileStore(place(as, root), { password: word }, each),
      'one',
      files,
      { parallel: 2 },
      progress,
      signal,
    )

  assert.equal(await deliver(user, '/upload'), 'delivered')
  const there = await readdir(upload, { recursive: true })
  assert.deepEqual(there.toSorted(), ['one', 'one/S', 'one/S/I0', 'one/S/I1', 'one/S/I2', 'one/S/I3', 'one/done'])
  await assert.rejects(deliver(user, '/'), error => isGatewayError(error, 'ENDPOINT_DENIED'))
  for (const [as, word, says] of [
    [user, 'another word', /refuses the login: check user, password or key/],
    [expired, password, /refuses the login: check user, password or key/],
    [stale, password, /begins no SFTP: has the password expired/],
  ] as const)
    await assert.rejects(deliver(as, '/upload', word), error => {
      assert.match(String(error), says)
      return isGatewayError(error, 'ENDPOINT_LOGIN')
    })
})
