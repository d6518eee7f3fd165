/** A real vsftpd for one test, as sponsors run it: a user of the system with a password, shut into a folder. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { unpackedTool } from '../../scripts/system-tools.ts'
import { temporaryDir } from './blobs.ts'
import { makeAuthority } from './certificates.ts'
import { onEnd } from './cleanup.ts'
import { freePort, freePorts } from './free-port.ts'
import { missingRoot, ownUsers } from './own-users.ts'

const program = unpackedTool('vsftpd', '/usr/sbin/vsftpd')
/** For the `skip` option of a test. */
export const missingVsftpd: string | false =
  missingRoot || (program === undefined && !process.env['CI'] && 'vsftpd not installed')

export interface TestVsftpd {
  readonly port: number
  readonly user: string
  readonly password: string
  /** PEM of the authority of its certificate. */
  readonly ca: string
  /** On our disk: what the user sees as `/upload`. */
  readonly upload: string
}

/**
 * Starts it.
 *
 * @param more  settings beside those that a login needs
 */
export async function startVsftpd(
  t: TestContext,
  tls: 'none' | 'explicit' | 'implicit',
  more: readonly string[] = [],
): Promise<TestVsftpd> {
  const dir = await temporaryDir(t)
  const users = await ownUsers(t, dir)
  const authority = await makeAuthority(dir, 'ftp')
  const { certificateFile, keyFile } = await authority.issue('127.0.0.1')
  const [port, passive] = [await freePort(), await freePorts(41)]
  const empty = join(dir, 'empty')
  await mkdir(empty, { mode: 0o755 })
  const secure = [
    ...['ssl_enable=YES', 'force_local_logins_ssl=YES', 'force_local_data_ssl=YES', 'allow_anon_ssl=NO'],
    ...[`rsa_cert_file=${certificateFile}`, `rsa_private_key_file=${keyFile}`],
    `implicit_ssl=${tls === 'implicit' ? 'YES' : 'NO'}`,
  ]
  const settings = [
    ...['listen=YES', 'listen_address=127.0.0.1', `listen_port=${port}`, 'background=NO', 'seccomp_sandbox=NO'],
    ...['anonymous_enable=NO', 'local_enable=YES', 'write_enable=YES', 'check_shell=NO', 'local_umask=022'],
    ...['chroot_local_user=YES', 'pam_service_name=vsftpd', 'xferlog_enable=NO', `secure_chroot_dir=${empty}`],
    ...[`pasv_min_port=${passive}`, `pasv_max_port=${passive + 40}`],
    ...(tls === 'none' ? [] : secure),
    ...more,
    '',
  ]
  await writeFile(join(dir, 'vsftpd.conf'), settings.join('\n'))
  const { stop } = await users.start([program ?? 'vsftpd', join(dir, 'vsftpd.conf')], port)
  onEnd(t, stop)
  const { user, password, upload } = users
  return { port, user, password, ca: authority.certificate, upload }
}
