/** What carries a study from one site to another: our gateways, Orthanc's peers, and bare TLS. */
import { spawn } from 'node:child_process'
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createCa, issueLeaf } from '../../certs/ca.ts'
import { isObject } from '../../gateway/decode.ts'
import type { Corpus } from './corpus.ts'
import { type RunningGateway, startGateway } from './gateway.ts'
import { startOrthanc } from './orthanc.ts'
import { sendFolders } from './sender.ts'
import { spawnServer, untilReady } from './target.ts'
import { startTlsFront } from './tls-front.ts'

/** Two sites that are connected. */
export interface Carrier {
  readonly name: string
  readonly durable: string
  /** The processes of both sites. */
  readonly roots: readonly number[]
  /** Puts a study into the first site. */
  load(study: Corpus): Promise<void>
  /** Carries it over; returns when the second site has all of it, with CPU used outside of `roots`. */
  carry(study: Corpus): Promise<{ tookMs: number; otherCpuMs: number }>
  stop(): Promise<void>
}

/** Two paired gateways; a transfer ends with the verified receipt. */
export async function gatewayCarrier(directory: string): Promise<Carrier> {
  const a = await startGateway(directory, 'SiteA')
  const b = await startGateway(directory, 'SiteB')
  await pair(a, b)
  await a.call('PUT', '/policy', policyDocument)
  return {
    name: 'hanse',
    durable: 'files, index, audit and signed receipts at both sites',
    roots: [...a.roots, ...b.roots],
    load: async study => void (await sendFolders(a.dicomPort, study.folders, 1)),
    async carry(study) {
      const before = await b.count()
      const beganAt = Date.now()
      const [uid] = study.studyInstanceUids
      const { id } = Object(await a.call('POST', '/transfers', { study: uid, destination: 'site-b' }))
      let transfer = Object(await a.call('GET', `/transfers/${id}`))
      while (transfer.state !== 'receipted') {
        const { state } = transfer
        if (['held', 'refused', 'cancelled', 'expired'].includes(state)) throw new Error(`the transfer is ${state}`)
        // Seldom: the answers cost CPU time that is being measured. The time line has the instant.
        await new Promise(resolve => setTimeout(resolve, 100))
        transfer = Object(await a.call('GET', `/transfers/${id}`))
      }
      const receipted: unknown = transfer.steps?.find((each: unknown) => Object(each).step === 'receipted')
      const tookMs = Date.parse(Object(receipted).at) - beganAt
      const arrived = (await b.count()) - before
      if (arrived !== study.instances) throw new Error(`${arrived} of ${study.instances} instances arrived`)
      return { tookMs, otherCpuMs: 0 }
    },
    stop: async () => void (await Promise.all([a.stop(), b.stop()])),
  }
}

/**
 * Orthanc's push to a peer: over mutual TLS, as hospitals would use it, and over plain HTTP as its upper
 * bound. Debian's Orthanc crashes on the first TLS connection, so a terminator stands in front of it.
 */
export async function orthancCarrier(directory: string, line: 'mutual TLS' | 'plain HTTP'): Promise<Carrier> {
  const own = join(directory, line === 'mutual TLS' ? 'orthanc-tls' : 'orthanc-http')
  const far = join(own, 'b')
  await mkdir(far, { recursive: true })
  const b = await startOrthanc(far)
  const front =
    line === 'mutual TLS' ? await startTlsFront(await makeCredentials(own), Number(new URL(b.url).port)) : undefined
  const a = await startOrthanc(
    own,
    front ? { url: `https://localhost:${front.port}`, credentials: own } : { url: b.url },
  )
  return {
    name: `orthanc, ${line}${front ? ` (${front.name})` : ''}`,
    durable: 'files yes, index no; no receipt',
    roots: [...a.roots, ...b.roots, ...(front ? [front.pid] : [])],
    load: async study => void (await sendFolders(a.dicomPort, study.folders, 1)),
    async carry(study) {
      const before = await b.count()
      const [uid = ''] = study.studyInstanceUids
      const found: unknown = await (await fetch(`${a.url}/tools/lookup`, { method: 'POST', body: uid })).json()
      const resource: unknown = Array.isArray(found) ? Object(found[0]).ID : undefined
      const beganAt = performance.now()
      const body = JSON.stringify({ Resources: [resource], Synchronous: true })
      const response = await fetch(`${a.url}/peers/b/store`, { method: 'POST', body })
      const tookMs = performance.now() - beganAt
      const arrived = (await b.count()) - before
      if (!response.ok || arrived !== study.instances) throw new Error(`${arrived} of ${study.instances} arrived`)
      return { tookMs, otherCpuMs: 0 }
    },
    stop: async () => void (await Promise.all([a.stop(), b.stop(), front?.stop()])),
  }
}

