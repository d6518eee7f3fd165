/** The third party of the demo: a CRO with an SFTP server, which is OpenSSH where there is one, else a folder. */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { field, items } from '../answer.ts'
import { DemoFailure, freePort, type Hospital } from './hospital.ts'

const daemon = '/usr/sbin/sshd'
const startMs = 10_000

/** What has arrived. */
export interface Received {
  readonly files: number
  readonly bytes: number
  /** What became of the transfer, in words. */
  readonly outcome: string
  /** What is off, in words. */
  readonly wrong: readonly string[]
}

export class Cro {
  readonly root: string
  readonly #dir: string
  #child: ChildProcess | undefined
  #endpoint: { readonly kind: string; readonly settings: object; readonly secrets?: object } | undefined

  constructor(dir: string) {
    this.#dir = dir
    this.root = join(dir, 'received')
  }

  /** Starts the server; says what it is. */
  async start(): Promise<string> {
    await mkdir(this.root, { recursive: true })
    const port = existsSync(daemon) ? await this.#startSsh().catch(() => undefined) : undefined
    if (port === undefined) {
      await this.stop()
      this.#endpoint = { kind: 'folder', settings: { root: this.root } }
      return 'OpenSSH cannot be started here: the CRO has a folder in the place of its SFTP server'
    }
    return `the CRO runs OpenSSH on port ${port}; its host key is confirmed before anything is sent`
  }

  /** Sends a de-identified copy of the study that the hospital has, and looks at what has arrived. */
  async receive(from: Hospital, signal: AbortSignal): Promise<Received> {
    await from.call('PUT', '/endpoints/CRO', { ...this.#endpoint, profile: 'trial', packaging: { container: 'zip' } })
    if (this.#child) {
      const shown = await from.call('POST', '/endpoints/CRO/host-key', {})
      await from.call('POST', '/endpoints/CRO/confirm', { fingerprint: field(shown, 'shownPin') })
    }
    const [transfer] = items(await from.call('GET', '/transfers?direction=outbound&limit=1'), 'transfers')
    if (transfer === undefined) return { files: 0, bytes: 0, outcome: 'there is nothing to copy', wrong: [] }
    const study = field(transfer, 'studyInstanceUid')
    const sent = await from.call('POST', '/transfers', { study, destination: 'CRO', endpoint: true, purpose: 'trial' })
    const state = await from.until('the copy at the CRO', async () => {
      signal.throwIfAborted()
      const now = await from.call('GET', `/transfers/${field(sent, 'id')}`)
      return ended.has(field(now, 'state')) ? now : undefined
    })
    const [ending, code] = [field(state, 'state'), field(state, 'errorCode')]
    // What the profile does not let out, such as text in pixels, waits for a person: that is as it should be.
    const isGood = ending === 'delivered' || code === 'DEIDENTIFICATION_HELD'
    const outcome = ending === 'delivered' ? 'delivered, not acknowledged' : `${ending}: ${field(state, 'error')}`
    const entries = await readdir(this.root, { recursive: true, withFileTypes: true })
    const paths = entries.filter(entry => entry.isFile()).map(entry => join(entry.parentPath, entry.name))
    const sizes = await Promise.all(paths.map(async path => (await stat(path)).size))
    const bytes = sizes.reduce((sum, size) => sum + size, 0)
    return { files: paths.length, bytes, outcome, wrong: isGood ? [] : [`the copy for the CRO is ${outcome}`] }
  }

  async stop(): Promise<void> {
    const child = this.#child
    this.#child = undefined
    if (!child || child.exitCode !== null) return
    const gone = new Promise<void>(resolve => child.once('exit', () => resolve()))
    child.kill('SIGTERM')
    await gone
  }

  async #startSsh(): Promise<number> {
    const at = (name: string): string => join(this.#dir, name)
    for (const name of ['host', 'user'])
      await promisify(execFile)('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', '', '-f', at(name)])
    const port = await freePort()
    const lines = [
      `Port ${port}`,
      'ListenAddress 127.0.0.1',
      `HostKey ${at('host')}`,
      'PidFile none',
      `AuthorizedKeysFile ${at('user.pub')}`,
      'StrictModes no',
      'PasswordAuthentication no',
      'KbdInteractiveAuthentication no',
      'UsePAM no',
      'Subsystem sftp internal-sftp',
      'ForceCommand internal-sftp',
    ]
    await writeFile(at('sshd_config'), `${lines.join('\n')}\n`)
    // As root it wants a folder to be separated into.
    if (process.getuid?.() === 0) await mkdir('/run/sshd', { recursive: true, mode: 0o755 })
    // In a process group of its own: Ctrl-C at the terminal reaches the demo, which stops it in order.
    const child = spawn(daemon, ['-D', '-e', '-f', at('sshd_config')], { stdio: 'ignore', detached: true })
    this.#child = child
    child.on('error', () => undefined)
    const deadline = Date.now() + startMs
    while (!(await accepts(port))) {
      if (child.exitCode !== null || Date.now() > deadline) throw new DemoFailure('OpenSSH does not start')
      await delay(50)
    }
    const settings = { host: '127.0.0.1', port, user: userInfo().username, root: this.root }
    this.#endpoint = { kind: 'sftp', settings, secrets: { privateKey: await readFile(at('user'), 'utf8') } }
    return port
  }
}

const ended = new Set(['delivered', 'held', 'expired', 'cancelled', 'refused'])

async function accepts(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  try {
    return await new Promise<boolean>(resolve =>
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false)),
    )
  } finally {
    socket.destroy()
  }
}
