/** SFTP (draft-ietf-secsh-filexfer-02) with a pinned host key. Many write requests are on the way at a time. */
import { createHash } from 'node:crypto'
import { connect, type Socket } from 'node:net'
import { type Duplex, Readable } from 'node:stream'
import { Client, type ConnectConfig, type FileEntryWithStats, type SFTPWrapper, type Stats } from 'ssh2'
import { GatewayError } from '../gateway/errors.ts'
import type { FileEntry, FileStore } from './file-store.ts'
import { abilitiesOf, folderOf, pathBelow } from './paths.ts'
import type { PlaceSecrets, SftpPlace } from './place.ts'
import { connectThrough } from './proxy.ts'
import { sessionError, sftpError, sshError, statusOf } from './sftp-error.ts'

const readyMs = 30_000
/** So many bytes may wait for their answers, and be sent again after a cut. */
const outstandingBytes = 1_048_576
const writeBytes = 131_072
const endOfFile = 1
const noSuchFile = 2

/** Connects and logs in. @throws GatewayError ENDPOINT_* */
export async function openSftp(place: SftpPlace, secrets: PlaceSecrets, signal: AbortSignal): Promise<FileStore> {
  signal.throwIfAborted()
  const { hostKey, jump, proxy } = place
  if (hostKey === undefined)
    throw new GatewayError('ENDPOINT_HOST_KEY', 'the host key of the endpoint is not confirmed')
  const closing: (() => void)[] = []
  const close = (): void => {
    for (const end of closing.splice(0).reverse()) end()
  }
  try {
    const first = jump ?? place
    let sock: Duplex | undefined = proxy && (await connectThrough(proxy, secrets.proxyPassword, first, signal))
    if (jump) {
      const { client: between, lost } = await login(
        {
          host: jump.host,
          port: jump.port,
          username: jump.user,
          ...keys(secrets.jumpPassword, secrets.jumpPrivateKey),
          ...(sock && { sock }),
        },
        jump.hostKey,
        closing,
        signal,
      )
      sock = await Promise.race([
        callback<Duplex>(done => between.forwardOut('127.0.0.1', 0, place.host, place.port, done)),
        lost,
      ]).catch(error => {
        throw sshError(error)
      })
    }
    const { client, lost } = await login(
      {
        host: place.host,
        port: place.port,
        username: place.user,
        ...keys(secrets.password, secrets.privateKey, secrets.passphrase),
        ...(sock && { sock }),
      },
      hostKey,
      closing,
      signal,
    )
    const sftp = await Promise.race([callback<SFTPWrapper>(done => client.sftp(done)), lost]).catch(error => {
      throw sessionError(error)
    })
    return storeOf(sftp, place, guardedCalls(lost), close)
  } catch (error) {
    close()
    throw error
  }
}

/** The key that the server shows, `SHA256:` and base64; nobody logs in. @throws GatewayError ENDPOINT_UNREACHABLE */
export async function readHostKey(
  { host, port, proxy }: Pick<SftpPlace, 'host' | 'port'> & Partial<Pick<SftpPlace, 'proxy'>>,
  signal: AbortSignal,
  secrets: Pick<PlaceSecrets, 'proxyPassword'> = {},
): Promise<string> {
  const sock = proxy && (await connectThrough(proxy, secrets.proxyPassword, { host, port }, signal))
  const client = new Client()
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  const abort = (): void => reject(signal.reason)
  signal.addEventListener('abort', abort, { once: true })
  client.on('error', error => reject(sshError(error)))
  client.on('close', () => reject(new GatewayError('ENDPOINT_UNREACHABLE', 'the endpoint closed the connection')))
  client.connect({
    host,
    port,
    username: 'hanse',
    ...(sock && { sock }),
    readyTimeout: readyMs,
    hostVerifier: (key: Buffer) => {
      resolve(fingerprintOf(key))
      return false
    },
  })
  try {
    return await promise
  } finally {
    signal.removeEventListener('abort', abort)
    client.end()
  }
}

const fingerprintOf = (key: Buffer): string =>
  `SHA256:${createHash('sha256').update(key).digest('base64').replace(/=+$/, '')}`

const keys = (password?: string, privateKey?: string, passphrase?: string): ConnectConfig => ({
  ...(password !== undefined && { password }),
  ...(privateKey !== undefined && { privateKey }),
  ...(passphrase !== undefined && { passphrase }),
})

