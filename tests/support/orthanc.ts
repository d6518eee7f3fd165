/** Runs Orthanc as a DICOM peer in tests: an archive that finds, stores and commits, and asks for commitment. */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { temporaryDir } from './blobs.ts'
import { onEnd } from './cleanup.ts'
import { untilListening } from './dcmtk.ts'
import { freePort } from './free-port.ts'
import { until } from './until.ts'

const orthanc = '/usr/sbin/Orthanc'
/** Its AE title. */
export const orthancAe = 'ORTHANC'

/** For the `skip` option of a test. */
export const missingOrthanc: string | false =
  existsSync(orthanc) || process.env['CI'] ? false : 'Orthanc is not installed (Debian: apt-get install orthanc)'

/** A running Orthanc. */
export interface OrthancPeer {
  readonly port: number
  /** Its REST API. */
  readonly url: string
  /** Calls it and gives the JSON of its answer. */
  call(method: string, path: string, body?: unknown): Promise<unknown>
  /** Kills it as a power cut would; `start` brings it back with what it had. */
  kill(): Promise<void>
  start(): Promise<void>
}

/**
 * Starts it on free ports.
 *
 * @param modalities  whom it knows, by symbolic name: AE title, host, port
 */
export async function startOrthanc(
  t: TestContext,
  modalities: Readonly<Record<string, readonly [string, string, number]>>,
  settings: Readonly<Record<string, unknown>> = {},
): Promise<OrthancPeer> {
  const dir = await temporaryDir(t)
  const [port, httpPort] = [await freePort(), await freePort()]
  const config = join(dir, 'orthanc.json')
  await writeFile(
    config,
    JSON.stringify({
      Name: 'archive',
      StorageDirectory: dir,
      IndexDirectory: dir,
      HttpPort: httpPort,
      RemoteAccessAllowed: false,
      DicomAet: orthancAe,
      DicomPort: port,
      DicomModalities: modalities,
      DicomAlwaysAllowStore: true,
      DicomAlwaysAllowFind: true,
      SaveJobs: false,
      ExecuteLuaEnabled: true,
      Plugins: [],
      ...settings,
    }),
  )
  const url = `http://127.0.0.1:${httpPort}`
  let stop = async (): Promise<void> => undefined
  const peer: OrthancPeer = {
    port,
    url,
    async call(method, path, body) {
      const answer = await fetch(`${url}${path}`, {
        method,
        ...(body !== undefined && { body: JSON.stringify(body) }),
      })
      const text = await answer.text()
      if (!answer.ok) throw new Error(`Orthanc answered ${answer.status} to ${method} ${path}`)
      return text === '' ? undefined : JSON.parse(text)
    },
    kill: () => stop(),
    async start() {
      const child = spawn(orthanc, [config], { stdio: 'ignore' })
      const ended = new Promise<void>(resolve => child.once('exit', () => resolve()))
      stop = async () => {
        child.kill('SIGKILL')
        await ended
      }
      await untilListening(port)
      await until('Orthanc answers', 60_000, async () => {
        // One that wants a login answers, too.
        const status = (await fetch(`${url}/system`).catch(() => undefined))?.status
        return status === 200 || status === 401
      })
    },
  }
  onEnd(t, () => stop())
  await peer.start()
  return peer
}
