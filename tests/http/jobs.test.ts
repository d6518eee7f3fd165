import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { GatewayError } from '../../gateway/errors.ts'
import { answerJob } from '../../gateway/http/orthanc/answer-job.ts'
import { openQueue } from '../../gateway/jobs/queue.ts'
import { type JobWork, openBackgroundJobs } from '../../gateway/services/background-jobs.ts'
import { temporaryDir } from '../support/blobs.ts'
import { testDatabase } from '../support/database.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { missingOrthanc, startOrthanc } from '../support/orthanc.ts'
import { caller } from '../support/principals.ts'
import { until } from '../support/until.ts'
import { jobApp, quietLog } from './job-app.ts'

const who = caller('local')
const request = { type: 'Test', description: 'REST API' }

/** Work that goes on until it is let go or told to stop. */
function gate(): { work: JobWork; started: Promise<void>; open: () => void; runs: () => number } {
  const started = Promise.withResolvers<void>()
  const opened = Promise.withResolvers<void>()
  let runs = 0
  return {
    started: started.promise,
    open: opened.resolve,
    runs: () => runs,
    work: async (_progress, signal) => {
      runs++
      started.resolve()
      const stopped = new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
      await Promise.race([opened.promise, stopped])
      return { content: { Runs: runs } }
    },
  }
}

async function view(app: Awaited<ReturnType<typeof jobApp>>, id: string): Promise<Record<string, unknown>> {
  const { body } = await app.ask('GET', `/jobs/${id}`)
  assert.ok(isObject(body))
  return body
}

const untilState = (app: Awaited<ReturnType<typeof jobApp>>, id: string, state: string) =>
  until(`the job is ${state}`, 20_000, async () => (await view(app, id))['State'] === state)

test('a job is shown with the fields that Orthanc shows', { skip: missingOrthanc }, async t => {
  const app = await jobApp(t)
  app.jobs.start()
  const orthanc = await startOrthanc(t, { nobody: ['NOBODY', '127.0.0.1', 9] })
  const file = Buffer.from(buildInstance().bytes)
  const uploaded: unknown = await (await fetch(`${orthanc.url}/instances`, { method: 'POST', body: file })).json()
  assert.ok(isObject(uploaded))
  await orthanc.call('POST', '/modalities/nobody/store', { Resources: [uploaded['ID']], Asynchronous: true })
  const [theirs] = await until('Orthanc has a failed job', 20_000, async () => {
    const all = await orthanc.call('GET', '/jobs?expand')
    return Array.isArray(all) && isObject(all[0]) && all[0]['State'] === 'Failure' ? all : undefined
  })

  const id = await app.jobs.submit(who, { ...request, priority: 3 }, async () => {
    throw new GatewayError('PEER_UNREACHABLE', 'nobody is there')
  })
  await app.jobs.ended(id)

  const { body } = await app.ask('GET', '/jobs?expand')
  assert.ok(Array.isArray(body))
  const [ours] = body
  assert.deepEqual(Object.keys(ours), Object.keys(theirs))
  assert.deepEqual(
    { State: ours.State, ErrorCode: ours.ErrorCode, ErrorDescription: ours.ErrorDescription, Priority: ours.Priority },
    {
      State: 'Failure',
      ErrorCode: theirs.ErrorCode,
      ErrorDescription: theirs.ErrorDescription,
      Priority: 3,
    },
  )
  for (const key of ['CreationTime', 'CompletionTime', 'Timestamp']) assert.match(ours[key], /^\d{8}T\d{6}\.\d{6}$/)
  assert.deepEqual((await app.ask('GET', '/jobs')).body, [id])
  for (const [method, path] of [
    ['GET', '/jobs/nope'],
    ['POST', '/jobs/nope/cancel'],
    ['POST', `/jobs/${id}/resume`],
    ['POST', `/jobs/${id}/pause`],
    ['POST', `/jobs/${id}/cancel`],
    ['GET', `/jobs/${id}/archive`],
  ] as const) {
    const answer = await fetch(`${orthanc.url}${path.replace(id, theirs.ID)}`, {
      method,
      ...(method === 'POST' && { body: '' }),
    })
    assert.equal((await app.ask(method, path)).status, answer.status, `${method} ${path}`)
  }
})

test('jobs wait for their turn by priority, and are paused, resumed, cancelled and resubmitted', async t => {
  const app = await jobApp(t)
  app.jobs.start()
  const first = gate()
  const blocker = await app.jobs.submit(who, request, first.work)
  await first.started
  const order: string[] = []
  const done = (name: string): JobWork => {
    return async () => {
      order.push(name)
      return {}
    }
  }
  const low = await app.jobs.submit(who, { ...request, priority: -1 }, done('low'))
  const high = await app.jobs.submit(who, { ...request, priority: 5 }, done('high'))
  const never = await app.jobs.submit(who, request, done('never'))

  assert.equal((await view(app, low))['State'], 'Pending')
  // As `curl -d ''` asks for it.
  const headers = { host: 'localhost', 'content-type': 'application/x-www-form-urlencoded' }
  const paused = await app.app.inject({ method: 'POST', url: `/jobs/${never}/pause`, headers, payload: '' })
  assert.equal(paused.statusCode, 200)
  assert.equal((await app.ask('POST', `/jobs/${blocker}/pause`)).status, 200)
  await app.jobs.ended(low)

  assert.deepEqual(order, ['high', 'low'])
  assert.equal((await view(app, blocker))['State'], 'Paused')
  assert.equal((await app.ask('POST', `/jobs/${never}/cancel`)).status, 200)
  const cancelled = await view(app, never)
  assert.deepEqual(
    [cancelled['State'], cancelled['ErrorCode'], cancelled['ErrorDescription']],
    ['Failure', 37, 'This job was canceled'],
  )

  assert.equal((await app.ask('POST', `/jobs/${blocker}/resume`)).status, 200)
  await until('it runs again', 20_000, async () => first.runs() === 2)
  assert.equal((await app.ask('POST', `/jobs/${blocker}/cancel`)).status, 200)
  await untilState(app, blocker, 'Failure')
  first.open()
  assert.equal((await app.ask('POST', `/jobs/${blocker}/resubmit`)).status, 200)
  const ended = await app.jobs.ended(blocker)
  assert.deepEqual([ended.state, ended.content, ended.progress], ['success', { Description: 'REST API', Runs: 3 }, 100])
  assert.equal((await app.ask('POST', `/jobs/${high}/resubmit`)).status, 400)
  const { rows } = await app.db.pool.query('select payload from audit_events order by id')
  const reasons = rows.map(row => JSON.parse(row.payload).reason)
  assert.deepEqual(reasons, [
    'job-paused',
    'job-paused',
    'job-cancelled',
    'job-resumed',
    'job-cancelled',
    'job-resubmitted',
  ])
})

