/** A real ProFTPD for one test: one user with a password, with or without TLS. */
import { spawn } from 'node:child_process'
import { chmod, mkdir, writeFile } from 'node:fs/promises'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { temporaryDir } from './blobs.ts'
import { makeAuthority } from './certificates.ts'
import { onEnd } from './cleanup.ts'
import { missing, runOk, untilListening } from './dcmtk.ts'
import { freePort, freePorts } from './free-port.ts'

/** For the `skip` option of a test. */
export const missingFtpd: string | false = missing('proftpd', 'openssl')

export interface TestFtpd {
  readonly port: number
  readonly user: string
  readonly password: string
  readonly root: string
  /** PEM of the authority of its certificate. */
  readonly ca: string
  kill(): Promise<void>
  start(): Promise<void>
}

/** Starts it. @param limits  more lines of its configuration */
export async function startFtpd(
  t: TestContext,
  tls: 'none' | 'explicit' | 'implicit',
  limits: readonly string[] = [],
): Promise<TestFtpd> {
  const dir = await temporaryDir(t)
  const root = join(dir, 'files')
  await mkdir(root)
  const path = (name: string): string => join(dir, name)
  const [user, password] = ['site17', 'a word that nobody guesses']
  const crypted = (await runOk(t, 'openssl', ['passwd', '-6', password])).trim()
  const [uid, gid] = [process.getuid?.() ?? 0, process.getgid?.() ?? 0]
  // Root is refused whatever its name: files belong to nobody then.
  const owner = uid === 0 ? 65_534 : uid
  const group = gid === 0 ? 65_534 : gid
  await writeFile(path('users'), `${user}:${crypted}:${owner}:${group}::${root}:/bin/false\n`, { mode: 0o600 })
  if (uid === 0) {
    await runOk(t, 'chown', [`${owner}:${group}`, root])
    await chmod(dir, 0o755)
  }
  const authority = await makeAuthority(dir, 'ftp')
  const ownGroup = await runOk(t, 'id', ['-gn'])
  const credential = await authority.issue('127.0.0.1')
  const port = await freePort()
  const passive = await freePorts(41)
  const secure = [
    '<IfModule !mod_tls.c>',
    'LoadModule mod_tls.c',
    '</IfModule>',
    'TLSEngine on',
    'TLSRequired on',
    'TLSProtocol TLSv1.2 TLSv1.3',
    `TLSRSACertificateFile ${credential.certificateFile}`,
    `TLSRSACertificateKeyFile ${credential.keyFile}`,
    `TLSLog ${path('tls.log')}`,
    ...(tls === 'implicit' ? ['TLSOptions UseImplicitSSL'] : []),
  ]
  await writeFile(
    path('proftpd.conf'),
    [
      'ServerName test',
      'ServerType standalone',
      `Port ${port}`,
      'DefaultAddress 127.0.0.1',
      'SocketBindTight on',
      'UseIPv6 off',
      'UseReverseDNS off',
      'WtmpLog none',
      `PassivePorts ${passive} ${passive + 40}`,
      // Without root it must not try to become anybody else.
      ...(uid === 0 ? ['User nobody', 'Group nogroup'] : [`User ${userInfo().username}`, `Group ${ownGroup.trim()}`]),
      '<IfModule mod_ctrls.c>',
      'ControlsEngine off',
      '</IfModule>',
      'AuthOrder mod_auth_file.c',
      `AuthUserFile ${path('users')}`,
      'RequireValidShell off',
      'AllowOverwrite on',
      'AllowStoreRestart on',
      `PidFile ${path('pid')}`,
      `ScoreboardFile ${path('scoreboard')}`,
      `DelayTable none`,
      `SystemLog ${path('system.log')}`,
      'TransferLog none',
      ...(tls === 'none' ? [] : secure),
      ...limits,
      '',
    ].join('\n'),
  )
  let stop = async (): Promise<void> => undefined
  const server: TestFtpd = {
    port,
    user,
    password,
    root,
    ca: authority.certificate,
    kill: () => stop(),
    async start() {
      const child = spawn('/usr/sbin/proftpd', ['-n', '-q', '-c', path('proftpd.conf')], {
        stdio: 'ignore',
        detached: true,
      })
      const ended = new Promise<void>(resolve => child.once('exit', () => resolve()))
      stop = async () => {
        try {
          process.kill(-(child.pid ?? 0), 'SIGKILL')
        } catch {
          // it has ended by itself
        }
        await ended
      }
      await untilListening(port)
    },
  }
  onEnd(t, () => stop())
  await server.start()
  return server
}
