/** Servers that need users of the system: each in a mount namespace where passwd, shadow and PAM are the test's own. */
import { type ChildProcess, spawn } from 'node:child_process'
import { chmod, chown, mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { runOk, untilListening } from './dcmtk.ts'

/** For the `skip` option: such servers change to their users. */
export const missingRoot: string | false = process.getuid?.() === 0 ? false : 'needs root'

/** A user with a password, whose files lie in `jail/upload`. */
export interface OwnUsers {
  readonly user: string
  readonly password: string
  /** What a server shuts its user into: `/srv` in the namespace; belongs to root. */
  readonly jail: string
  /** The user's own folder in it. */
  readonly upload: string
  /** The same user with an account that has expired. */
  readonly expired: string
  /** The same user with a password that has to be changed first. */
  readonly stale: string
  /** Starts a server there and waits until it listens; `stop` ends all of it. */
  start(command: readonly string[], port: number): Promise<{ stop(): Promise<void> }>
}

const uid = 64_017

/** Makes them below `dir`; nothing of the system is changed. */
export async function ownUsers(t: TestContext, dir: string): Promise<OwnUsers> {
  const [user, expired, stale] = ['site17', 'site18', 'site19']
  const password = 'a word that nobody guesses'
  const hash = (await runOk(t, 'openssl', ['passwd', '-6', password])).trim()
  const [passwd, shadow, pam, jail] = ['passwd', 'shadow', 'pam.d', 'jail'].map(name => join(dir, name)) as [
    string,
    string,
    string,
    string,
  ]
  const upload = join(jail, 'upload')
  const lines = [user, expired, stale].map((name, index) => `${name}:x:${uid + index}:65534::/srv:/bin/false\n`)
  await writeFile(passwd, (await readFile('/etc/passwd', 'utf8')) + lines.join(''))
  const today = Math.floor(Date.now() / 86_400_000)
  const secrets = [`${user}:${hash}:${today}::::::`, `${expired}:${hash}:${today}:::::1:`, `${stale}:${hash}:0:0:1::::`]
  await writeFile(shadow, `${await readFile('/etc/shadow', 'utf8')}${secrets.join('\n')}\n`, { mode: 0o600 })
  await mkdir(pam)
  const rules = ['auth required pam_unix.so', 'account required pam_unix.so', 'session required pam_permit.so', '']
  await writeFile(join(pam, 'vsftpd'), rules.join('\n'))
  await mkdir(upload, { recursive: true })
  await chmod(jail, 0o755)
  await chown(upload, uid, 65_534)
  const mounts = [
    ...[`${passwd} /etc/passwd`, `${shadow} /etc/shadow`, `${pam} /etc/pam.d`, `${jail} /srv`].map(
      pair => `mount --bind ${pair}`,
    ),
  ].join(' && ')
  return {
    ...{ user, expired, stale, password, jail, upload },
    async start(command, port) {
      const args = ['--mount', 'sh', '-c', `${mounts} && exec "$@"`, 'sh', ...command]
      const child = spawn('unshare', args, { stdio: 'ignore', detached: true })
      await untilListening(port)
      return { stop: () => stop(child) }
    },
  }
}

/** Sessions are processes of their own below the server. */
async function stop(child: ChildProcess): Promise<void> {
  const ended = new Promise<void>(resolve => {
    if (child.exitCode !== null || child.signalCode !== null) resolve()
    else child.once('exit', () => resolve())
  })
  await killBelow(child.pid)
  child.kill('SIGKILL')
  await ended
}

/** Kills what a process has started, and what that has. */
export async function killBelow(pid: number | undefined): Promise<void> {
  if (pid === undefined) return
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '')
  for (const child of children.split(' ').filter(Boolean).map(Number)) {
    await killBelow(child)
    try {
      process.kill(child, 'SIGKILL')
    } catch {
      // it has ended by itself
    }
  }
}