test('a job is answered at its end or at once, and fails with its own status', async t => {
  const app = await jobApp(t, {
    routes: async (scope, { jobs }) => {
      scope.post('/run', (request, reply) =>
        answerJob(request, reply, { jobs, log: quietLog }, async ({ priority, permissive }) =>
          jobs.submit(who, { type: 'Test', description: 'REST API', priority, permissive }, async () => {
            if (priority === 13) throw new GatewayError('STORAGE_FULL', 'no room left')
            return { content: { Permissive: permissive } }
          }),
        ),
      )
    },
  })
  app.jobs.start()

  assert.deepEqual(await app.ask('POST', '/run', { Permissive: true }), {
    status: 200,
    body: { Description: 'REST API', Permissive: true },
  })
  const { body } = await app.ask('POST', '/run', { Asynchronous: true })
  assert.ok(isObject(body) && body['Path'] === `/jobs/${body['ID']}`)
  assert.ok(isObject((await app.ask('POST', '/run', { Synchronous: false })).body))
  assert.equal((await app.ask('POST', '/run', { Priority: 13 })).status, 507)
  assert.equal((await app.ask('POST', '/run', { Priority: 'high' })).status, 400)
  assert.equal((await app.ask('POST', '/run', { Asynchronous: 'yes' })).status, 400)
})

test('an output is read by its key and gone when it is removed', async t => {
  const app = await jobApp(t)
  app.jobs.start()
  const id = await app.jobs.submit(who, request, async (_progress, _signal, place) => {
    await writeFile(await place('archive'), 'bytes')
    return { outputs: { archive: { type: 'application/zip', filename: 'a.zip' } } }
  })
  await app.jobs.ended(id)
  const headers = { host: 'localhost' }

  const answer = await app.app.inject({ url: `/jobs/${id}/archive`, headers })
  assert.deepEqual(
    [answer.statusCode, answer.body, answer.headers['content-type'], answer.headers['content-disposition']],
    [200, 'bytes', 'application/zip', 'attachment; filename="a.zip"'],
  )
  assert.equal((await app.ask('GET', `/jobs/${id}/other`)).status, 404)
  assert.equal((await app.ask('DELETE', `/jobs/${id}/archive`)).status, 200)
  assert.equal((await app.ask('GET', `/jobs/${id}/archive`)).status, 404)
  await app.jobs.sweep()
  assert.equal(existsSync(join(app.dir, 'jobs', id)), false)
})

test('only as many ended jobs are kept as the history holds', async t => {
  const app = await jobApp(t, { historySize: 2 })
  app.jobs.start()
  const ids: string[] = []
  for (let count = 0; count < 4; count++) {
    const id = await app.jobs.submit(who, request, async () => ({}))
    await app.jobs.ended(id)
    ids.push(id)
  }
  await app.db.pool.query("update background_jobs set ended_at = ended_at - interval '2 minutes'")

  await app.jobs.sweep()

  assert.deepEqual((await app.ask('GET', '/jobs')).body, ids.slice(2).sort())
})

test('after a restart a job of a defined type goes on, and another ends as interrupted', async t => {
  const [db, dir] = [await testDatabase(t), await temporaryDir(t)]
  const ids = await leaveRunning(t, db, dir)

  const app = await jobApp(t, { place: { db, dir } })
  app.jobs.define('Defined', ({ parameters }) => async () => ({ content: { Got: parameters } }))
  app.jobs.start()
  const [defined, handed] = await Promise.all(ids.map(id => app.jobs.ended(id)))

  assert.deepEqual(defined?.content, { Description: 'again', Got: { a: 1 } })
  assert.deepEqual([handed?.state, handed?.errorCode], ['failure', 'INTERRUPTED'])
  assert.equal((await app.ask('POST', `/jobs/${handed?.id}/resubmit`)).status, 400)
})

/** A gateway stops while two jobs run. */
async function leaveRunning(t: TestContext, db: Awaited<ReturnType<typeof testDatabase>>, dir: string) {
  const queue = await openQueue({ db, log: quietLog })
  t.after(() => queue.close())
  const jobs = openBackgroundJobs({ db, queue, log: quietLog, dataDir: dir, concurrency: 2, historySize: 10 })
  const [one, other] = [gate(), gate()]
  jobs.define('Defined', () => one.work)
  const ids = [
    await jobs.submit(who, { type: 'Defined', description: 'again', parameters: { a: 1 } }),
    await jobs.submit(who, request, other.work),
  ]
  jobs.start()
  await Promise.all([one.started, other.started])
  await queue.close({ deadlineMs: 5_000 })
  return ids
}
