/** A site for tests of deliveries to endpoints: database, blobs, keys, queue, routing, de-identification, the services. */

import assert from 'node:assert/strict'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { sql } from 'kysely'
import type { TransferState } from '../../gateway/db/schema.ts'
import { archiveWire } from '../../gateway/dimse/archive-wire.ts'
import { commitmentWire } from '../../gateway/dimse/commitment.ts'
import { openQueue } from '../../gateway/jobs/queue.ts'
import type { Log } from '../../gateway/log.ts'
import { openArrivals } from '../../gateway/services/arrivals.ts'
import { openCommitments } from '../../gateway/services/commitment.ts'
import { openConsents } from '../../gateway/services/consents.ts'
import { openDeidentify } from '../../gateway/services/deidentify.ts'
import { commitmentNodes } from '../../gateway/services/endpoint-commitment.ts'
import { type EndpointServices, openEndpointServices } from '../../gateway/services/endpoint-parts.ts'
import { openIngest } from '../../gateway/services/ingest.ts'
import { createPreparing } from '../../gateway/services/outbound-prepare.ts'
import { openOutbox } from '../../gateway/services/outbox.ts'
import { openProjectKeys } from '../../gateway/services/project-keys.ts'
import { openPseudonyms } from '../../gateway/services/pseudonyms.ts'
import { type Routing, startRouting } from '../../gateway/services/routing.ts'
import { loadTransfer, type TransferDetail } from '../../gateway/services/transfer-list.ts'
import { openBlobs } from '../../gateway/store/blobs.ts'
import { publishPolicy } from '../../policy/versions.ts'
import { onEnd } from './cleanup.ts'
import { testDatabase } from './database.ts'
import type { BuiltInstance } from './dicom-builder.ts'
import { caller } from './principals.ts'
import { silent, testKeys } from './site.ts'
import { until } from './until.ts'

export type EndpointSite = Awaited<ReturnType<typeof startEndpointSite>>

/** Starts it; everything is stopped and removed after the test. */
export async function startEndpointSite(t: TestContext, options: { log?: Log; policy?: object } = {}) {
  const { log = silent } = options
  const db = await testDatabase(t)
  const keys = await testKeys(t, 'A')
  const dataDir = await mkdtemp(join(tmpdir(), 'hanse-endpoints-'))
  onEnd(t, () => rm(dataDir, { recursive: true, force: true }))
  const blobs = await openBlobs({ dir: dataDir, log })
  const queue = await openQueue({ db, log })
  onEnd(t, () => queue.close())
  const routing: Routing = startRouting({ db, queue, log })
  onEnd(t, () => routing.close())
  const deidentify = openDeidentify({ threads: 1 })
  onEnd(t, () => deidentify.close())
  const outbox = openOutbox(dataDir)
  const projects = openProjectKeys({ db, dir: join(dataDir, 'keys', 'projects') })
  const pseudonyms = openPseudonyms({ db, keyPath: join(dataDir, 'keys', 'pseudonyms.json'), projects })
  const consents = openConsents({ db, queue })
  const own = { credentials: () => undefined, aeTitle: 'HANSE' }
  const unknown = { target: (aeTitle: string) => assert.fail(`${aeTitle} is no endpoint`) }
  const wire = commitmentWire(commitmentNodes(own, unknown, () => services.endpoints))
  const commitments = openCommitments({ db, blobs, queue, wire, aeTitle: 'HANSE', log })
  const services: EndpointServices = openEndpointServices({
    db,
    commitments,
    blobs,
    queue,
    keys,
    outbox,
    preparing: createPreparing({ db, blobs, outbox, deidentify, projects, pseudonyms, log }),
    obstacle: consents.obstacle,
    sendByDimse: (to, items, onResult, signals) =>
      archiveWire({ target: () => to }).send(to.name, items, onResult, signals),
    ...own,
    dataDir,
    log,
  })
  queue.work('carry-commitment', { concurrency: 2 }, (job, signal) => commitments.carry(job.commitment, signal))
  await publishPolicy(
    db,
    options.policy ?? { format: 'hanse-policy-2', destinations: {}, rules: [], incoming: [] },
    'test',
  )
  const ingest = openIngest({ db, blobs, dueAt: () => undefined })
  const arrivalParts = { ...services, db, blobs, ingest, queue, dataDir, log, clock: () => new Date() }
  const admin = caller('admin')

  return {
    ...services,
    db,
    queue,
    routing,
    consents,
    dataDir,
    admin,
    ingest,
    /** Looks for what arrives at endpoints, from now on. */
    openArrivals: () => openArrivals(arrivalParts),
    /** Stores instances as a modality would; the row of their study. */
    async store(instances: readonly BuiltInstance[]): Promise<number> {
      for (const { bytes, dataset } of instances) {
        const staged = await ingest.stage()
        await staged.append([bytes.subarray(0, bytes.length - dataset.length)])
        staged.markDataset()
        await staged.append([dataset])
        await ingest.store(await staged.finish(), { kind: 'dimse', principal: 'CT_1', callingAe: 'CT_1' })
      }
      const { rows } = await sql<{ id: number }>`select max(id)::integer as id from studies`.execute(db.kysely)
      return rows[0]?.id ?? 0
    },
    /** Sends a study there by hand. */
    send: (study: number, endpoint: string, more: { profile?: string; names?: object } = {}): Promise<string> =>
      routing.send({
        study,
        destination: endpoint,
        isEndpoint: true,
        purpose: 'trial',
        priority: 'normal',
        principal: admin,
        ...more,
      }),
    /** Waits until a transfer is in a state. */
    async untilState(id: string, state: TransferState): Promise<TransferDetail> {
      let seen = ''
      return await until(`transfer ${state}`, 300_000, async () => {
        const transfer = await loadTransfer(db, id)
        seen = `${transfer.state} ${transfer.errorCode ?? ''} ${transfer.error ?? ''}`
        return transfer.state === state ? transfer : undefined
      }).catch(error => {
        throw new Error(`${String(error)}; it is ${seen}`)
      })
    },
    /** Gives a transfer its job at once. */
    nudge: async (id: string): Promise<void> => {
      await sql`update transfers set next_attempt_at = null where id = ${id}`.execute(db.kysely)
      await db.inTransaction(tx => queue.enqueue(tx, 'deliver-endpoint', { transfer: id }, { singletonKey: id }))
    },
  }
}

/** A folder for an endpoint. */
export async function endpointFolder(t: TestContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'hanse-endpoint-'))
  onEnd(t, () => rm(dir, { recursive: true, force: true }))
  return dir
}

/** Files below a folder by their paths. */
export async function filesBelow(dir: string): Promise<ReadonlyMap<string, Buffer>> {
  const files = new Map<string, Buffer>()
  for (const entry of await readdir(dir, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name)
    if (!entry.isFile()) continue
    // What is renamed or removed meanwhile is not there.
    const bytes = await readFile(path).catch(error => {
      if (Object(error).code === 'ENOENT') return undefined
      throw error
    })
    if (bytes) files.set(path.slice(dir.length + 1), bytes)
  }
  return files
}
