import assert from 'node:assert/strict'
import { readFile, stat } from 'node:fs/promises'
import { request } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import { test } from 'node:test'
import { at, field, items } from '../../gateway/cli/answer.ts'
import { type ProcessGateway, startProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'

interface Question {
  readonly method?: string
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
}

/** One request with the path and headers exactly as written, which fetch would not send. */
async function ask(gateway: ProcessGateway, question: Question): Promise<{ status: number; text: string }> {
  const { method = 'GET', path, headers = {}, body = '' } = question
  const { promise, resolve, reject } = Promise.withResolvers<{ status: number; text: string }>()
  const sent = request(
    {
      host: '127.0.0.1',
      port: gateway.ports.http,
      method,
      path,
      headers: { ...headers, 'content-length': String(Buffer.byteLength(body)) },
    },
    response => {
      let text = ''
      response.setEncoding('utf8').on('data', chunk => {
        text += chunk
      })
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text })).on('error', reject)
    },
  )
  sent.on('error', reject).end(body)
  return await promise
}

const json = { 'content-type': 'application/json' }

test('the HTTP port of a gateway stands up to a hostile machine and a hostile web page', async t => {
  const gateway = await startProcessGateway(t, 'site')

  await t.test(
    'a name that was rebound to this machine, or a proxy in front, makes nobody its administrator',
    async () => {
      for (const headers of [
        { host: 'attacker.example' },
        { host: `attacker.example:${gateway.ports.http}` },
        { host: 'localhost.attacker.example' },
        { host: '127.0.0.1.attacker.example' },
        { host: '127.0.0.1@attacker.example' },
        { host: '192.168.1.5' },
        { host: '0.0.0.0' },
        { host: 'localhost', 'x-forwarded-for': '10.0.0.1' },
        { host: 'localhost', forwarded: 'for=10.0.0.1' },
        { host: 'localhost', via: '1.1 proxy' },
        { host: 'localhost', authorization: 'Bearer hanse_wrong' },
        { host: 'localhost', authorization: 'Basic YTpi' },
      ]) {
        for (const path of ['/studies', '/api/v1/peers', '/metrics', '/nowhere']) {
          const { status, text } = await ask(gateway, { path, headers })
          assert.equal(status, 401, `${path} ${JSON.stringify(headers)}`)
          assert.match(text, /a bearer token is needed/)
        }
      }
    },
  )

  await t.test('a foreign web page changes nothing', async () => {
    const body = JSON.stringify({ name: 'evil' })
    for (const headers of [
      { origin: 'https://attacker.example' },
      { origin: 'null' },
      { origin: 'http://localhost:1' },
      { 'sec-fetch-site': 'cross-site' },
      { 'sec-fetch-site': 'same-site' },
    ]) {
      for (const type of ['application/json', 'text/plain', 'application/x-www-form-urlencoded']) {
        for (const path of ['/api/v1/tokens', '/instances', '/api/v1/peers/invitations']) {
          const { status } = await ask(gateway, {
            method: 'POST',
            path,
            headers: { ...headers, 'content-type': type } as Record<string, string>,
            body,
          })
          assert.equal(status, 403, `${path} ${JSON.stringify(headers)}`)
        }
      }
    }
    assert.deepEqual(items(await gateway.api('GET', '/api/v1/tokens'), 'tokens'), [])
  })

  await t.test('an answer cannot be read or framed by another site', async () => {
    const { headers } = await fetch(`${gateway.url}/studies`, { headers: { origin: 'https://attacker.example' } })
    assert.equal(headers.get('access-control-allow-origin'), null)
    assert.equal(headers.get('cross-origin-resource-policy'), 'same-origin')
    assert.equal(headers.get('x-content-type-options'), 'nosniff')
    assert.match(headers.get('content-security-policy') ?? '', /default-src 'none'/)
  })

  await t.test('no path, text or number of a request leads out of the store or to an internal error', async () => {
    const nasty = [
      '%00',
      '..%2f..%2fetc%2fpasswd',
      '..%5c..%5cetc',
      '%2e%2e',
      "'%20or%201=1--",
      '%f0%9f%92%a9',
      '%ff%fe',
      '%0d%0aset-cookie:%20a=b',
      '9'.repeat(40),
      '-1',
      '1e9',
      '__proto__',
      'constructor',
    ]
    const places = [
      (word: string) => `/studies/${word}`,
      (word: string) => `/instances/${word}/file`,
      (word: string) => `/instances/${word}/tags`,
      (word: string) => `/studies?since=${word}&limit=1`,
      (word: string) => `/api/v1/transfers?study=${word}`,
      (word: string) => `/api/v1/transfers?cursor=${word}`,
      (word: string) => `/api/v1/transfers?state=${word}`,
      (word: string) => `/api/v1/transfers/${word}`,
      (word: string) => `/api/v1/transfers/${'0'.repeat(8)}-0000-0000-0000-${'0'.repeat(12)}/receipts/${word}`,
      (word: string) => `/api/v1/conflicts/${word}/file`,
      (word: string) => `/api/v1/audit/events?before=${word}`,
      (word: string) => `/api/v1/peers/${word}`,
      (word: string) => `/${word}`,
    ]
    for (const place of places) {
      for (const word of nasty) {
        const { status, text } = await ask(gateway, { path: place(word) })
        assert.ok(status < 500, `${place(word)}: ${status} ${text}`)
        assert.doesNotMatch(text, /root:|\bat \w+ \(|select |node_modules/, place(word))
      }
    }
  })

  await t.test('no body leads to an internal error', async () => {
    const texts = ['\u0000', 'a\u0000b', '\ud800', "'; drop table peers; --", 'x'.repeat(2000), '\u202e']
    for (const word of texts) {
      const value = JSON.stringify(word)
      for (const [method, path, body] of [
        ['POST', '/api/v1/tokens', `{"name":${value}}`],
        ['POST', '/api/v1/peers/invitations', `{"name":${value}}`],
        ['POST', '/api/v1/peers/accept', `{"invitation":{"hanse":${value}},"name":${value}}`],
        ['POST', '/api/v1/peers/handovers', `{"handover":{"payloadType":${value}}}`],
        ['POST', '/api/v1/transfers', `{"study":${value},"destination":${value}}`],
        ['PUT', '/api/v1/policy', `{"format":"hanse-policy-1","title":${value},"destinations":{},"rules":[]}`],
        ['PUT', '/api/v1/policy', `{"__proto__":{"format":"hanse-policy-1"},"title":${value}}`],
        ['POST', '/instances', word],
      ] as const) {
        const { status, text } = await ask(gateway, { method, path, headers: json, body })
        assert.ok(status < 500, `${method} ${path} ${value.slice(0, 40)}: ${status} ${text}`)
      }
    }
    const deep = `${'['.repeat(100_000)}${']'.repeat(100_000)}`
    assert.ok((await ask(gateway, { method: 'PUT', path: '/api/v1/policy', headers: json, body: deep })).status < 500)
    const large = JSON.stringify({ title: 'x'.repeat(1_100_000) })
    assert.equal(
      (await ask(gateway, { method: 'PUT', path: '/api/v1/policy', headers: json, body: large })).status,
      413,
    )
  })

  await t.test('what is not HTTP is answered or closed, and the next client is served', async () => {
    for (const bytes of [
      '\x16\x03\x01\x02\x00',
      'GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n',
      `GET / HTTP/1.1\r\nx: ${'y'.repeat(100_000)}\r\n\r\n`,
      'POST /instances HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n',
    ]) {
      const socket = connect(gateway.ports.http, '127.0.0.1')
      socket.on('error', () => undefined).resume()
      const closed = new Promise<void>(resolve => socket.once('close', () => resolve()))
      socket.end(bytes)
      await closed
    }
    assert.equal((await fetch(`${gateway.url}/system`)).status, 200)
  })

  await t.test('callers that were refused are audit events', async () => {
    await until('the refusals are audited', 30_000, async () => {
      const events = items(await gateway.api('GET', '/api/v1/audit/events?limit=200'), 'events')
      const reasons = events.map(event => field(event, 'event', 'reason'))
      return reasons.includes('UNAUTHENTICATED') && reasons.includes('FORBIDDEN')
    })
  })

  await t.test('secrets lie in files that only their owner reads, and in no row of the database', async () => {
    const created = await gateway.api('POST', '/api/v1/tokens', { name: 'script', role: 'administrator' })
    const { invitation } = await gateway.api('POST', '/api/v1/peers/invitations', { name: 'other' })
    const key = String(at(invitation, 'online', 'credential', 'key'))
    const siteKeys = JSON.parse(await readFile(join(gateway.data, 'keys/site.json'), 'utf8'))
    const secrets = [
      field(created, 'token'),
      (await readFile(join(gateway.data, 'run/admin-token'), 'utf8')).trim(),
      key.split('\n')[3] ?? '',
      String(siteKeys.signingSeed),
      String(siteKeys.sealingSeed),
    ]
    for (const path of ['keys/site.json', 'keys/tls.pem', 'run/admin-token']) {
      assert.equal((await stat(join(gateway.data, path))).mode & 0o077, 0, path)
    }
    for (const path of ['keys', 'run', 'blobs', 'inbound']) {
      const { mode } = await stat(join(gateway.data, path))
      assert.equal(mode & 0o077, 0, path)
    }
    const admin = await gateway.admin()
    const { rows: tables } = await admin.query<{ name: string }>(
      "select quote_ident(schemaname) || '.' || quote_ident(tablename) as name from pg_tables where schemaname not in ('pg_catalog', 'information_schema')",
    )
    for (const { name } of tables) {
      for (const secret of secrets) {
        assert.ok(secret.length > 30)
        const { rows } = await admin.query(`select 1 from ${name} t where strpos(t::text, $1) > 0 limit 1`, [secret])
        assert.equal(rows.length, 0, `a secret is in ${name}`)
      }
    }
    await admin.end()
    for (const secret of secrets) assert.ok(!gateway.output().includes(secret))
  })
})
