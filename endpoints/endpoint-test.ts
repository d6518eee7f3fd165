/** Tries an endpoint as a delivery would use it, step by step, and says of each what to fix. Nothing of the test stays there. */
import { randomBytes } from 'node:crypto'
import { lookup } from 'node:dns/promises'
import { connect } from 'node:net'
import { Readable } from 'node:stream'
import { GatewayError, isGatewayError } from '../gateway/errors.ts'
import { hidden } from './delivery.ts'
import type { FileStore } from './file-store.ts'
import { openFileStore } from './open-place.ts'
import type { Place, PlaceSecrets } from './place.ts'

export type TestStepName =
  | 'name'
  | 'connection'
  | 'login'
  | 'write'
  | 'verify'
  | 'rename'
  | 'throughput'
  | 'clock'
  | 'delete'
  | 'space'

/** One step of the test. */
export interface TestStep {
  readonly step: TestStepName
  readonly ok: boolean
  /** What was found, in words. */
  readonly detail: string
  /** What to do about it. */
  readonly fix?: string
}

const testBytes = 2 * 1_048_576
const connectMs = 15_000
const mostDriftMs = 120_000

/** Runs all steps that can be run; a step that fails ends those that need it. Never throws but for `signal`. */
export async function testPlace(
  place: Place,
  secrets: PlaceSecrets,
  signal: AbortSignal,
): Promise<readonly TestStep[]> {
  const steps: TestStep[] = []
  const attempt = async (step: TestStepName, work: () => Promise<string>): Promise<boolean> => {
    signal.throwIfAborted()
    try {
      steps.push({ step, ok: true, detail: await work() })
      return true
    } catch (error) {
      signal.throwIfAborted()
      steps.push({ step, ok: false, ...explained(error) })
      return false
    }
  }
  const server = serverOf(place)
  if (server) {
    if (!(await attempt('name', () => resolved(server.host)))) return steps
    if (!(await attempt('connection', () => connected(server, signal)))) return steps
  }
  let store: FileStore | undefined
  await attempt('login', async () => {
    store = await openFileStore(place, secrets, signal)
    return place.kind === 'sftp' ? 'logged in; the host key is the confirmed one' : 'the endpoint lets us in'
  })
  if (store) {
    await tryFiles(store, attempt, signal)
    await store.close()
  }
  return steps
}

type Attempt = (step: TestStepName, work: () => Promise<string>) => Promise<boolean>

async function tryFiles(store: FileStore, attempt: Attempt, signal: AbortSignal): Promise<void> {
  const { can } = store
  const bytes = randomBytes(testBytes)
  const name = `hanse-test-${randomBytes(6).toString('hex')}`
  let there = can.rename ? `${name}.part` : name
  const began = performance.now()
  const isWritten = await attempt('write', async () => {
    const options = { offset: 0, size: bytes.length, onSent: () => {} }
    await store.put(there, Readable.from([bytes], { objectMode: false }), options, signal)
    return 'a file can be written'
  })
  if (!isWritten) return
  const seconds = (performance.now() - began) / 1000
  await attempt('throughput', async () => `${((testBytes * 8) / 1_000_000 / seconds).toFixed(1)} Mbit/s`)
  if (can.list) {
    await attempt('verify', async () => {
      const entry = await store.stat(there, signal)
      if (!entry) throw new GatewayError('ENDPOINT_UNSUPPORTED', hidden)
      if (entry.size !== bytes.length)
        throw new GatewayError('ENDPOINT_PROTOCOL', 'the file does not have the size that was sent')
      return 'what was written has its size'
    })
  }
  if (can.rename) {
    const isRenamed = await attempt('rename', async () => {
      await store.rename(there, name, signal)
      return 'a finished file gets its name'
    })
    if (isRenamed) there = name
  }
  if (can.list) {
    await attempt('clock', async () => {
      const modified = (await store.stat(there, signal))?.modified
      if (modified === undefined) return 'the endpoint does not tell its time'
      const driftMs = Date.now() - modified.getTime()
      const words = `its clock and ours differ by ${Math.round(driftMs / 1000)} s`
      if (Math.abs(driftMs) > mostDriftMs) throw new GatewayError('ENDPOINT_PROTOCOL', words)
      return words
    })
  }
  if (can.remove) {
    await attempt('delete', async () => {
      await store.remove(there, signal)
      return 'what is no longer wanted can be removed'
    })
  }
  await attempt('space', async () => {
    const free = await store.freeBytes(signal)
    return free === undefined
      ? 'the endpoint does not tell its free space'
      : `${Math.floor(free / 1_000_000)} MB are free`
  })
}

/** The first server that is connected to. */
function serverOf(place: Place): { readonly host: string; readonly port: number } | undefined {
  switch (place.kind) {
    case 'sftp':
      return place.jump ?? place
    case 'ftp':
      return place
    case 's3': {
      const { hostname, port, protocol } = new URL(place.endpoint)
      return { host: hostname, port: port === '' ? (protocol === 'https:' ? 443 : 80) : Number(port) }
    }
    case 'folder':
      return undefined
  }
}

async function resolved(host: string): Promise<string> {
  try {
    const addresses = await lookup(host, { all: true })
    return `${host} is ${addresses.map(({ address }) => address).join(', ')}`
  } catch (error) {
    throw new GatewayError('ENDPOINT_UNREACHABLE', `nobody knows the name ${host}`, { cause: error })
  }
}

async function connected({ host, port }: { host: string; port: number }, signal: AbortSignal): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const socket = connect({ host, port, signal: AbortSignal.any([signal, AbortSignal.timeout(connectMs)]) }, resolve)
  socket.once('error', error =>
    reject(new GatewayError('ENDPOINT_UNREACHABLE', `port ${port} does not answer`, { cause: error })),
  )
  try {
    await promise
    return `port ${port} answers`
  } finally {
    socket.destroy()
  }
}

const fixes: Readonly<Record<string, string>> = {
  ENDPOINT_UNREACHABLE: 'check host, port, firewall and proxy, and that the server runs',
  ENDPOINT_LOGIN: 'check user, password or key; ask the owner whether the login has expired',
  ENDPOINT_HOST_KEY: 'ask the owner for the fingerprint by another way; confirm it only when it is the same',
  ENDPOINT_DENIED: 'ask the owner for the right to write in this folder, or set another one',
  ENDPOINT_FULL: 'ask the owner for room',
  ENDPOINT_UNSUPPORTED: 'switch off in the settings of the endpoint what it cannot do',
}

function explained(error: unknown): { readonly detail: string; readonly fix: string } {
  const detail = error instanceof Error && isGatewayError(error) ? error.message : 'it failed'
  const code = isGatewayError(error) ? error.code : ''
  return { detail, fix: fixes[code] ?? 'ask the owner of the endpoint' }
}
