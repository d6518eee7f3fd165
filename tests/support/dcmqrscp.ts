/** DCMTK's archive `dcmqrscp` as a peer: answers C-FIND, C-MOVE and C-GET from files. */
import { spawn } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { temporaryDir } from './blobs.ts'
import { onEnd } from './cleanup.ts'
import { runOk, tuned, untilListening } from './dcmtk.ts'
import { freePort } from './free-port.ts'

/** Its AE title. */
export const dcmqrscpAe = 'DCMQR'

/**
 * Starts it on a free port with these files.
 *
 * @param destinations  who may be named as move destination, by AE title, and on which port of this machine
 */
export async function startDcmqrscp(
  t: TestContext,
  options: { files: readonly Uint8Array[]; destinations?: Readonly<Record<string, number>> },
): Promise<{ port: number }> {
  const directory = await temporaryDir(t)
  const storage = join(directory, 'storage')
  await mkdir(storage)
  const paths: string[] = []
  for (const [index, bytes] of options.files.entries()) {
    const path = join(storage, `${index}.dcm`)
    await writeFile(path, bytes)
    paths.push(path)
  }
  if (paths.length > 0) await runOk(t, 'dcmqridx', [storage, ...paths])
  const port = await freePort()
  const hosts = Object.entries(options.destinations ?? {}).map(
    ([title, at], index) => `host${index} = (${title}, 127.0.0.1, ${at})`,
  )
  const file = join(directory, 'dcmqrscp.cfg')
  await writeFile(
    file,
    [
      ...[`NetworkTCPPort = ${port}`, 'MaxPDUSize = 131072', 'MaxAssociations = 16'],
      ...['HostTable BEGIN', ...hosts, 'HostTable END', 'VendorTable BEGIN', 'VendorTable END'],
      ...['AETable BEGIN', `${dcmqrscpAe} ${storage} RW (500, 1024mb) ANY`, 'AETable END', ''],
    ].join('\n'),
  )
  const child = spawn('dcmqrscp', ['-c', file, '--max-pdu', '131072'], { env: tuned, stdio: 'ignore' })
  const ended = new Promise(resolve => child.once('close', resolve))
  onEnd(t, async () => {
    child.kill('SIGKILL')
    await ended
  })
  await untilListening(port)
  return { port }
}
