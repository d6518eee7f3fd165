/** FTP (RFC 959), and FTPS with explicit (RFC 4217) or implicit TLS. Passive mode; one command at a time. */
import { isIP } from 'node:net'
import { PassThrough, Readable } from 'node:stream'
import { TLSSocket } from 'node:tls'
import { Client, type FileInfo, FTPError } from 'basic-ftp'
import { GatewayError } from '../gateway/errors.ts'
import { errnoOf } from '../gateway/store/io-error.ts'
import { certificateError } from './certificate-error.ts'
import type { FileEntry, FileStore } from './file-store.ts'
import { useProxy } from './ftp-proxy.ts'
import { abilitiesOf, folderOf, pathBelow } from './paths.ts'
import type { FtpPlace, PlaceSecrets } from './place.ts'

const idleMs = 60_000
/** So long a reply is waited for when the data connection has broken. */
const replyMs = 2_000

/** Connects and logs in. @throws GatewayError ENDPOINT_* */
export async function openFtp(place: FtpPlace, secrets: PlaceSecrets, signal: AbortSignal): Promise<FileStore> {
  signal.throwIfAborted()
  const client = new Client(idleMs, { allowSeparateTransferHost: false, maxListingBytes: 16_777_216 })
  if (place.proxy) useProxy(client, place.host, place.proxy, secrets.proxyPassword, signal)
  const abort = (): void => client.close()
  signal.addEventListener('abort', abort, { once: true })
  try {
    await connect(client, place)
    await client.login(place.user, secrets.password ?? '')
    await client.useDefaultSettings()
    awaitReplies(client)
    return storeOf(client, place, () => {
      signal.removeEventListener('abort', abort)
      client.close()
    })
  } catch (error) {
    signal.removeEventListener('abort', abort)
    client.close()
    signal.throwIfAborted()
    throw ftpError(error)
  }
}

/**
 * A server that refuses a transfer says why on the control connection and drops the data connection, in any order: the
 * reason is waited for, where the library would only see a connection that broke.
 */
function awaitReplies(client: Client): void {
  const prepare = client.prepareTransfer
  client.prepareTransfer = async ftp => {
    // The first one chooses the mode of all that follow, in its own place.
    client.prepareTransfer = prepare
    const prepared = await prepare(ftp).finally(() => awaitReplies(client))
    const socket = ftp.dataSocket
    socket?.removeAllListeners('error')
    socket?.removeAllListeners('close')
    const broke = (error: Error): void => {
      const late = setTimeout(() => ftp.dataSocket === socket && ftp.closeWithError(error), replyMs)
      late.unref()
    }
    socket?.once('error', broke)
    // Closed by the server in the middle, without an error: nobody would notice.
    socket?.once('close', () => {
      if (!socket.writableFinished && !socket.readableEnded) broke(new Error('the data connection was closed'))
    })
    return prepared
  }
}

/** TLS and the server's certificate come before user and password. */
async function connect(client: Client, { host, port, tls, certificate, ca }: FtpPlace): Promise<void> {
  const options = {
    host,
    // No address is a server name (RFC 6066 §3).
    ...(isIP(host) === 0 && { servername: host }),
    minVersion: 'TLSv1.2' as const,
    ...(ca !== undefined && { ca }),
    // The pin is compared below, before anything is said.
    rejectUnauthorized: certificate === undefined,
  }
  if (tls === 'implicit') await client.connectImplicitTLS(host, port, options)
  else await client.connect(host, port)
  if (tls === 'explicit') await client.useTLS(options)
  if (tls === 'none' || certificate === undefined) return
  const { socket } = client.ftp
  const shown = socket instanceof TLSSocket ? socket.getPeerX509Certificate()?.fingerprint256 : undefined
  if (shown?.replaceAll(':', '').toLowerCase() !== certificate)
    throw new GatewayError('ENDPOINT_HOST_KEY', 'the server shows another certificate than the confirmed one')
}

