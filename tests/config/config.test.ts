import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { type ConfigSource, checkConfig, loadConfig, readSecret } from '../../gateway/config.ts'
import { isGatewayError } from '../../gateway/errors.ts'

function directory(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), 'hanse-config-'))
  t.after(() => rmSync(dir, { recursive: true }))
  return dir
}

function problems(source: ConfigSource): Record<string, string> {
  const result = checkConfig(source)
  return result.ok ? {} : Object.fromEntries(result.problems.map(p => [p.path, p.message]))
}

test('without a file or environment every listener is on loopback with the documented ports', t => {
  const cwd = directory(t)

  const { config, file, warnings } = loadConfig({ env: {}, cwd })

  assert.equal(file, undefined)
  assert.deepEqual(warnings, [])
  assert.equal(config.data, join(cwd, 'data'))
  assert.deepEqual([config.http.host, config.http.port], ['127.0.0.1', 8042])
  assert.deepEqual([config.dicom.host, config.dicom.port], ['127.0.0.1', 4242])
  assert.deepEqual([config.federation.host, config.federation.port], ['127.0.0.1', 8443])
  assert.deepEqual([config.dicom.aeTitle, config.dicom.unknownCallers], ['HANSE', 'loopback'])
  assert.equal(config.database.url, undefined)
})

test('the environment overrides the file and the command line overrides both', t => {
  const dir = directory(t)
  const file = join(dir, 'hanse.json')
  writeFileSync(file, JSON.stringify({ data: 'here', site: { name: 'File' }, http: { port: 1, host: '::1' } }))

  const fromFile = loadConfig({ file, env: {}, cwd: '/' }).config
  const env = { HANSE_SITE_NAME: 'Env', HANSE_HTTP_PORT: '0', HANSE_DATA: 'there' }
  const fromEnv = loadConfig({ file, env, cwd: '/' }).config
  const fromArgs = loadConfig({ file, env, data: 'cli', cwd: '/tmp' }).config

  assert.deepEqual([fromFile.data, fromFile.site.name, fromFile.http.port], [join(dir, 'here'), 'File', 1])
  assert.deepEqual([fromEnv.data, fromEnv.site.name, fromEnv.http.port], ['/there', 'Env', 0])
  assert.equal(fromEnv.http.host, '::1')
  assert.equal(fromArgs.data, '/tmp/cli')
})

test('a config.json in the data directory is found by itself', t => {
  const dir = directory(t)
  writeFileSync(join(dir, 'config.json'), JSON.stringify({ site: { name: 'Found' }, data: '.' }))

  const { config, file } = loadConfig({ env: { HANSE_DATA: dir }, cwd: '/' })

  assert.equal(file, join(dir, 'config.json'))
  assert.equal(config.site.name, 'Found')
  assert.equal(config.data, dir)
})

test('all problems are reported at once, by path or by the variable that caused them', t => {
  const dir = directory(t)
  const file = join(dir, 'hanse.json')
  writeFileSync(file, JSON.stringify({ site: { name: '' }, dicom: { aeTitle: 'x'.repeat(17) }, colour: 'blue' }))

  const found = problems({
    file,
    env: { HANSE_HTTP_PORT: 'eighty', HANSE_PUBLIC_URL: 'http://b.example', HANSE_DICOM_UNKNOWN_CALLERS: 'some' },
  })

  assert.deepEqual(Object.keys(found).sort(), [
    'HANSE_DICOM_UNKNOWN_CALLERS',
    'HANSE_HTTP_PORT',
    'HANSE_PUBLIC_URL',
    'colour',
    'dicom.aeTitle',
    'site.name',
  ])
  assert.match(found['HANSE_HTTP_PORT'] ?? '', /got "eighty"/)
  assert.throws(() => loadConfig({ file, env: {} }), isGatewayError)
})

test('a password in the database URL is refused and not repeated', () => {
  const found = problems({ env: { HANSE_DATABASE_URL: 'postgres://hanse:hunter2@db/hanse' } })

  assert.match(found['HANSE_DATABASE_URL'] ?? '', /put it in a file/)
  assert.doesNotMatch(JSON.stringify(found), /hunter2/)
})

test('two listeners on one port, a missing secret file and a low resume mark are problems', () => {
  const found = problems({
    env: {
      HANSE_HTTP_PORT: '4242',
      HANSE_PROXY_URL: 'http://proxy.example:3128',
      HANSE_PROXY_LOGIN_FILE: '/nowhere/login',
      HANSE_DATABASE_PASSWORD_FILE: '/nowhere/password',
    },
  })

  assert.deepEqual(Object.keys(found).sort(), ['HANSE_DATABASE_PASSWORD_FILE', 'HANSE_PROXY_LOGIN_FILE', 'dicom.port'])
})

test('a file that is missing or not JSON is named', t => {
  const dir = directory(t)
  const broken = join(dir, 'broken.json')
  writeFileSync(broken, '{ "site": ')

  assert.match(problems({ file: join(dir, 'none.json'), env: {} })[join(dir, 'none.json')] ?? '', /ENOENT/)
  assert.match(problems({ file: broken, env: {} })[broken] ?? '', /expected JSON/)
})

test('an unknown HANSE_ variable is a warning', () => {
  const { warnings } = loadConfig({ env: { HANSE_HTTPPORT: '1' } })

  assert.deepEqual(warnings, ['HANSE_HTTPPORT: no such setting, ignored'])
})

test('a secret is the first line of its file', t => {
  const file = join(directory(t), 'secret')
  writeFileSync(file, 'user:pass word\n')

  assert.equal(readSecret(file), 'user:pass word')
  writeFileSync(file, '\n')
  assert.throws(() => readSecret(file), /is empty/)
})
