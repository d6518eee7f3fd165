/**
 * The limit for a transfer between two Node processes: the same bytes over mutual TLS 1.3 in chunks
 * of 4 MiB on four connections; the receiver hashes each chunk, writes it, syncs it, and answers.
 *
 * Run as `tls-upload.ts serve DIR` (prints its port) and `tls-upload.ts send DIR PORT FILE…` (prints
 * JSON). DIR holds `ca.pem`, `site.pem`, `site.key`.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { type FileHandle, open, readFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { connect, createServer, type SecureContextOptions, type TLSSocket } from 'node:tls'

const connections = 4
const chunkBytes = 4 * 1024 * 1024
/** Length of a chunk as four bytes, then its bytes; the answer is its SHA-256. */
const headerBytes = 4
const answerBytes = 32

const [role, directory = '', ...rest] = process.argv.slice(2)
if (role === 'serve') serve()
else await send(Number(rest[0]), rest.slice(1))

function credentials(): SecureContextOptions {
  const read = (name: string): Buffer => readFileSync(join(directory, name))
  return { ca: read('ca.pem'), cert: read('site.pem'), key: read('site.key'), minVersion: 'TLSv1.3' }
}

function serve(): void {
  let count = 0
  const server = createServer({ ...credentials(), requestCert: true, rejectUnauthorized: true }, socket => {
    count += 1
    void receive(socket, join(directory, `received-${count}`))
  })
  server.listen(0, '127.0.0.1', () => console.log(portOf(server.address())))
}

function portOf(address: AddressInfo | string | null): number {
  return typeof address === 'object' && address ? address.port : 0
}

async function receive(socket: TLSSocket, path: string): Promise<void> {
  const file = await open(path, 'w')
  try {
    let pieces: Buffer[] = []
    let have = 0
    let want: number | undefined
    for await (const piece of socket) {
      if (!Buffer.isBuffer(piece)) continue
      pieces.push(piece)
      have += piece.length
      if (want === undefined && have >= headerBytes) want = headerBytes + Buffer.concat(pieces).readUInt32BE(0)
      if (want === undefined || have < want) continue
      // The sender waits for the answer, so nothing of the next chunk can be here.
      socket.write(await store(file, pieces))
      pieces = []
      have = 0
      want = undefined
    }
  } finally {
    await file.close()
  }
}

async function store(file: FileHandle, pieces: readonly Buffer[]): Promise<Buffer> {
  const hash = createHash('sha256')
  const data = pieces.map((piece, index) => (index === 0 ? piece.subarray(headerBytes) : piece))
  const writing = file.writev(data)
  for (const piece of data) hash.update(piece)
  await writing
  await file.datasync()
  return hash.digest()
}

async function send(port: number, files: readonly string[]): Promise<void> {
  const sockets = await Promise.all(Array.from({ length: connections }, () => open1(port)))
  const before = process.cpuUsage()
  const beganAt = performance.now()
  let next = 0
  await Promise.all(
    sockets.map(async socket => {
      while (next < files.length) {
        const chunk: Buffer[] = []
        let length = 0
        while (next < files.length && length < chunkBytes) {
          const path = files[next] ?? ''
          next += 1
          const bytes = await readFile(path)
          chunk.push(bytes)
          length += bytes.length
        }
        await exchange(socket, chunk, length)
      }
    }),
  )
  const tookMs = performance.now() - beganAt
  const used = process.cpuUsage(before)
  for (const socket of sockets) socket.end()
  console.log(JSON.stringify({ tookMs, cpuMs: (used.user + used.system) / 1000 }))
}

async function open1(port: number): Promise<TLSSocket> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const socket = connect({ ...credentials(), host: '127.0.0.1', port, servername: 'localhost' }, resolve)
  socket.setNoDelay(true)
  socket.once('error', reject)
  await promise
  return socket
}

async function exchange(socket: TLSSocket, chunk: readonly Buffer[], length: number): Promise<void> {
  const hash = createHash('sha256')
  for (const bytes of chunk) hash.update(bytes)
  const expected = hash.digest()
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>()
  let answer = Buffer.alloc(0)
  const take = (piece: Buffer): void => {
    answer = Buffer.concat([answer, piece])
    if (answer.length >= answerBytes) resolve(answer)
  }
  socket.on('data', take)
  socket.once('close', reject)
  const header = Buffer.alloc(headerBytes)
  header.writeUInt32BE(length)
  socket.cork()
  socket.write(header)
  for (const bytes of chunk) socket.write(bytes)
  socket.uncork()
  const got = await promise
  socket.off('data', take)
  socket.off('close', reject)
  if (!got.equals(expected)) throw new Error('the receiver got other bytes')
}
