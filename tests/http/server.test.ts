import assert from 'node:assert/strict'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { type TestContext, test } from 'node:test'
import type { FastifyInstance } from 'fastify'
import { GatewayError } from '../../gateway/errors.ts'
import { openMetrics } from '../../gateway/http/metrics.ts'
import { type HttpRefusal, limitRefusals } from '../../gateway/http/refusals.ts'
import { buildHttpServer } from '../../gateway/http/server.ts'
import type { Log, LogContext } from '../../gateway/log.ts'
import {
  createToken,
  findToken,
  listTokens,
  revokeToken,
  type TokenHolder,
  tokenDigest,
} from '../../gateway/store/tokens.ts'
import { testDatabase } from '../support/database.ts'
import { caller, rights } from '../support/principals.ts'

const adminToken = 'hanse_admin'
const local = caller('local')

function recordingLog(lines: { context: LogContext; message: string }[]): Log {
  const add = (context: LogContext, message: string): void => void lines.push({ context, message })
  const log: Log = { debug: add, info: add, warn: add, error: add, child: () => log }
  return log
}

async function server(
  t: TestContext,
  options: {
    publicUrl?: string
    host?: string
    corsOrigins?: readonly string[]
    findToken?: (digest: Buffer) => Promise<TokenHolder | undefined>
  } = {},
) {
  const lines: { context: LogContext; message: string }[] = []
  const app = await buildHttpServer({
    log: recordingLog(lines),
    metrics: openMetrics(),
    ...(options.corsOrigins && { cors: { origins: options.corsOrigins, path: '/dicom-web' } }),
    auth: {
      adminTokenSha256: tokenDigest(adminToken),
      findToken: options.findToken ?? (async () => undefined),
      rights,
      publicUrl: options.publicUrl,
      ...(options.host !== undefined && { host: options.host }),
    },
    routes: app => {
      app.get('/who', async request => ({ principal: request.principal.id }))
      app.post('/change', async request => ({ principal: request.principal.id }))
      app.get('/dicom-web/studies', async () => [])
      app.post('/dicom-web/studies', async request => ({ principal: request.principal.id }))
      app.get('/open', { config: { open: true } }, async () => ({ ok: true }))
      app.get('/known-error', async () => {
        throw new GatewayError('STORAGE_FULL', 'expected room')
      })
      app.get('/unknown-error', async () => {
        throw new Error('PatientName=TEST^SECRET')
      })
      app.post(
        '/typed',
        { schema: { body: { type: 'object', properties: { n: { type: 'integer' } }, required: ['n'] } } },
        async () => ({}),
      )
    },
  })
  t.after(() => app.close())
  return { app, lines }
}

const loopback = { remoteAddress: '127.0.0.1', headers: { host: '127.0.0.1:8042' } }

async function who(
  app: FastifyInstance,
  options: { remoteAddress?: string; headers?: Record<string, string>; method?: 'POST' },
) {
  const answer = await app.inject({ method: 'GET', url: options.method ? '/change' : '/who', ...loopback, ...options })
  return answer.statusCode === 200 ? answer.json().principal : answer.statusCode
}

test('a request from this machine acts as the local administrator', async t => {
  const { app } = await server(t)

  assert.equal(await who(app, {}), 'local')
  assert.equal(await who(app, { headers: { host: 'localhost:8042' } }), 'local')
  assert.equal(await who(app, { remoteAddress: '::1', headers: { host: '[::1]:8042' } }), 'local')
  assert.equal(await who(app, { remoteAddress: '::ffff:127.0.0.1' }), 'local')
})

test('a foreign name in the Host header or a proxy in front ends the trust in loopback', async t => {
  const { app } = await server(t)

  assert.equal(await who(app, { headers: { host: 'evil.example:8042' } }), 401)
  assert.equal(await who(app, { headers: { host: 'localhost.evil.example' } }), 401)
  assert.equal(await who(app, { headers: { host: '127.0.0.1@evil.example' } }), 401)
  assert.equal(await who(app, { headers: { host: 'localhost', 'x-forwarded-for': '10.0.0.9' } }), 401)
  assert.equal(await who(app, { headers: { host: 'localhost', forwarded: 'for=10.0.0.9' } }), 401)
  assert.equal(await who(app, { remoteAddress: '10.0.0.9', headers: { host: 'localhost' } }), 401)
})

test('with a public URL every request needs a token', async t => {
  const { app } = await server(t, { publicUrl: 'https://pacs.example' })

  assert.equal(await who(app, {}), 401)
  assert.equal(await who(app, { headers: { host: 'localhost', authorization: `Bearer ${adminToken}` } }), 'local')
})

test('where the listener is not a loopback address every request needs a token', async t => {
  for (const [host, expected] of [
    ['0.0.0.0', 401],
    ['::', 401],
    ['10.1.2.3', 401],
    ['127.0.0.1', 'local'],
    ['::1', 'local'],
  ] as const) {
    const { app } = await server(t, { host })
    assert.equal(await who(app, {}), expected, host)
  }
})

