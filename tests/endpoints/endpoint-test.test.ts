import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { test } from 'node:test'
import { testPlace } from '../../endpoints/endpoint-test.ts'
import { decodePlace } from '../../endpoints/place.ts'
import { temporaryDir } from '../support/blobs.ts'
import { freePort } from '../support/free-port.ts'
import { missingFtpd, startFtpd } from '../support/ftpd.ts'
import { missingSshd, startSshd } from '../support/sshd.ts'

const { signal } = new AbortController()

test('the test of an SFTP endpoint goes through every step and leaves nothing', { skip: missingSshd }, async t => {
  const { port, user, privateKey, hostKey, root } = await startSshd(t)
  const place = decodePlace({ kind: 'sftp', host: 'localhost', port, user, root, hostKey })

  const steps = await testPlace(place, { privateKey }, signal)

  assert.deepEqual(
    steps.map(({ step, ok }) => `${step} ${ok}`),
    ['name', 'connection', 'login', 'write', 'throughput', 'verify', 'rename', 'clock', 'delete', 'space'].map(
      step => `${step} true`,
    ),
  )
  assert.deepEqual(await readdir(root), [])
})

test('a drop box is tried with what it can', async t => {
  const root = await temporaryDir(t)
  const can = { list: false, rename: false, remove: false, resume: false }

  const steps = await testPlace(decodePlace({ kind: 'folder', root, can }), {}, signal)

  assert.deepEqual(
    steps.map(({ step, ok }) => `${step} ${ok}`),
    ['login true', 'write true', 'throughput true', 'space true'],
  )
})

test('each failure is told with what to do about it', { skip: missingFtpd }, async t => {
  const { port, user } = await startFtpd(t, 'none')
  const ftp = { kind: 'ftp', host: '127.0.0.1', user, tls: 'none' }

  const wrong = (await testPlace(decodePlace({ ...ftp, port }), { password: 'no' }, signal)).at(-1)
  const closed = (await testPlace(decodePlace({ ...ftp, port: await freePort() }), { password: 'no' }, signal)).at(-1)
  const unknown = (await testPlace(decodePlace({ ...ftp, port, host: 'no-such-host.invalid' }), {}, signal)).at(-1)

  assert.deepEqual([wrong?.step, wrong?.ok], ['login', false])
  assert.match(wrong?.fix ?? '', /password/)
  assert.deepEqual([closed?.step, closed?.ok], ['connection', false])
  assert.deepEqual([unknown?.step, unknown?.ok], ['name', false])
})
