/** `hanse start --orthanc-config`: what Orthanc's own configuration becomes. */
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import {
  appliedOptions,
  describeOptions,
  ignoredOptions,
  metOptions,
  takeOver,
} from '../../gateway/cli/orthanc-config/options.ts'
import { readOrthancConfig } from '../../gateway/cli/orthanc-config/read.ts'
import { checkConfig } from '../../gateway/config.ts'
import { temporaryDir } from '../support/blobs.ts'
import { prepareProcessGateway } from '../support/process-gateway.ts'

const shipped = '/etc/orthanc/orthanc.json'

test('the documented list is the table that is applied', () => {
  assert.equal(readFileSync(join(import.meta.dirname, '../../deploy/ORTHANC.md'), 'utf8'), describeOptions())
})

test('a configuration is read with comments, variables and from a folder of files', async t => {
  const dir = await temporaryDir(t)
  mkdirSync(join(dir, 'conf'))
  writeFileSync(
    join(dir, 'conf/a.json'),
    '/* one */ { "Name": "$' + '{SITE:-A // no comment}", // two\n "HttpPort": $' + '{PORT} }',
  )
  writeFileSync(join(dir, 'conf/b.JSON'), '{ "StableAge": 30 }')

  const options = readOrthancConfig(join(dir, 'conf'), { PORT: '8123' })

  assert.deepEqual(options, { Name: 'A // no comment', HttpPort: 8123, StableAge: 30 })
  writeFileSync(join(dir, 'conf/c.json'), '{ "Name": "twice" }')
  assert.throws(() => readOrthancConfig(join(dir, 'conf'), { PORT: '1' }), { code: 'CONFIG_INVALID' })
  writeFileSync(join(dir, 'bad.json'), '{ "RegisteredUsers": { "a": "secret" ')
  assert.throws(
    () => readOrthancConfig(join(dir, 'bad.json'), {}),
    error => error instanceof Error && !error.message.includes('secret'),
  )
})

test('what Orthanc ships is taken over, and every option of it has its place in the table', {
  skip: !existsSync(shipped) && 'Orthanc is not installed',
}, () => {
  const options = readOrthancConfig(shipped, {})
  const { taken, ignored } = takeOver(options, '/etc/orthanc')
  const checked = checkConfig({ env: {}, base: taken.config, data: '/nowhere' })

  assert.ok(checked.ok)
  assert.deepEqual([checked.value.config.studies.stableAgeMs, checked.value.config.dicom.aeTitle], [60_000, 'ORTHANC'])
  const known = { ...appliedOptions, ...metOptions, ...ignoredOptions }
  assert.deepEqual(
    Object.keys(options).filter(name => !Object.hasOwn(known, name)),
    [],
  )
  assert.ok(ignored.includes('LuaScripts') && !ignored.includes('CaseSensitivePN'))
})

test('the quality of lossy compression is taken over, if it is one', () => {
  const checked = (DicomLossyTranscodingQuality: number) =>
    checkConfig({ env: {}, base: takeOver({ DicomLossyTranscodingQuality }, '/').taken.config, data: '/nowhere' })

  const taken = checked(55)
  assert.ok(taken.ok)
  assert.equal(taken.value.config.orthanc.lossyTranscodingQuality, 55)
  assert.equal(checked(101).ok, false)
})

test('values of another type are named, all of them, and none is quoted', () => {
  const given = { HttpPort: 'x', StableAge: true, AuthenticationEnabled: true, RegisteredUsers: { a: ['secret'] } }
  assert.throws(
    () => takeOver(given, '/'),
    error =>
      error instanceof Error &&
      /HttpPort.*StableAge.*RegisteredUsers/.test(error.message) &&
      !error.message.includes('secret'),
  )
})

test('a gateway starts with it: users by password, modalities, peers, limits; ignored options are named once', async t => {
  const dir = await temporaryDir(t)
  const file = join(dir, 'orthanc.json')
  writeFileSync(
    file,
    JSON.stringify({
      DicomAet: 'MOVEDIN',
      AuthenticationEnabled: true,
      RegisteredUsers: { alice: 'open sesame' },
      DicomModalities: { ct: ['CT_1', '127.0.0.1', 104], mr: { AET: 'MR_1', Host: '127.0.0.1', Port: 105 } },
      OrthancPeers: { clinic: ['http://127.0.0.1:1/', 'bob', 'key to all'] },
      LuaScripts: [],
      WhatIsThis: 1,
    }),
  )
  const gateway = await prepareProcessGateway(t, 'moved', { HANSE_ORTHANC_CONFIG: file })
  await gateway.start()
  const login = (user: string, password: string) => `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`
  const status = async (path: string, authorization: string) =>
    (await fetch(`${gateway.url}${path}`, { headers: { authorization } })).status
  const auditSize = async () => Object(await gateway.api('GET', '/api/v1/audit/events?limit=500')).events?.length

  assert.equal(await status('/system', login('alice', 'open sesame')), 200)
  assert.equal(await status('/system', login('alice', 'open sesame')), 200)
  assert.equal(await status('/system', login('alice', 'wrong')), 401)
  assert.equal(await status('/system', login('carol', 'open sesame')), 401)
  assert.equal(await status('/api/v1/status', login('alice', 'open sesame')), 401)
  assert.deepEqual(await gateway.api('GET', '/modalities'), ['ct', 'mr'])
  assert.deepEqual(await gateway.api('GET', '/peers'), ['clinic'])
  assert.equal(Object(await gateway.api('GET', '/system')).DicomAet, 'MOVEDIN')
  const warnings = gateway
    .output()
    .split('\n')
    .filter(line => line.includes('options of Orthanc'))
  assert.equal(warnings.length, 1)
  assert.match(String(warnings[0]), /LuaScripts, WhatIsThis/)

  const before = await auditSize()
  await gateway.kill('SIGTERM')
  writeFileSync(file, JSON.stringify({ AuthenticationEnabled: true, RegisteredUsers: { dave: 'new' } }))
  await gateway.start()
  assert.equal(await status('/system', login('alice', 'open sesame')), 401)
  assert.equal(await status('/system', login('dave', 'new')), 200)
  assert.ok((await auditSize()) > before)

  const admin = await gateway.admin()
  const { rows } = await admin
    .query("select string_agg(t::text, ' ') as text from password_users t")
    .finally(() => admin.end())
  assert.doesNotMatch(`${rows[0].text} ${gateway.output()}`, /open sesame|key to all/)
})
