/** Our gateway as it is started by its users, with its private PostgreSQL. */
import { chmod, mkdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { findCluster } from '../../gateway/db/cluster-place.ts'
import { freePort } from '../support/free-port.ts'
import { type RunningTarget, spawnServer, type Target, untilReady } from './target.ts'

const root = join(import.meta.dirname, '../..')

/** The gateway, in a fresh data directory. */
export const gateway: Target = {
  name: 'hanse',
  durable: 'file, index and audit event',
  start: directory => startGateway(directory, 'Bench'),
}

/** A running gateway with its API. */
export interface RunningGateway extends RunningTarget {
  readonly url: string
  /** Calls the API below /api/v1. */
  call(method: string, path: string, body?: unknown): Promise<unknown>
}

/** Starts a gateway named `name` with its data below `directory`. */
export async function startGateway(directory: string, name: string): Promise<RunningGateway> {
  const data = join(directory, name.toLowerCase())
  await mkdir(data, { recursive: true })
  // As root the database runs as another user, who has to pass through.
  await chmod(directory, 0o755)
  const ports = { http: await freePort(), dicom: await freePort(), federation: await freePort() }
  const url = `http://127.0.0.1:${ports.http}`
  const server = spawnServer(process.execPath, [join(root, 'gateway/hanse.mjs'), 'start', '--data', data], {
    HANSE_SITE_NAME: name,
    HANSE_HTTP_PORT: String(ports.http),
    HANSE_DICOM_PORT: String(ports.dicom),
    HANSE_FEDERATION_PORT: String(ports.federation),
    HANSE_PUBLIC_URL: `https://127.0.0.1:${ports.federation}`,
    // No routing by itself while something is measured.
    HANSE_STABLE_AGE_MS: '3600000',
  })
  await untilReady(server, async () => (await fetch(`${url}/api/v1/health/ready`)).ok)
  const cluster = await findCluster(data)
  return {
    url,
    dicomPort: ports.dicom,
    roots: [server.pid, ...(await postmasterOf(cluster))],
    async count() {
      const statistics: unknown = await (await fetch(`${url}/statistics`)).json()
      return Number(Object(statistics).CountInstances)
    },
    async call(method, path, body) {
      const response = await fetch(`${url}/api/v1${path}`, {
        method,
        ...(body !== undefined && { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
      })
      const text = await response.text()
      if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text.slice(0, 500)}`)
      return text === '' ? undefined : JSON.parse(text)
    },
    async stop() {
      await server.stop()
      // Outside of the bench's own folder where the database's user could not enter that.
      if (cluster && !cluster.startsWith(directory)) await rm(cluster, { recursive: true, force: true })
    },
  }
}

/** PostgreSQL's first process; it is no child of the gateway's. */
async function postmasterOf(cluster: string | undefined): Promise<number[]> {
  if (!cluster) return []
  const [pid] = (await readFile(join(cluster, 'data', 'postmaster.pid'), 'utf8')).split('\n')
  return [Number(pid)]
}