const uploadScript = join(import.meta.dirname, 'tls-upload.ts')

/** Bare mutual TLS between two Node processes, hashed and synced in chunks. */
export async function tlsCarrier(directory: string): Promise<Carrier> {
  const own = join(directory, 'tls')
  await mkdir(own, { recursive: true })
  await makeCredentials(own)
  const server = spawnServer(process.execPath, [uploadScript, 'serve', own])
  await untilReady(server, async () => /^\d+\n/.test(server.lastWords()))
  const port = server.lastWords().trim()
  return {
    name: 'raw TLS',
    durable: 'files',
    roots: [server.pid],
    load: async () => undefined,
    async carry(study) {
      const files = await Promise.all(
        study.folders.map(async folder => (await readdir(folder)).map(name => join(folder, name))),
      )
      const child = spawn(process.execPath, [uploadScript, 'send', own, port, ...files.flat()], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      let output = ''
      for await (const chunk of child.stdout) output += String(chunk)
      const result: unknown = JSON.parse(output)
      if (!isObject(result)) throw new Error('the upload failed')
      return { tookMs: Number(result['tookMs']), otherCpuMs: Number(result['cpuMs']) }
    },
    stop: server.stop,
  }
}

/** Writes `ca.pem`, `site.pem`, `site.key` for both ends of a connection to localhost; returns the folder. */
async function makeCredentials(directory: string): Promise<string> {
  const now = Date.now()
  const ca = await createCa({ siteId: '0'.repeat(32), now })
  const leaf = await issueLeaf(ca, {
    use: 'site',
    commonName: 'bench',
    hosts: ['localhost'],
    lifetimeMs: 86_400_000,
    now,
  })
  await writeFile(join(directory, 'ca.pem'), ca.certificate)
  await writeFile(join(directory, 'site.pem'), leaf.certificate)
  await writeFile(join(directory, 'site.key'), leaf.key, { mode: 0o600 })
  return directory
}

const policyDocument = {
  format: 'hanse-policy-1',
  title: 'Bench: any study may be sent to the other site',
  destinations: { 'site-b': { peer: 'SiteB' } },
  rules: [
    {
      id: 'any',
      description: 'Everything, when a person sends it',
      when: { attribute: 'OriginKind', equals: 'dimse' },
      send: { to: ['site-b'], purpose: 'treatment', profile: 'as-is' },
    },
  ],
}

async function pair(a: RunningGateway, b: RunningGateway): Promise<void> {
  const { invitation } = Object(await a.call('POST', '/peers/invitations', { name: 'SiteB' }))
  const { peer } = Object(await b.call('POST', '/peers/accept', { invitation, name: 'SiteA' }))
  const { peers } = Object(await a.call('GET', '/peers'))
  const pending: unknown = Array.isArray(peers) ? peers.find(each => Object(each).state === 'pending') : undefined
  const { sas } = Object(peer)
  await a.call('POST', `/peers/${Object(pending).id}/confirm`, { sas })
  await b.call('POST', `/peers/${Object(peer).id}/confirm`, { sas })
}
