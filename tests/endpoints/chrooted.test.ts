/** Servers as sponsors run them: users shut into a folder, passwords that expire, drop boxes. */
import assert from 'node:assert/strict'
import { chmod, readdir } from 'node:fs/promises'
import { test } from 'node:test'
import { deliverFiles } from '../../endpoints/delivery.ts'
import { openFileStore } from '../../endpoints/open-place.ts'
import type { PackageFile } from '../../endpoints/package.ts'
import { decodePlace } from '../../endpoints/place.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { missingRoot } from '../support/own-users.ts'
import { missingSshd, startChrootedSshd } from '../support/sshd.ts'
import { missingVsftpd, startVsftpd } from '../support/vsftpd.ts'
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

const box = { list: false, rename: false, resume: false, remove: false }

test('a drop box of vsftpd, where nothing may be listed, read, renamed or removed, takes everything, `.done` last', {
  skip: missingVsftpd,
}, async t => {
  const denied = 'cmds_denied=RNFR,RNTO,DELE,RMD,SIZE,MDTM,REST,LIST,NLST,MLSD'
  const { port, user, password, upload } = await startVsftpd(t, 'none', [
    ...['dirlist_enable=NO', 'download_enable=NO', denied],
  ])
  const at = { host: '127.0.0.1', port, user, tls: 'none', root: '/upload', can: box }
  const place = decodePlace({ kind: 'ftp', ...at })
  const open = (each: AbortSignal) => openFileStore(place, { password }, each)
  const done: string[] = []
  const noting = { ...progress, onDone: async ({ name }: PackageFile) => void done.push(name) }

  assert.equal(await deliverFiles(open, 'one', files, { parallel: 1 }, noting, signal), 'delivered')
  assert.equal((await readdir(upload, { recursive: true })).length, 7)
  assert.equal(done.at(-1), 'done')
})

test('a drop box of OpenSSH, a folder that may only be written to, takes everything', {
  skip: missingSshd || missingRoot,
}, async t => {
  const { port, user, password, hostKey, upload } = await startChrootedSshd(t)
  await chmod(upload, 0o300)
  const at = { host: '127.0.0.1', port, user, hostKey, root: '/upload', can: box }
  const place = decodePlace({ kind: 'sftp', ...at })
  const open = (each: AbortSignal) => openFileStore(place, { password }, each)

  assert.equal(await deliverFiles(open, 'one', files, { parallel: 2 }, progress, signal), 'delivered')
  assert.equal((await readdir(upload, { recursive: true })).length, 7)
})
