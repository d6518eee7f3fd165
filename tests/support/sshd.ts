/** A real OpenSSH server for one test: SFTP only, login by key as whoever runs the test, a host key of its own. */
import { execFile, spawn } from 'node:child_process'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { promisify } from 'node:util'
import { temporaryDir } from './blobs.ts'
import { onEnd } from './cleanup.ts'
import { missing, untilListening } from './dcmtk.ts'
import { freePort } from './free-port.ts'
import { killBelow, ownUsers } from './own-users.ts'

/** For the `skip` option of a test. */
export const missingSshd: string | false = missing('sshd', 'ssh-keygen')

export interface RunningSshd {
  readonly port: number
  readonly user: string
  /** What the user sees as its files. */
  readonly root: string
  readonly privateKey: string
  /** `SHA256:…` of the host key. */
  readonly hostKey: string
  /** Ends it with all its connections, as a power cut would. */
  kill(): Promise<void>
  start(): Promise<void>
  /** Another host key from the next start on. */
  changeHostKey(): Promise<void>
}

/** Starts it for a test. */
export async function startSshd(t: TestContext): Promise<RunningSshd> {
  const server = await launchSshd(await temporaryDir(t))
  onEnd(t, () => server.kill())
  return server
}

/** Starts it with all its files in `dir`; who starts it kills it. */
export async function launchSshd(dir: string): Promise<RunningSshd> {
  const root = join(dir, 'files')
  await mkdir(root, { recursive: true })
  const path = (name: string): string => join(dir, name)
  const makeKey = async (name: string): Promise<string> => {
    await keygen(['-q', '-t', 'ed25519', '-N', '', '-C', '', '-f', path(name)])
    return path(name)
  }
  let hostKeyFile = await makeKey('host')
  const privateKey = await readFile(await makeKey('user'), 'utf8')
  const port = await freePort()
  const configure = async (): Promise<void> =>
    await writeFile(
      path('sshd_config'),
      [
        `Port ${port}`,
        'ListenAddress 127.0.0.1',
        `HostKey ${hostKeyFile}`,
        `PidFile ${path('pid')}`,
        `AuthorizedKeysFile ${path('user.pub')}`,
        'StrictModes no',
        'PermitRootLogin prohibit-password',
        'PasswordAuthentication no',
        'KbdInteractiveAuthentication no',
        'UsePAM no',
        'MaxStartups 100',
        'Subsystem sftp internal-sftp',
        `ForceCommand internal-sftp -d ${root}`,
        '',
      ].join('\n'),
    )
  let stop = async (): Promise<void> => undefined
  const server = {
    port,
    user: userInfo().username,
    root,
    privateKey,
    hostKey: await fingerprint(`${hostKeyFile}.pub`),
    kill: () => stop(),
    async start() {
      await configure()
      // As root it wants a folder to be separated into.
      if (process.getuid?.() === 0) await mkdir('/run/sshd', { recursive: true, mode: 0o755 })
      // In a process group of its own, so that its sessions end with it.
      const child = spawn('/usr/sbin/sshd', ['-D', '-e', '-f', path('sshd_config')], {
        stdio: 'ignore',
        detached: true,
      })
      const ended = new Promise<void>(resolve => child.once('exit', () => resolve()))
      stop = async () => {
        // Sessions are groups of their own below the daemon.
        await killBelow(child.pid)
        child.kill('SIGKILL')
        await ended
      }
      await untilListening(port)
    },
    async changeHostKey() {
      hostKeyFile = await makeKey(`host-${Date.now()}`)
      server.hostKey = await fingerprint(`${hostKeyFile}.pub`)
    },
  }
  await server.start()
  return server
}

const keygen = async (args: readonly string[]): Promise<string> =>
  (await promisify(execFile)('ssh-keygen', args)).stdout

async function fingerprint(file: string): Promise<string> {
  return (await keygen(['-l', '-E', 'sha256', '-f', file])).split(' ')[1] ?? ''
}

/** An OpenSSH server as hospitals and sponsors run it: users with passwords, shut into a folder that is not theirs. */
export interface ChrootedSshd {
  readonly port: number
  readonly hostKey: string
  readonly user: string
  readonly password: string
  /** Users who may not log in: their account, or their password, has expired. */
  readonly expired: string
  readonly stale: string
  /** On our disk: what the user sees as `/upload`. */
  readonly upload: string
}

/** Starts it; as root only. @param denied  requests that its users may not make, as `sftp-server -Q requests` calls them */
export async function startChrootedSshd(t: TestContext, denied: readonly string[] = []): Promise<ChrootedSshd> {
  const dir = await temporaryDir(t)
  const users = await ownUsers(t, dir)
  const key = join(dir, 'host')
  await keygen(['-q', '-t', 'ed25519', '-N', '', '-C', '', '-f', key])
  const port = await freePort()
  const settings = [
    `Port ${port}`,
    'ListenAddress 127.0.0.1',
    `HostKey ${key}`,
    'PidFile none',
    'UsePAM no',
    'PasswordAuthentication yes',
    'KbdInteractiveAuthentication no',
    'PubkeyAuthentication no',
    'MaxStartups 100',
    'Subsystem sftp internal-sftp',
    `ForceCommand internal-sftp${denied.length > 0 ? ` -P ${denied.join(',')}` : ''}`,
    'ChrootDirectory /srv',
    '',
  ]
  await writeFile(join(dir, 'sshd_config'), settings.join('\n'))
  await mkdir('/run/sshd', { recursive: true, mode: 0o755 })
  const { stop } = await users.start(['/usr/sbin/sshd', '-D', '-e', '-f', join(dir, 'sshd_config')], port)
  onEnd(t, stop)
  const { user, password, expired, stale, upload } = users
  return { port, hostKey: await fingerprint(`${key}.pub`), user, password, expired, stale, upload }
}
