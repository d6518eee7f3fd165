/** A real OpenSSH server for one test: SFTP only, login by key as whoever runs the test, a host key of its own. */
import { spawn } from 'node:child_process'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { temporaryDir } from './blobs.ts'
import { onEnd } from './cleanup.ts'
import { missing, runOk, untilListening } from './dcmtk.ts'
import { freePort } from './free-port.ts'

/** For the `skip` option of a test. */
export const missingSshd: string | false = missing('sshd', 'ssh-keygen')

export interface TestSshd {
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

/** Starts it. */
export async function startSshd(t: TestContext): Promise<TestSshd> {
  const dir = await temporaryDir(t)
  const root = join(dir, 'files')
  await mkdir(root)
  const path = (name: string): string => join(dir, name)
  const makeKey = async (name: string): Promise<string> => {
    await runOk(t, 'ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', '', '-f', path(name)])
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
    hostKey: await fingerprint(t, `${hostKeyFile}.pub`),
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
        await killSessions(child.pid)
        child.kill('SIGKILL')
        await ended
      }
      await untilListening(port)
    },
    async changeHostKey() {
      hostKeyFile = await makeKey(`host-${Date.now()}`)
      server.hostKey = await fingerprint(t, `${hostKeyFile}.pub`)
    },
  }
  onEnd(t, () => stop())
  await server.start()
  return server
}

async function fingerprint(t: TestContext, file: string): Promise<string> {
  return (await runOk(t, 'ssh-keygen', ['-l', '-E', 'sha256', '-f', file])).split(' ')[1] ?? ''
}

/** Sessions are groups of their own below the daemon. */
async function killSessions(daemon: number | undefined): Promise<void> {
  if (daemon === undefined) return
  const children = await readFile(`/proc/${daemon}/task/${daemon}/children`, 'utf8').catch(() => '')
  for (const pid of children.split(' ').filter(Boolean).map(Number)) {
    await killSessions(pid)
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // it has ended by itself
    }
  }
}
