/** The HTTP server with DICOMweb over a real store. */
import type { TestContext } from 'node:test'
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../gateway/db/db.ts'
import { dicomwebRoutes } from '../../gateway/http/dicomweb/routes.ts'
import { openMetrics } from '../../gateway/http/metrics.ts'
import { buildHttpServer } from '../../gateway/http/server.ts'
import { openQueue } from '../../gateway/jobs/queue.ts'
import { openLog } from '../../gateway/log.ts'
import { openPixels } from '../../gateway/pixels/pixels.ts'
import { openBackgroundJobs } from '../../gateway/services/background-jobs.ts'
import { openImageFrames } from '../../gateway/services/image-frames.ts'
import { type Ingest, openIngest } from '../../gateway/services/ingest.ts'
import { openQuery } from '../../gateway/services/query.ts'
import { openRemoval } from '../../gateway/services/removal.ts'
import { openRendering } from '../../gateway/services/rendering.ts'
import { openRetrieve } from '../../gateway/services/retrieve.ts'
import { openWebClient } from '../../gateway/services/web-client.ts'
import type { WebServerList } from '../../gateway/services/web-servers.ts'
import { openWorkitems } from '../../gateway/services/workitems.ts'
import type { Blobs } from '../../gateway/store/blobs.ts'
import { tokenDigest } from '../../gateway/store/tokens.ts'
import { temporaryDir, testBlobs } from '../support/blobs.ts'
import { testDatabase } from '../support/database.ts'
import { rights } from '../support/principals.ts'

export interface WebApp {
  readonly app: FastifyInstance
  readonly db: Db
  readonly blobs: Blobs
  readonly ingest: Ingest
  /** `http://127.0.0.1:…/dicom-web` */
  readonly url: string
  /** Stores a Part 10 file. */
  store(bytes: Uint8Array): Promise<void>
  /** Calls below the service's path. */
  call(path: string, init?: RequestInit): Promise<Response>
  /** GET as JSON. */
  json(path: string): Promise<unknown>
}

/** Starts it on a free port. */
export async function webApp(t: TestContext, servers: WebServerList = {}): Promise<WebApp> {
  const db = await testDatabase(t)
  const blobs = await testBlobs(t)
  const ingest = openIngest({ db, blobs, dueAt: () => undefined })
  const retrieve = openRetrieve({ db, blobs })
  const pixels = await openPixels({ dir: await temporaryDir(t), threads: 1 })
  const log = openLog({ level: 'silent' })
  const queue = await openQueue({ db, log })
  const jobs = openBackgroundJobs({ db, queue, log, dataDir: await temporaryDir(t), concurrency: 1, historySize: 100 })
  jobs.start()
  const app = await buildHttpServer({
    log,
    metrics: openMetrics(),
    auth: { adminTokenSha256: tokenDigest('none'), findToken: async () => undefined, rights, publicUrl: undefined },
    routes: app =>
      dicomwebRoutes(app, {
        query: openQuery({ db }),
        retrieve,
        pixels,
        rendering: openRendering({ retrieve, pixels }),
        frames: openImageFrames({ retrieve, pixels }),
        ingest,
        removal: openRemoval({ db }),
        limitBytes: 16 * 1024 ** 3,
        concurrency: 4,
        workitems: openWorkitems({ db }),
        servers,
        client: openWebClient({ db, servers, retrieve, ingest, pixels, limitBytes: 16 * 1024 ** 3 }),
        jobs,
        answers: { jobs, log },
        place: { path: '/dicom-web', publicUrl: undefined },
      }),
  })
  const address = await app.listen({ host: '127.0.0.1', port: 0 })
  t.after(async () => {
    await app.close()
    await queue.close()
    await ingest.close()
    await pixels.close()
  })
  const url = `${address}/dicom-web`
  return {
    app,
    db,
    blobs,
    ingest,
    url,
    async store(bytes) {
      const staged = await blobs.stage()
      staged.markDataset()
      await staged.append([bytes])
      await ingest.store(await staged.finish(), { kind: 'cli', principal: 'test' })
    },
    call: (path, init) => fetch(`${url}${path}`, init),
    async json(path) {
      const answer = await fetch(`${url}${path}`)
      return answer.status === 204 ? [] : await answer.json()
    },
  }
}