async function login(
  config: ConnectConfig,
  hostKey: string,
  closing: (() => void)[],
  signal: AbortSignal,
): Promise<{ readonly client: Client; readonly lost: Promise<never> }> {
  const client = new Client()
  let shown: string | undefined
  const { promise: ready, resolve, reject: refuse } = Promise.withResolvers<void>()
  const { promise: lost, reject: lose } = Promise.withResolvers<never>()
  // Not every request of the library learns that its connection is gone.
  lost.catch(() => {})
  const reject = (error: unknown): void => {
    refuse(error)
    lose(error)
  }
  const abort = (): void => {
    client.destroy()
    reject(signal.reason)
  }
  signal.addEventListener('abort', abort, { once: true })
  closing.push(() => {
    signal.removeEventListener('abort', abort)
    client.end()
  })
  // For as long as it is open: what fails later fails the requests that wait.
  client.on('error', error => {
    const isOther = shown !== undefined && shown !== hostKey
    reject(
      isOther
        ? new GatewayError('ENDPOINT_HOST_KEY', `the server shows another host key than the confirmed one: ${shown}`)
        : sshError(error),
    )
  })
  client.on('close', () => reject(new GatewayError('ENDPOINT_UNREACHABLE', 'the endpoint closed the connection')))
  client.on('ready', resolve)
  try {
    client.connect({
      ...config,
      sock: config.sock ?? socketTo(config, reject),
      readyTimeout: readyMs,
      keepaliveInterval: 15_000,
      keepaliveCountMax: 3,
      hostVerifier: (key: Buffer) => {
        shown = fingerprintOf(key)
        return shown === hostKey
      },
    })
  } catch (error) {
    // A private key that cannot be read, for one.
    reject(new GatewayError('ENDPOINT_LOGIN', 'the key or settings of the endpoint cannot be used', { cause: error }))
  }
  await ready
  return { client, lost }
}

function socketTo({ host = '', port = 22 }: ConnectConfig, onError: (error: GatewayError) => void): Duplex {
  const socket = connect({ host, port, noDelay: true, keepAlive: true })
  socket.once('error', error => onError(sshError(error)))
  return gathering(socket)
}

/** What is written before the event loop goes on leaves at once, in one call: the library gives a packet in three pieces. */
function gathering(socket: Socket): Socket {
  const write = socket.write.bind(socket)
  return Object.assign(socket, {
    write: (data: Uint8Array) => {
      if (socket.writableCorked === 0) {
        socket.cork()
        process.nextTick(() => socket.uncork())
      }
      return write(data)
    },
  })
}

function storeOf(sftp: SFTPWrapper, place: SftpPlace, call: Call, close: () => void): FileStore {
  const { root } = place
  const can = abilitiesOf({ resume: true, rename: true, list: true, remove: true }, place.can)
  const at = (path: string): string => pathBelow(root, path)
  const ask = async <T>(work: (done: Done<T>) => void): Promise<T> => {
    try {
      return await call(work)
    } catch (error) {
      throw sftpError(error)
    }
  }
  const act = (work: (done: Done<void>) => void): Promise<void> => ask<void>(work)
  const stat = async (path: string): Promise<FileEntry | undefined> => {
    try {
      return entryOf(path, await call<Stats>(done => sftp.lstat(at(path), done)))
    } catch (error) {
      if (statusOf(error) === noSuchFile) return undefined
      throw sftpError(error)
    }
  }
  const makeFolder = async (path: string): Promise<void> => {
    if (path === '' || (can.list && (await stat(path))?.kind === 'folder')) return
    await makeFolder(folderOf(path))
    try {
      await call<void>(done => sftp.mkdir(at(path), done))
    } catch (error) {
      // Another connection may have made it; where nobody may look, what is then written says whether it is there.
      if (can.list && (await stat(path))?.kind !== 'folder') throw sftpError(error)
    }
  }
  return {
    can,
    stat,
    async list(path) {
      const entries = await ask<FileEntryWithStats[]>(done => sftp.readdir(at(path), done))
      return entries.filter(({ filename }) => isName(filename)).map(({ filename, attrs }) => entryOf(filename, attrs))
    },
    makeFolder,
    async put(path, source, { offset, onSent }, signal) {
      const handle = await ask<Buffer>(done => sftp.open(at(path), offset > 0 ? 'r+' : 'w', done))
      try {
        await writeAll(sftp, handle, source, { offset, onSent, call }, signal)
      } finally {
        source.destroy()
        await call<void>(done => sftp.close(handle, done)).catch(() => {})
      }
    },
    async get(path, offset) {
      const handle = await ask<Buffer>(done => sftp.open(at(path), 'r', done))
      return Readable.from(readAll(sftp, handle, offset, call), { objectMode: false })
    },
    async rename(from, to) {
      try {
        await call<void>(done => sftp.ext_openssh_rename(at(from), at(to), done))
      } catch {
        // Without OpenSSH's extension nothing may be at the new name.
        await call<void>(done => sftp.unlink(at(to), done)).catch(() => {})
        await act(done => sftp.rename(at(from), at(to), done))
      }
    },
    async remove(path) {
      try {
        await call<void>(done => sftp.unlink(at(path), done))
      } catch (error) {
        if (statusOf(error) !== noSuchFile) throw sftpError(error)
      }
    },
    async freeBytes() {
      try {
        const found = await call<{ f_bavail: number; f_frsize: number }>(done => sftp.ext_openssh_statvfs(at(''), done))
        return Number(found.f_bavail) * Number(found.f_frsize)
      } catch {
        return undefined
      }
    },
    sha256: async () => undefined,
    close: async () => close(),
  }
}

