/** Drop boxes: places that may only be written, where nobody lists, renames, removes or reads; set so, everything arrives. */
import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { deliverFiles } from '../../endpoints/delivery.ts'
import { testPlace } from '../../endpoints/endpoint-test.ts'
import { openFileStore } from '../../endpoints/open-place.ts'
import type { PackageFile } from '../../endpoints/package.ts'
import { decodePlace, type Place, type PlaceSecrets } from '../../endpoints/place.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { missingFtpd, startFtpd } from '../support/ftpd.ts'
import { missingRoot } from '../support/own-users.ts'
import { missingSshd, startChrootedSshd } from '../support/sshd.ts'
import { missingVsftpd, startVsftpd } from '../support/vsftpd.ts'
import { packageFile, seededBytes } from './package-files.ts'

const { signal } = new AbortController()
const can = { list: false, rename: false, remove: false, resume: false }
const files: readonly PackageFile[] = [
  ...Array.from({ length: 6 }, (_, i) => packageFile(`S/I${i}`, seededBytes(i, 150_000 + i))),
  packageFile('manifest.json', Buffer.from('{}'), 'manifest'),
  packageFile('done', Buffer.from('done\n'), 'done'),
]

interface Box {
  readonly settings: Readonly<Record<string, unknown>>
  readonly secrets: PlaceSecrets
  /** On our disk. */
  readonly root: string
}

const boxes: readonly { readonly name: string; readonly skip: string | false; open(t: TestContext): Promise<Box> }[] = [
  {
    name: 'OpenSSH',
    skip: missingSshd || missingRoot,
    async open(t) {
      const denied = ['opendir', 'readdir', 'stat', 'lstat', 'fstat', 'rename', 'posix-rename', 'remove', 'read']
      const { port, user, password, hostKey, upload: root } = await startChrootedSshd(t, denied)
      return { settings: { kind: 'sftp', port, user, hostKey, root: '/upload' }, secrets: { password }, root }
    },
  },
  {
    name: 'ProFTPD',
    skip: missingFtpd,
    async open(t) {
      const denied = 'LIST NLST MLSD MLST STAT SIZE MDTM RETR RNFR RNTO DELE RMD'
      const limits = [`<Limit ${denied}>`, 'DenyAll', '</Limit>', 'AllowOverwrite on']
      const { port, user, password, root, ca } = await startFtpd(t, 'explicit', limits)
      return { settings: { kind: 'ftp', port, user, tls: 'explicit', ca }, secrets: { password }, root }
    },
  },
  {
    name: 'vsftpd',
    skip: missingVsftpd,
    async open(t) {
      const denied = 'LIST,NLST,STAT,SIZE,MDTM,RETR,RNFR,RNTO,DELE,RMD'
      const limits = ['dirlist_enable=NO', 'download_enable=NO', `cmds_denied=${denied}`]
      const { port, user, password, upload: root } = await startVsftpd(t, 'none', limits)
      return {
        settings: { kind: 'ftp', port, user, tls: 'none', root: '/upload' },
        secrets: { password },
        root,
      }
    },
  },
]

const deliver = (place: Place, secrets: PlaceSecrets, done: Set<string>) => {
  const progress = {
    isDone: (name: string) => done.has(name),
    onDone: async ({ name }: PackageFile) => void done.add(name),
    onSent: () => {},
    mayContinue: async () => true,
  }
  return deliverFiles(each => openFileStore(place, secrets, each), 'P-1/one', files, { parallel: 2 }, progress, signal)
}

for (const { name, skip, open } of boxes) {
  test(`${name}: a drop box that is set as one gets everything; as another place it says what it forbids`, {
    skip,
  }, async t => {
    const { settings, secrets, root } = await open(t)
    const box = decodePlace({ ...settings, host: '127.0.0.1', can })
    const done = new Set<string>()

    await assert.rejects(deliver(decodePlace({ ...settings, host: '127.0.0.1' }), secrets, done), error =>
      ['ENDPOINT_DENIED', 'ENDPOINT_UNSUPPORTED'].some(code => isGatewayError(error) && error.code === code),
    )
    assert.equal(done.size, 0)
    assert.equal(await deliver(box, secrets, done), 'delivered')

    assert.equal(done.size, files.length)
    for (const file of files) {
      const { length } = await readFile(join(root, 'P-1/one', file.name))
      assert.equal(length, file.size, file.name)
    }
    assert.ok(!(await readdir(join(root, 'P-1/one/S'))).includes('done'))
    const steps = await testPlace(box, secrets, signal)
    assert.deepEqual(
      steps.filter(({ ok }) => !ok),
      [],
    )
  })
}
