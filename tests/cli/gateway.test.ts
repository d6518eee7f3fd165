import assert from 'node:assert/strict'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { openCard } from '../../peers/card.ts'
import { temporaryDir } from '../support/blobs.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { acceptEverything } from '../support/federation.ts'
import { type ProcessGateway, startProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'
import { hanse } from './terminal.ts'

async function upload(gateway: ProcessGateway, bytes: Uint8Array): Promise<void> {
  const answer = await fetch(`${gateway.url}/instances`, { method: 'POST', body: Buffer.from(bytes) })
  assert.equal(answer.status, 200)
  await answer.body?.cancel()
}

test('a gateway is run, asked, given tokens and checked by the command line, and checked again when it is down', async t => {
  const gateway = await startProcessGateway(t, 'cli')
  const here = (...argv: string[]) => hanse([...argv, '--data', gateway.data])
  await upload(gateway, buildInstance({ seed: 1 }).bytes)

  const status = await here('status')
  const check = await here('status', '--check')
  const token = await here('token', 'create', '--name', 'grafana', '--role', 'viewer')
  const again = await here('token', 'create', '--name', 'grafana', '--role', 'viewer')
  const verify = await here('audit', 'verify')
  const fsck = await here('fsck', '--json')

  assert.equal(status.code, 0)
  assert.match(status.out, /1 studies, 1 instances/)
  assert.deepEqual([check.code, check.out], [0, 'OK cli'])
  assert.match(token.out, /^hanse_[\w-]{43}$/)
  assert.deepEqual([again.code, /named "grafana" already/.test(again.err)], [1, true])
  assert.deepEqual([verify.code, /^the audit log is intact/.test(verify.out)], [0, true])
  assert.deepEqual([fsck.code, JSON.parse(fsck.out).blobs], [0, 1])
  assert.equal(statSync(join(gateway.data, 'run/admin-token')).mode & 0o777, 0o600)

  await gateway.kill('SIGTERM')

  const offline = await here('fsck', '--json')
  const verified = await here('audit', 'verify', '--json')
  assert.equal((await here('status')).code, 3)
  assert.deepEqual([offline.code, JSON.parse(offline.out).blobs], [0, 1])
  assert.deepEqual([verified.code, JSON.parse(verified.out).ok], [0, true])
})

test('two sites pair by the command line, online and with the string compared, and a study is sent', async t => {
  const [a, b] = await Promise.all([startProcessGateway(t, 'Hospital A'), startProcessGateway(t, 'Hospital B')])
  const dir = await temporaryDir(t)
  const file = join(dir, 'invitation.json')
  const at = (gateway: ProcessGateway, argv: string[], answers?: string[]) =>
    hanse([...argv, '--data', gateway.data], { cwd: dir, ...(answers && { answers }) })

  assert.equal((await at(a, ['peer', 'invite', '--out', file])).code, 0)
  assert.equal(statSync(file).mode & 0o777, 0o600)
  const accepted = await at(b, ['peer', 'accept', file])
  assert.equal(accepted.code, 0, accepted.err)
  const sas = /compare with its administrator: (.+)/.exec(accepted.out)?.[1] ?? ''

  const silent = await at(a, ['peer', 'confirm', 'Hospital B'])
  const wrong = await at(a, ['peer', 'confirm', 'Hospital B', '--sas', '000'])
  const doubtful = await at(a, ['peer', 'confirm', 'Hospital B'], ['n'])
  const compared = await at(a, ['peer', 'confirm', 'Hospital B'], ['y'])
  const confirmed = await at(b, ['peer', 'confirm', 'Hospital A', '--sas', sas])

  assert.deepEqual([silent.code, wrong.code, doubtful.code, compared.code, confirmed.code], [2, 1, 1, 0, 0])
  assert.ok(doubtful.err.includes(sas))
  assert.match((await at(a, ['peer', 'list'])).out, /Hospital B\s+active/)
  assert.equal((await at(a, ['peer', 'card', '--out', join(dir, 'a.card')])).code, 0)
  assert.equal(openCard(readFileSync(join(dir, 'a.card')), Date.now()).card.name, 'Hospital A')

  await b.api('PUT', '/api/v1/policy', acceptEverything)
  const instance = buildInstance({ seed: 5 })
  await upload(a, instance.bytes)
  const sent = await at(a, ['send', instance.studyInstanceUid, '--to', 'Hospital B', '--wait'])
  assert.equal(sent.code, 0, sent.out + sent.err)
  assert.match(sent.out, /is receipted/)
  const [id] = await b.api<string[]>('GET', '/instances')
  const bytes = Buffer.from(await (await fetch(`${b.url}/instances/${id}/file`)).arrayBuffer())
  assert.ok(bytes.equals(Buffer.from(instance.bytes)), 'the file at B is the file sent')

  const revoked = await at(a, ['peer', 'revoke', 'Hospital B', '--reason', 'test-over'])
  assert.deepEqual([revoked.code, revoked.out], [0, 'Hospital B is revoked'])
  const refused = await at(a, ['send', instance.studyInstanceUid, '--to', 'Hospital B'])
  assert.equal(refused.code, 1)
})

test('two sites pair by files alone', async t => {
  const [a, b] = await Promise.all([startProcessGateway(t, 'Hospital A'), startProcessGateway(t, 'Hospital B')])
  const dir = await temporaryDir(t)
  const at = (gateway: ProcessGateway, ...argv: string[]) => hanse([...argv, '--data', gateway.data], { cwd: dir })

  assert.equal((await at(a, 'peer', 'invite', '--out', 'invitation.json')).code, 0)
  const answered = await at(b, 'peer', 'accept', 'invitation.json', '--offline', '--out', 'answer.json')
  const taken = await at(a, 'peer', 'accept', 'answer.json', '--out', 'acknowledgement.json')
  const closed = await at(b, 'peer', 'accept', 'acknowledgement.json')

  assert.deepEqual([answered.code, taken.code, closed.code], [0, 0, 0], answered.err + taken.err + closed.err)
  const sasOf = (text: string) => /compare with its administrator: (.+)/.exec(text)?.[1]
  assert.ok(sasOf(answered.out))
  assert.equal(sasOf(taken.out), sasOf(answered.out))
})

test('a policy is published, shown and explained; a wrong one is refused with every problem', async t => {
  const gateway = await startProcessGateway(t, 'policy')
  const dir = await temporaryDir(t)
  const here = (...argv: string[]) => hanse([...argv, '--data', gateway.data], { cwd: dir })
  const { studyInstanceUid, bytes } = buildInstance({ seed: 9 })
  await upload(gateway, bytes)
  writeFileSync(
    join(dir, 'policy.json'),
    JSON.stringify({
      format: 'hanse-policy-1',
      title: 'CT to B',
      destinations: { B: { peer: 'Hospital B' } },
      rules: [
        {
          id: 'ct',
          when: { attribute: 'Modality', equals: 'CT' },
          send: { to: ['B'], purpose: 'treatment', profile: 'as-is' },
        },
      ],
    }),
  )
  writeFileSync(
    join(dir, 'wrong.json'),
    JSON.stringify({ format: 'hanse-policy-1', destinations: {}, rules: [{ id: 1 }] }),
  )

  const published = await here('policy', 'publish', 'policy.json')
  const wrong = await here('policy', 'publish', 'wrong.json')
  const shown = await here('policy', 'show')
  const all = await here('policy', 'show', '--all')
  const explained = await here('policy', 'explain', studyInstanceUid)

  assert.equal(published.code, 0, published.err)
  assert.deepEqual([wrong.code, /rules\[0\]\.id/.test(wrong.err)], [1, true])
  assert.equal(JSON.parse(shown.out).title, 'CT to B')
  assert.match(all.out, /2 .*CT to B\n1 /)
  assert.match(explained.out, /B: send by rule ct/)
})

test('a caller without a token is refused, and that is in the audit log', async t => {
  const gateway = await startProcessGateway(t, 'refusing')

  const answer = await fetch(`${gateway.url}/studies`, { headers: { 'x-forwarded-for': '192.0.2.1' } })

  assert.equal(answer.status, 401)
  await until('the refusal is audited', 10_000, async () => {
    const { events } = await gateway.api<{ events: { event: { reason?: string } }[] }>('GET', '/api/v1/audit/events')
    return events.some(({ event }) => event.reason === 'UNAUTHENTICATED')
  })
  const metrics = await (await fetch(`${gateway.url}/metrics`)).text()
  for (const name of ['store_instances', 'transfers_held', 'storage_free_bytes', 'dicom_associations_open'])
    assert.match(metrics, new RegExp(`^hanse_${name} \\d`, 'm'))
})

test('a port that is in use is named, with what to do', async t => {
  const gateway = await startProcessGateway(t, 'first')
  const data = await temporaryDir(t)

  const { code, err } = await hanse(['start', '--data', data], {
    env: {
      HANSE_HTTP_PORT: String(gateway.ports.http),
      HANSE_DICOM_PORT: '0',
      HANSE_FEDERATION_PORT: '0',
      HANSE_LOG_LEVEL: 'silent',
    },
  })

  assert.equal(code, 2, err)
  assert.match(err, new RegExp(`port ${gateway.ports.http} is in use`))
})

test('Ctrl-C stops a gateway in order and leaves nothing running', async t => {
  const gateway = await startProcessGateway(t, 'stop')
  const listeners = JSON.parse(readFileSync(join(gateway.data, 'run/listeners.json'), 'utf8'))
  assert.equal(listeners.http.port, gateway.ports.http)

  await gateway.kill('SIGINT')

  await until('the database has stopped', 10_000, () => !existsSync(join(gateway.data, 'pg/data/postmaster.pid')))
  await assert.rejects(fetch(`${gateway.url}/api/v1/health/live`))
  assert.ok(!existsSync(join(gateway.data, 'run/listeners.json')))
  assert.match((await hanse(['status', '--data', gateway.data])).err, /hanse start/)
})