function storeOf(client: Client, place: FtpPlace, close: () => void): FileStore {
  const { root } = place
  const can = abilitiesOf({ resume: true, rename: true, list: true, remove: true }, place.can)
  const at = (path: string): string => pathBelow(root, path)
  let last: Promise<unknown> = Promise.resolve()
  /** One after the other, as the protocol has it. */
  const ask = async <T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> => {
    const before = last
    const mine = Promise.withResolvers<void>()
    last = mine.promise
    await before
    try {
      signal.throwIfAborted()
      return await work()
    } catch (error) {
      // What came late would be taken for the answer to the next command.
      if (!(error instanceof FTPError)) client.close()
      signal.throwIfAborted()
      throw ftpError(error)
    } finally {
      mine.resolve()
    }
  }
  const listed = async (path: string): Promise<readonly FileEntry[]> => (await client.list(at(path))).map(entryOf)
  const absent = (error: unknown): undefined => {
    if (error instanceof FTPError && error.code === 550) return undefined
    throw error
  }
  /** ProFTPD says 450 of the listing of a folder that is not there. */
  const unlisted = (error: unknown): undefined =>
    error instanceof FTPError && error.code === 450 ? undefined : absent(error)
  const stat = async (path: string): Promise<FileEntry | undefined> => {
    const name = path.slice(path.lastIndexOf('/') + 1)
    const size = await client.size(at(path)).catch(absent)
    if (size !== undefined) return { name, kind: 'file', size, modified: undefined }
    return (await listed(folderOf(path)).catch(unlisted))?.find(entry => entry.name === name)
  }
  const makeFolder = async (path: string): Promise<void> => {
    if (path === '') return
    await makeFolder(folderOf(path))
    try {
      await client.send(`MKD ${at(path)}`)
    } catch (error) {
      absent(error)
      // It may be there, or nobody may be told whether it is: what is then written says so.
      if (!can.list) return
      const beside = await listed(folderOf(path)).catch(unlisted)
      if (beside && !beside.some(({ name }) => name === path.slice(path.lastIndexOf('/') + 1))) throw error
    }
  }
  return {
    can,
    stat: (path, signal) => ask(signal, () => stat(path)),
    list: (path, signal) => ask(signal, () => listed(path)),
    makeFolder: (path, signal) => ask(signal, () => makeFolder(path)),
    put: (path, source, { offset, onSent }, signal) =>
      ask(signal, async () => {
        const counted = Readable.from(counting(source, onSent), { objectMode: false })
        try {
          if (offset > 0) await client.appendFrom(counted, at(path))
          else await client.uploadFrom(counted, at(path))
        } finally {
          counted.destroy()
        }
      }),
    async get(path, offset, signal) {
      const bytes = new PassThrough()
      ask(signal, () => client.downloadTo(bytes, at(path), offset)).catch((error: Error) => bytes.destroy(error))
      return bytes
    },
    rename: (from, to, signal) => ask(signal, async () => void (await client.rename(at(from), at(to)))),
    remove: (path, signal) => ask(signal, async () => void (await client.remove(at(path)).catch(absent))),
    freeBytes: async () => undefined,
    sha256: async () => undefined,
    close: async () => close(),
  }
}

async function* counting(source: Readable, onSent: (bytes: number) => void): AsyncGenerator<Uint8Array> {
  for await (const chunk of source) {
    const bytes: Uint8Array = chunk
    yield bytes
    onSent(bytes.length)
  }
}

function entryOf({ name, isFile, isDirectory, size, modifiedAt }: FileInfo): FileEntry {
  return {
    name,
    kind: isFile ? 'file' : isDirectory ? 'folder' : 'other',
    size: isFile ? size : 0,
    modified: modifiedAt,
  }
}

/** Codes of RFC 959 §4.2, in words. */
function ftpError(error: unknown): GatewayError {
  if (error instanceof GatewayError) return error
  const failed = (code: ConstructorParameters<typeof GatewayError>[0], message: string): GatewayError =>
    new GatewayError(code, message, { cause: error })
  if (error instanceof FTPError) {
    if (error.code === 530 || error.code === 331 || error.code === 332)
      return failed('ENDPOINT_LOGIN', 'the endpoint refuses the login: check user and password')
    if (error.code === 452 || error.code === 552) return failed('ENDPOINT_FULL', 'the endpoint has no room')
    if (error.code === 550 || error.code === 553)
      return failed('ENDPOINT_DENIED', 'the endpoint forbids it: check the permissions of its folder')
    if (error.code === 500 || error.code === 502 || error.code === 504)
      return failed('ENDPOINT_UNSUPPORTED', 'the endpoint cannot do this')
    if (error.code < 500) return failed('ENDPOINT_UNREACHABLE', `the endpoint is not ready: ${error.code}`)
    return failed('ENDPOINT_PROTOCOL', `the endpoint answered ${error.code}`)
  }
  const reason = errnoOf(error)
  return (
    certificateError(error) ??
    failed('ENDPOINT_UNREACHABLE', `no connection to the endpoint${reason ? `: ${reason}` : ''}`)
  )
}
