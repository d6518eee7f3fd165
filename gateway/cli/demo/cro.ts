/** The third party of the demo: a CRO that takes studies by SFTP, at a real OpenSSH server where this machine has one. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { access, chmod, constants, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { userInfo } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { openFileStore } from '../../../endpoints/open-place.ts'
import { readHostKey } from '../../../endpoints/sftp.ts'
import { isGatewayError } from '../../errors.ts'
import { freePort } from './hospital.ts'

const startMs = 10_000

/** Where the CRO takes deliveries, as an endpoint is set up. */
export interface CroPlace {
  readonly kind: 'sftp' | 'folder'
  readonly settings: object
  readonly secrets: { readonly privateKey?: string }
  /** As its administrator would tell it by telephone; undefined for a folder. */
  readonly hostKey: string | undefined
  /** In words. */
  readonly told: string
}

export class Cro {
  /** Below it lies what was delivered. */
  readonly files: string
  readonly #dir: string
  #server: ChildProcess | undefined

  constructor(dir: string) {
    this.#dir = dir
    this.files = join(dir, 'files')
  }

  /** Starts its server; a plain folder, said so, where there is none that this user may run. */
  async start(signal: AbortSignal): Promise<CroPlace> {
    await mkdir(this.files, { recursive: true })
    const [sshd, keygen] = [await findProgram('sshd'), await findProgram('ssh-keygen')]
    const missing = sshd === undefined || keygen === undefined
    const place = missing ? undefined : await this.#startSftp(sshd, keygen, signal)
    if (place) return place
    await this.stop()
    const why = missing ? 'there is no OpenSSH server on this machine' : 'this user may not run an OpenSSH server'
    const told = `${why}: a shared folder takes its place`
    return { kind: 'folder', settings: { root: this.files }, secrets: {}, hostKey: undefined, told }
  }

  /** Undefined where the server does not come up, or lets nobody in. */
  async #startSftp(sshd: string, keygen: string, signal: AbortSignal): Promise<CroPlace | undefined> {
    const path = (name: string): string => join(this.#dir, name)
    for (const name of ['host', 'user']) {
      const child = spawn(keygen, ['-q', '-t', 'ed25519', '-N', '', '-C', '', '-f', path(name)], { stdio: 'ignore' })
      if ((await ended(child)) !== 0) return undefined
      await chmod(path(name), 0o600)
    }
    const port = await freePort()
    const lines = [
      `Port ${port}`,
      'ListenAddress 127.0.0.1',
      `HostKey ${path('host')}`,
      'PidFile none',
      `AuthorizedKeysFile ${path('user.pub')}`,
      'StrictModes no',
      'PermitRootLogin prohibit-password',
      'PasswordAuthentication no',
      'KbdInteractiveAuthentication no',
      'UsePAM no',
      'Subsystem sftp internal-sftp',
      `ForceCommand internal-sftp -d ${this.files}`,
    ]
    await writeFile(path('sshd_config'), `${lines.join('\n')}\n`)
    // As root it wants a folder to be separated into, which a boot makes.
    if (process.getuid?.() === 0) await mkdir('/run/sshd', { recursive: true, mode: 0o755 })
    const child = spawn(sshd, ['-D', '-e', '-f', path('sshd_config')], { stdio: 'ignore', detached: true })
    this.#server = child
    child.on('error', () => undefined)
    if (!(await listens(port, child, signal))) return undefined
    const [host, user] = ['127.0.0.1', userInfo().username]
    const hostKey = await readHostKey({ host, port }, signal)
    const secrets = { privateKey: await readFile(path('user'), 'utf8') }
    const settings = { host, port, user, root: '' }
    try {
      const place = { kind: 'sftp', ...settings, hostKey, jump: undefined, proxy: undefined, can: undefined } as const
      await (await openFileStore(place, secrets, signal)).close()
    } catch (error) {
      if (isGatewayError(error)) return undefined
      throw error
    }
    return { kind: 'sftp', settings, secrets, hostKey, told: `OpenSSH at sftp://127.0.0.1:${port}` }
  }

  /** What lies there: paths below `files`. */
  async delivered(): Promise<readonly string[]> {
    const entries = await readdir(this.files, { recursive: true, withFileTypes: true })
    return entries
      .filter(entry => entry.isFile())
      .map(entry => join(entry.parentPath, entry.name).slice(this.files.length + 1))
      .sort()
  }

  async stop(): Promise<void> {
    const child = this.#server
    if (child?.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
    const gone = ended(child)
    child.kill('SIGTERM')
    await gone
  }
}

async function findProgram(name: string): Promise<string | undefined> {
  // The server stands where the PATH of ordinary users does not look.
  for (const dir of [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin']) {
    if (!dir.startsWith('/')) continue
    try {
      await access(join(dir, name), constants.X_OK)
      return join(dir, name)
    } catch {
      // not here
    }
  }
  return undefined
}

async function ended(child: ChildProcess): Promise<number | null> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit').catch(() => undefined)
  return child.exitCode
}

async function listens(port: number, child: ChildProcess, signal: AbortSignal): Promise<boolean> {
  for (const end = Date.now() + startMs; Date.now() < end; await delay(50, undefined, { signal })) {
    if (child.exitCode !== null || child.signalCode !== null) return false
    const isOpen = await new Promise<boolean>(resolve => {
      const socket = connect(port, '127.0.0.1')
      socket.once('connect', () => resolve(true))
      socket.once('error', () => resolve(false))
      socket.once('close', () => resolve(false))
      socket.once('connect', () => socket.destroy())
    })
    if (isOpen) return true
  }
  return false
}