test('a named token works from anywhere until it is revoked, and only its digest is stored', async t => {
  const db = await testDatabase(t)
  const { app } = await server(t, { findToken: digest => findToken(db, digest) })
  const token = await createToken(db, local, { name: 'scanner', role: 'administrator' })
  const headers = { host: 'pacs.example', authorization: `Bearer ${token}` }

  assert.equal(await who(app, { remoteAddress: '10.0.0.9', headers }), 'token:scanner')
  await assert.rejects(createToken(db, local, { name: 'scanner', role: 'administrator' }), /named "scanner" already/)
  const { rows } = await db.pool.query('select t::text from access_tokens t')
  assert.ok(!JSON.stringify(rows).includes(token))

  await revokeToken(db, local, 'scanner')

  assert.equal(await who(app, { remoteAddress: '10.0.0.9', headers }), 401)
  assert.equal((await listTokens(db))[0]?.revokedAt instanceof Date, true)
  await assert.rejects(revokeToken(db, local, 'scanner'), /no valid token/)
  await createToken(db, local, { name: 'scanner', role: 'administrator' })
})

test('a wrong token does not fall back to the trust in loopback, and the answer tells nothing', async t => {
  const { app } = await server(t)

  const answer = await app.inject({
    url: '/who',
    ...loopback,
    headers: { host: 'localhost', authorization: 'Bearer x' },
  })

  assert.equal(answer.statusCode, 401)
  assert.equal(answer.headers['www-authenticate'], 'Basic realm="hanse", charset="UTF-8", Bearer realm="hanse"')
  assert.equal(answer.json().detail, 'a bearer token is needed')
})

test('another web site cannot change anything through a browser on this machine', async t => {
  const { app } = await server(t)
  const host = '127.0.0.1:8042'

  assert.equal(await who(app, { method: 'POST', headers: { host, origin: 'https://evil.example' } }), 403)
  assert.equal(await who(app, { method: 'POST', headers: { host, origin: 'null' } }), 403)
  assert.equal(await who(app, { method: 'POST', headers: { host, origin: 'http://127.0.0.1:3000' } }), 403)
  assert.equal(await who(app, { method: 'POST', headers: { host, 'sec-fetch-site': 'cross-site' } }), 403)
  assert.equal(await who(app, { method: 'POST', headers: { host, 'sec-fetch-site': 'same-site' } }), 403)
  assert.equal(await who(app, { method: 'POST', headers: { host, origin: 'http://127.0.0.1:8042' } }), 'local')
  assert.equal(await who(app, { method: 'POST', headers: { host, 'sec-fetch-site': 'same-origin' } }), 'local')
  assert.equal(await who(app, { method: 'POST' }), 'local')
})

test('a viewer of a listed origin uses DICOMweb in a browser, and nothing else', async t => {
  const origin = 'https://viewer.example'
  const { app } = await server(t, { corsOrigins: [origin], publicUrl: 'https://pacs.example' })
  const authorization = `Bearer ${adminToken}`
  const ask = (url: string, method: 'GET' | 'POST' | 'OPTIONS', from = origin) =>
    app.inject({
      url,
      method,
      headers: {
        host: 'pacs.example',
        origin: from,
        'sec-fetch-site': 'cross-site',
        ...(method === 'OPTIONS' ? { 'access-control-request-method': 'POST' } : { authorization }),
      },
    })

  const preflight = await ask('/dicom-web/studies', 'OPTIONS')
  assert.equal(preflight.statusCode, 204)
  assert.equal(preflight.headers['access-control-allow-origin'], origin)
  assert.match(String(preflight.headers['access-control-allow-headers']), /Authorization/)
  for (const [path, method] of [
    ['/dicom-web/studies?limit=1', 'GET'],
    ['/dicom-web/studies', 'POST'],
  ] as const) {
    const answer = await ask(path, method)
    assert.equal(answer.statusCode, 200)
    assert.equal(answer.headers['access-control-allow-origin'], origin)
    assert.equal(answer.headers['cross-origin-resource-policy'], 'cross-origin')
    assert.equal(answer.headers['vary'], 'Origin')
  }
  // Who is nobody stays nobody, and the page may read that.
  const unknown = await app.inject({ url: '/dicom-web/studies', headers: { host: 'pacs.example', origin } })
  assert.equal(unknown.statusCode, 401)
  assert.equal(unknown.headers['access-control-allow-origin'], origin)
  for (const [path, from] of [
    ['/change', origin],
    ['/dicom-web/../change', origin],
    ['/dicom-webber', origin],
    ['/dicom-web/studies', 'https://evil.example'],
    ['/dicom-web/studies', 'null'],
  ] as const) {
    const [asked, done] = [await ask(path, 'OPTIONS', from), await ask(path, 'POST', from)]
    assert.notEqual(asked.statusCode, 204)
    assert.equal(asked.headers['access-control-allow-origin'], undefined)
    assert.equal(done.statusCode, 403)
  }
})

