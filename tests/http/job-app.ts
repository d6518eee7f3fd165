/** The routes of `/jobs` over a real database, queue and directory; and what is run by them. */
import type { TestContext } from 'node:test'
import type { FastifyInstance } from 'fastify'
import type { Db } from '../../gateway/db/db.ts'
import { openMetrics } from '../../gateway/http/metrics.ts'
import { orthancJobRoutes } from '../../gateway/http/orthanc/jobs.ts'
import { buildHttpServer } from '../../gateway/http/server.ts'
import { openQueue, type Queue } from '../../gateway/jobs/queue.ts'
import { openLog } from '../../gateway/log.ts'
import { type BackgroundJobs, openBackgroundJobs } from '../../gateway/services/background-jobs.ts'
import { tokenDigest } from '../../gateway/store/tokens.ts'
import { temporaryDir } from '../support/blobs.ts'
import { onEnd } from '../support/cleanup.ts'
import { testDatabase } from '../support/database.ts'
import { rights } from '../support/principals.ts'

export const quietLog = openLog({ level: 'silent' })

export interface JobApp {
  readonly app: FastifyInstance
  readonly db: Db
  readonly dir: string
  readonly jobs: BackgroundJobs
  readonly queue: Queue
  /** JSON of an answer, and its status. */
  ask(method: 'GET' | 'POST' | 'DELETE', url: string, body?: unknown): Promise<{ status: number; body: unknown }>
}

/** Jobs that the queue runs, one at a time unless told otherwise. */
export async function jobApp(
  t: TestContext,
  options: {
    concurrency?: number
    historySize?: number
    place?: { db: Db; dir: string }
    routes?: (app: FastifyInstance, parts: { db: Db; dir: string; jobs: BackgroundJobs; queue: Queue }) => Promise<void>
  } = {},
): Promise<JobApp> {
  const db = options.place?.db ?? (await testDatabase(t))
  const dir = options.place?.dir ?? (await temporaryDir(t))
  const queue = await openQueue({ db, log: quietLog })
  const jobs = openBackgroundJobs({
    db,
    queue,
    log: quietLog,
    dataDir: dir,
    concurrency: options.concurrency ?? 1,
    historySize: options.historySize ?? 100,
  })
  const app = await buildHttpServer({
    log: quietLog,
    metrics: openMetrics(),
    auth: { adminTokenSha256: tokenDigest('none'), findToken: async () => undefined, rights, publicUrl: undefined },
    routes: async app => {
      orthancJobRoutes(app, { jobs })
      await options.routes?.(app, { db, dir, jobs, queue })
    },
  })
  onEnd(t, async () => {
    await app.close()
    await queue.close()
  })
  return {
    app,
    db,
    dir,
    jobs,
    queue,
    async ask(method, url, body) {
      const answer = await app.inject({
        method,
        url,
        headers: { host: 'localhost', ...(body !== undefined && { 'content-type': 'application/json' }) },
        ...(body !== undefined && { payload: JSON.stringify(body) }),
      })
      return { status: answer.statusCode, body: answer.body === '' ? undefined : JSON.parse(answer.body) }
    },
  }
}
