/** DCMTK's storescp, one process for each association: the limit of a C++ receiver. */
import { execFileSync } from 'node:child_process'
import { mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { untilListening } from '../support/dcmtk.ts'
import { freePort } from '../support/free-port.ts'
import { type RunningTarget, spawnServer, type Target } from './target.ts'

/** storescp writes files, bit by bit as received, and syncs nothing. */
export const storescp: Target = {
  name: 'storescp',
  durable: 'nothing',
  start: directory => startStorescp(directory, {}),
}

/** The same with one fdatasync added for each object. Needs a C compiler. */
export const syncedStorescp: Target = {
  name: 'storescp+sync',
  durable: 'file (not its name)',
  async start(directory) {
    const library = join(directory, 'sync-on-close.so')
    execFileSync('cc', ['-shared', '-fPIC', '-O2', '-o', library, join(import.meta.dirname, 'sync-on-close.c'), '-ldl'])
    return await startStorescp(directory, { LD_PRELOAD: library })
  },
}

async function startStorescp(directory: string, env: NodeJS.ProcessEnv): Promise<RunningTarget> {
  const port = await freePort()
  const files = join(directory, 'storescp')
  await mkdir(files, { recursive: true })
  const server = spawnServer('storescp', ['--fork', '--max-pdu', '131072', '+B', '-od', files, String(port)], env)
  await untilListening(port)
  return {
    dicomPort: port,
    roots: [server.pid],
    count: async () => (await readdir(files)).length,
    stop: server.stop,
  }
}
