/** Sends a corpus with DCMTK's dcmsend, one process and association for each group of folders. */
import { spawn } from 'node:child_process'

interface Sending {
  /** When it began to open its association, after looking at its files. */
  readonly beganAt: number
  readonly endedAt: number
}

/**
 * Sends all folders over `associations` associations at once.
 *
 * @returns milliseconds from the first association's beginning to the last one's end; the time in
 *   which dcmsend looks at its files before is left out
 */
export async function sendFolders(port: number, folders: readonly string[], associations: number): Promise<number> {
  const groups = Array.from({ length: associations }, (_, index) =>
    folders.filter((_folder, at) => at % associations === index),
  )
  const sendings = await Promise.all(groups.map(group => dcmsend(port, group)))
  return Math.max(...sendings.map(each => each.endedAt)) - Math.min(...sendings.map(each => each.beganAt))
}

async function dcmsend(port: number, folders: readonly string[]): Promise<Sending> {
  const args = ['-v', '-aet', 'BENCH', '-aec', 'ANY-SCP', '+sd', '127.0.0.1', String(port), ...folders]
  const child = spawn('dcmsend', args, { env: { ...process.env, TCP_NODELAY: '1' }, stdio: ['ignore', 'pipe', 'pipe'] })
  const { promise, resolve, reject } = Promise.withResolvers<Sending>()
  let beganAt: number | undefined
  let tail = ''
  const take = (chunk: Buffer): void => {
    tail = (tail + chunk.toString()).slice(-2_000)
    if (beganAt === undefined && tail.includes('starting association')) beganAt = performance.now()
  }
  child.stdout.on('data', take)
  child.stderr.on('data', take)
  child.once('error', reject)
  child.once('close', code => {
    const endedAt = performance.now()
    if (code === 0 && beganAt !== undefined) resolve({ beganAt, endedAt })
    else reject(new Error(`dcmsend ended with ${code}: ${tail}`))
  })
  return await promise
}