test('an unknown path needs authentication too', async t => {
  const { app } = await server(t)

  assert.equal((await app.inject({ url: '/none', remoteAddress: '10.0.0.9' })).statusCode, 401)
  assert.equal((await app.inject({ url: '/none', ...loopback })).statusCode, 404)
  assert.equal((await app.inject({ url: '/open', remoteAddress: '10.0.0.9' })).statusCode, 200)
  assert.equal((await app.inject({ url: '/metrics', remoteAddress: '10.0.0.9' })).statusCode, 401)
})

test('errors are problem documents: a known code is named, an unknown error has an id and no detail', async t => {
  const { app, lines } = await server(t)

  const known = await app.inject({ url: '/known-error', ...loopback })
  const unknown = await app.inject({ url: '/unknown-error', ...loopback })

  assert.equal(known.statusCode, 507)
  assert.match(String(known.headers['content-type']), /^application\/problem\+json/)
  assert.equal(known.headers['retry-after'], '5')
  assert.deepEqual([known.json().code, known.json().detail], ['STORAGE_FULL', 'expected room'])
  assert.equal(unknown.statusCode, 500)
  assert.deepEqual(Object.keys(unknown.json()).sort(), ['instance', 'status', 'title', 'type'])
  const id = String(unknown.json().instance).slice('urn:uuid:'.length)
  assert.ok(lines.some(line => line.context['requestId'] === id && line.message === 'request failed'))
})

test('a body of the wrong form is refused with the place that is wrong', async t => {
  const { app } = await server(t)

  const wrong = await app.inject({ method: 'POST', url: '/typed', ...loopback, payload: { n: 'x' } })
  const notJson = await app.inject({
    method: 'POST',
    url: '/typed',
    remoteAddress: '127.0.0.1',
    headers: { host: 'localhost', 'content-type': 'application/json' },
    payload: '{"n":',
  })

  assert.deepEqual([wrong.statusCode, wrong.json().errors[0].path], [400, 'body.n'])
  assert.equal(notJson.statusCode, 400)
})

test('the request log has the route and no query string', async t => {
  const { app, lines } = await server(t)

  await app.inject({ url: '/who?PatientName=TEST%5ESECRET', ...loopback })

  const line = lines.find(line => line.message === 'request')
  assert.deepEqual(
    [line?.context['route'], line?.context['status'], line?.context['principal']],
    ['/who', 200, 'local'],
  )
  assert.doesNotMatch(JSON.stringify(lines), /SECRET/)
})

test('metrics count requests by route pattern', async t => {
  const { app } = await server(t)
  await app.inject({ url: '/who?PatientName=TEST%5ESECRET', ...loopback })

  const metrics = await app.inject({ url: '/metrics', ...loopback })

  assert.match(metrics.body, /hanse_http_requests_total\{method="GET",route="\/who",status="200"\} 1/)
  assert.doesNotMatch(metrics.body, /SECRET/)
})

test('refused callers are reported once a minute with how many there were', () => {
  const reports: HttpRefusal[] = []
  let now = 0
  const refuse = limitRefusals<Omit<HttpRefusal, 'repeats'>>(
    refusal => reports.push(refusal),
    () => now,
  )
  const refusal = { code: 'UNAUTHENTICATED', address: '10.0.0.9', route: '/system' } as const

  for (let index = 0; index < 50; index++) refuse(refusal)
  refuse({ ...refusal, address: '10.0.0.10' })
  now = 60_000
  refuse(refusal)

  assert.deepEqual(
    reports.map(({ address, repeats }) => [address, repeats]),
    [
      ['10.0.0.9', 0],
      ['10.0.0.10', 0],
      ['10.0.0.9', 49],
    ],
  )
})

test('a request that does not end is cut off when its grace is over', async t => {
  const app = await buildHttpServer({
    log: recordingLog([]),
    metrics: openMetrics(),
    graceMs: 50,
    auth: { adminTokenSha256: tokenDigest(adminToken), findToken: async () => undefined, rights, publicUrl: undefined },
    routes: app => {
      app.get('/stuck', () => new Promise(() => undefined))
    },
  })
  t.after(() => app.close())
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  const arrived = new Promise<void>(resolve => app.server.once('request', () => resolve()))
  const answer = fetch(`${url}/stuck`)
  answer.catch(() => undefined)
  await arrived

  await app.close()

  await assert.rejects(answer)
})

test('closing lets a running request finish and refuses new ones', async t => {
  let release = (): void => undefined
  const held = new Promise<void>(resolve => {
    release = resolve
  })
  const app = await buildHttpServer({
    log: recordingLog([]),
    metrics: openMetrics(),
    auth: { adminTokenSha256: tokenDigest(adminToken), findToken: async () => undefined, rights, publicUrl: undefined },
    routes: app => {
      app.get('/slow', async () => {
        await held
        return { done: true }
      })
    },
  })
  t.after(() => app.close())
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  const arrived = new Promise<void>(resolve => app.server.once('request', () => resolve()))
  const answer = new Promise<IncomingMessage>((resolve, reject) => {
    httpRequest(`${url}/slow`, resolve).once('error', reject).end()
  })
  await arrived

  const closed = app.close()
  release()

  assert.equal((await answer).statusCode, 200)
  ;(await answer).resume()
  await closed
  await assert.rejects(fetch(`${url}/slow`))
})