/** Writes in order, with many requests on the way: the server takes them one after the other, so that there are no gaps. */
async function writeAll(
  sftp: SFTPWrapper,
  handle: Buffer,
  source: Readable,
  { offset, onSent, call }: { readonly offset: number; readonly onSent: (bytes: number) => void; readonly call: Call },
  signal: AbortSignal,
): Promise<void> {
  let [position, waiting] = [offset, 0]
  let failure: { readonly error: unknown } | undefined
  let wake = Promise.withResolvers<void>()
  const settle = async (most: number): Promise<void> => {
    while (waiting > most && !failure) {
      await wake.promise
      wake = Promise.withResolvers()
    }
    if (failure) throw signal.aborted ? signal.reason : sftpError(failure.error)
  }
  const write = (bytes: Buffer): void => {
    waiting += bytes.length
    const at = position
    const settled = (error?: unknown): void => {
      waiting -= bytes.length
      if (error) failure ??= { error }
      else onSent(bytes.length)
      wake.resolve()
    }
    call<void>(done => sftp.write(handle, bytes, 0, bytes.length, at, done)).then(() => settled(), settled)
    position += bytes.length
  }
  for await (const chunk of source) {
    signal.throwIfAborted()
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
    for (let at = 0; at < bytes.length; at += writeBytes) {
      await settle(outstandingBytes)
      write(bytes.subarray(at, at + writeBytes))
    }
  }
  await settle(0)
}

const readBytes = 32_768
const readsAhead = 32

/** Reads to the end, with many requests on the way. */
async function* readAll(sftp: SFTPWrapper, handle: Buffer, offset: number, call: Call): AsyncGenerator<Uint8Array> {
  const reads: Promise<Uint8Array>[] = []
  let next = offset
  const ask = (): void => {
    const read = call<Uint8Array>(done => {
      const into = Buffer.allocUnsafe(readBytes)
      sftp.read(handle, into, 0, readBytes, next, (error, count) =>
        statusOf(error) === endOfFile ? done(null, into.subarray(0, 0)) : done(error, into.subarray(0, count)),
      )
    })
    read.catch(() => {}) // it is awaited in its turn
    reads.push(read)
    next += readBytes
  }
  try {
    for (let position = offset; ; ) {
      while (reads.length < readsAhead) ask()
      const bytes = await (reads.shift() ?? new Uint8Array(0))
      if (bytes.length === 0) return
      yield bytes
      position += bytes.length
      if (bytes.length === readBytes) continue
      // A short answer is allowed: what was asked for beyond it does not fit any more.
      await Promise.allSettled(reads.splice(0))
      next = position
    }
  } catch (error) {
    throw sftpError(error)
  } finally {
    await Promise.allSettled(reads)
    await call<void>(done => sftp.close(handle, done)).catch(() => {})
  }
}

type Call = <T>(work: (done: Done<T>) => void) => Promise<T>

/** Requests that wait when the connection is lost, or are made later, would not all be answered: they fail with it. */
function guardedCalls(lost: Promise<never>): Call {
  const waiting = new Set<(error: unknown) => void>()
  let isLost = false
  lost.catch((error: unknown) => {
    isLost = true
    for (const reject of waiting) reject(error)
  })
  return async <T>(work: (done: Done<T>) => void) => {
    if (isLost) throw new GatewayError('ENDPOINT_UNREACHABLE', 'the connection to the endpoint broke')
    const { promise, resolve, reject } = Promise.withResolvers<T>()
    waiting.add(reject)
    callback(work).then(resolve, reject)
    try {
      return await promise
    } finally {
      waiting.delete(reject)
    }
  }
}

type Done<T> = (error: Error | null | undefined, value: T) => void

function callback<T>(work: (done: Done<T>) => void): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>()
  try {
    work((error, value) => (error ? reject(error) : resolve(value)))
  } catch (error) {
    reject(error) // the connection is gone
  }
  return promise
}

const isName = (name: string): boolean => name !== '.' && name !== '..' && !name.includes('/')

function entryOf(path: string, attrs: Stats): FileEntry {
  const kind = attrs.isFile() ? 'file' : attrs.isDirectory() ? 'folder' : 'other'
  const name = path.slice(path.lastIndexOf('/') + 1)
  return { name, kind, size: kind === 'file' ? attrs.size : 0, modified: new Date(attrs.mtime * 1000) }
}
