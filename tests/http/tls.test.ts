import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { request } from 'node:https'
import { join } from 'node:path'
import { test } from 'node:test'
import { createCa, issueLeaf } from '../../certs/ca.ts'
import { openMetrics } from '../../gateway/http/metrics.ts'
import { buildHttpServer } from '../../gateway/http/server.ts'
import { openLog } from '../../gateway/log.ts'
import { tokenDigest } from '../../gateway/store/tokens.ts'
import { temporaryDir } from '../support/blobs.ts'
import { rights } from '../support/principals.ts'

test('with a certificate configured the listener speaks HTTPS only', async t => {
  const dir = await temporaryDir(t)
  const now = Date.now()
  const ca = await createCa({ siteId: 'test', now })
  const leaf = await issueLeaf(ca, {
    use: 'site',
    commonName: 'test',
    hosts: ['127.0.0.1'],
    lifetimeMs: 3_600_000,
    now,
  })
  const tls = { certificateFile: join(dir, 'cert.pem'), keyFile: join(dir, 'key.pem') }
  writeFileSync(tls.certificateFile, leaf.certificate)
  writeFileSync(tls.keyFile, leaf.key)
  const app = await buildHttpServer({
    log: openLog({ level: 'silent' }),
    metrics: openMetrics(),
    tls,
    auth: { adminTokenSha256: tokenDigest('none'), findToken: async () => undefined, rights, publicUrl: undefined },
    routes: app => {
      app.get('/who', async request => request.principal.id)
    },
  })
  t.after(() => app.close())
  // The framework does not see that the server it was given speaks TLS.
  const url = (await app.listen({ host: '127.0.0.1', port: 0 })).replace('http:', 'https:')

  const body = await new Promise<string>((resolve, reject) => {
    const asked = request(`${url}/who`, { ca: ca.certificate }, response => {
      response.on('data', chunk => resolve(String(chunk)))
    })
    asked.once('error', reject)
    asked.end()
  })

  assert.equal(body, 'local')
  await assert.rejects(fetch(url.replace('https:', 'http:')))
})
