/** DCMTK's storescp, one process for each association: the limit of a C++ receiver that syncs nothing. */
import { mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { untilListening } from '../support/dcmtk.ts'
import { freePort } from '../support/free-port.ts'
import { spawnServer, type Target } from './target.ts'

/** storescp writes files, bit by bit as received. */
export const storescp: Target = {
  name: 'storescp',
  durable: 'nothing',
  async start(directory) {
    const port = await freePort()
    const files = join(directory, 'storescp')
    await mkdir(files, { recursive: true })
    const server = spawnServer('storescp', ['--fork', '--max-pdu', '131072', '+B', '-od', files, String(port)])
    await untilListening(port)
    return {
      dicomPort: port,
      roots: [server.pid],
      count: async () => (await readdir(files)).length,
      stop: server.stop,
    }
  },
}
