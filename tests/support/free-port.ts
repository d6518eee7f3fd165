import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/**
 * Ports that a test may give to a program that is started later, by name or again after a kill.
 *
 * They lie below the range that the kernel hands out by itself (32768 and up), where an outgoing connection of
 * another test would take one at any moment, and are reserved by a file among all test processes of this machine.
 */
const lowest = 12_000
const count = 20_000
const reservations = join(tmpdir(), `hanse-test-ports-${process.getuid?.() ?? 0}`)
const own: string[] = []
process.once('exit', () => {
  for (const file of own) rmSync(file, { force: true })
})

/** A free TCP port of the loopback address, this process's own until it ends. */
export const freePort = (): Promise<number> => freePorts(1)

/** The first of so many free ports that follow each other. */
export async function freePorts(length: number): Promise<number> {
  for (;;) {
    const first = lowest + Math.floor(Math.random() * (count - length))
    const ports = Array.from({ length }, (_, index) => first + index)
    if (!ports.every(isReserved)) continue
    const free = await Promise.all(ports.map(canListen))
    if (free.every(Boolean)) return first
  }
}

/** Makes the port's file; a file whose process is gone is removed, and the port left for another time. */
function isReserved(port: number): boolean {
  mkdirSync(reservations, { recursive: true })
  const file = join(reservations, String(port))
  try {
    const handle = openSync(file, 'wx')
    writeSync(handle, String(process.pid))
    closeSync(handle)
  } catch {
    removeStale(file)
    return false
  }
  own.push(file)
  return true
}

function removeStale(file: string): void {
  try {
    process.kill(Number(readFileSync(file, 'utf8')), 0)
  } catch {
    rmSync(file, { force: true })
  }
}

async function canListen(port: number): Promise<boolean> {
  const server = createServer()
  return await new Promise(resolve => {
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
}
