/** The HTTP server over a real store: database, blobs, ingest, Orthanc routes, conflicts. */

import { globSync } from 'node:fs'
import type { TestContext } from 'node:test'
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../gateway/db/db.ts'
import { conflictRoutes } from '../../gateway/http/api/conflicts.ts'
import { openMetrics } from '../../gateway/http/metrics.ts'
import { orthancRoutes } from '../../gateway/http/orthanc/routes.ts'
import type { PrivateNames } from '../../gateway/http/orthanc/tags.ts'
import { buildHttpServer } from '../../gateway/http/server.ts'
import { openLog } from '../../gateway/log.ts'
import { openChangeFeed } from '../../gateway/services/change-feed.ts'
import { openConflicts } from '../../gateway/services/conflicts.ts'
import { openExportLog } from '../../gateway/services/export-log.ts'
import { openIngest } from '../../gateway/services/ingest.ts'
import { openQuery } from '../../gateway/services/query.ts'
import { openReceptionTerms } from '../../gateway/services/reception-terms.ts'
import { openRemoval } from '../../gateway/services/removal.ts'
import { openResourceAttachments } from '../../gateway/services/resource-attachments.ts'
import { openResourceDatasets } from '../../gateway/services/resource-datasets.ts'
import { openResourceFind } from '../../gateway/services/resource-find.ts'
import { openResourceMetadata } from '../../gateway/services/resource-metadata.ts'
import { openReconstruction } from '../../gateway/services/resource-reconstruct.ts'
import { openRetrieve } from '../../gateway/services/retrieve.ts'
import type { Blobs } from '../../gateway/store/blobs.ts'
import type { FreeSpaceOptions } from '../../gateway/store/free-space.ts'
import { tokenDigest } from '../../gateway/store/tokens.ts'
import { temporaryDir, testBlobs } from '../support/blobs.ts'
import { testDatabase } from '../support/database.ts'
import { rights } from '../support/principals.ts'

export interface StoreApp {
  readonly app: FastifyInstance
  readonly db: Db
  readonly blobs: Blobs
  /** Files of receptions that are under way. */
  staged(): string[]
  /** `POST /instances`; the parsed answer. */
  upload(bytes: Uint8Array): Promise<{ status: number; body: Record<string, unknown> }>
  /** GET as JSON. */
  get(url: string): Promise<{ status: number; body: unknown }>
}

export async function storeApp(
  t: TestContext,
  options: {
    limitBytes?: number
    concurrency?: number
    checkRevisions?: boolean
    overwrites?: boolean
    privateNames?: PrivateNames
    freeSpace?: FreeSpaceOptions
    /** Registers more routes. */
    routes?: (app: FastifyInstance, store: { db: Db; blobs: Blobs; dir: string }) => Promise<void>
  } = {},
): Promise<StoreApp> {
  const db = await testDatabase(t)
  const dir = await temporaryDir(t)
  const blobs = await testBlobs(t, { dir, ...(options.freeSpace && { freeSpace: options.freeSpace }) })
  const dueAt = (): undefined => undefined
  const ingest = openIngest({ db, blobs, dueAt, overwrites: options.overwrites ?? false })
  const app = await buildHttpServer({
    log: openLog({ level: 'silent' }),
    metrics: openMetrics(),
    auth: { adminTokenSha256: tokenDigest('none'), findToken: async () => undefined, rights, publicUrl: undefined },
    routes: async app => {
      orthancRoutes(app, {
        receptionTerms: openReceptionTerms({ db }),
        db,
        retrieve: openRetrieve({ db, blobs }),
        datasets: openResourceDatasets({ db, blobs }),
        changes: openChangeFeed({ db, log: openLog({ level: 'silent' }), background: false }),
        exportLog: openExportLog({ db, isKept: true }),
        removal: openRemoval({ db }),
        reconstruction: openReconstruction({ db, blobs }),
        find: openResourceFind({ db, query: openQuery({ db }) }),
        metadata: openResourceMetadata({ db, requireSeen: options.checkRevisions ?? false }),
        metadataNames: { MyMetadata: 1030 },
        attachments: openResourceAttachments({
          db,
          blobs,
          limitBytes: options.limitBytes ?? 1024 ** 3,
          requireSeen: options.checkRevisions ?? false,
        }),
        attachmentNames: { 'my-attachment': 1031 },
        privateNames: options.privateNames,
        upload: {
          db,
          ingest,
          limitBytes: options.limitBytes ?? 1024 ** 3,
          concurrency: options.concurrency ?? 4,
          overwrites: options.overwrites ?? false,
        },
        system: () => ({ name: 'Test', aeTitle: 'HANSE', dicomPort: 4242, httpPort: 8042, version: '0' }),
      })
      conflictRoutes(app, openConflicts({ db, blobs, dueAt }))
      await options.routes?.(app, { db, blobs, dir })
    },
  })
  t.after(async () => {
    await app.close()
    await ingest.close()
  })
  const headers = { host: 'localhost' }
  return {
    app,
    db,
    blobs,
    staged: () => globSync('staging/*/*', { cwd: dir }),
    async upload(bytes) {
      const payload = Buffer.from(bytes)
      const answer = await app.inject({ method: 'POST', url: '/instances', headers, payload })
      return { status: answer.statusCode, body: answer.json() }
    },
    async get(url) {
      const answer = await app.inject({ url, headers })
      return { status: answer.statusCode, body: answer.json() }
    },
  }
}
