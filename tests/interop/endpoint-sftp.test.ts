/** A study goes to a real OpenSSH server of a third party: nothing before a person has confirmed whose it is. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type BuiltInstance, buildInstance } from '../support/dicom-builder.ts'
import { filesBelow, startEndpointSite } from '../support/endpoints.ts'
import { type LogLine, memoryLog } from '../support/memory-log.ts'
import { missingSshd, type RunningSshd, startSshd } from '../support/sshd.ts'
import { until } from '../support/until.ts'

const studyUid = '1.2.826.0.1.3680043.10.9.4242'
const markers = ['QZNAME', 'QZGIVEN', 'QZID', 'QZACC', '43.10.9.4242']

const study = (count: number): BuiltInstance[] =>
  Array.from({ length: count }, (_, index) =>
    buildInstance({
      seed: index + 1,
      rows: 64,
      cols: 64,
      patientName: 'QZNAME^QZGIVEN',
      patientId: 'QZID-4711',
      studyInstanceUid: studyUid,
      seriesInstanceUid: `${studyUid}.1`,
      sopInstanceUid: `${studyUid}.1.${index + 1}`,
      extra: [
        { tag: 0x00080050, value: 'QZACC' },
        { tag: 0x00081030, value: 'Brain of QZNAME' },
      ],
    }),
  )

const inputOf = ({ port, user, privateKey }: RunningSshd) =>
  ({
    kind: 'sftp',
    settings: { host: '127.0.0.1', port, user },
    secrets: { privateKey },
    profile: 'trial',
    packaging: { names: { template: '{protocol}/{subject}/{visit}/' } },
  }) as const

test('a study arrives at an SFTP server once its host key is confirmed, and no marker with it', {
  skip: missingSshd,
}, async t => {
  const lines: LogLine[] = []
  const sshd = await startSshd(t)
  const site = await startEndpointSite(t, { log: memoryLog(lines) })
  await site.endpoints.put(site.admin, 'CRO', inputOf(sshd))
  const id = await site.send(await site.store(study(6)), 'CRO', { names: { protocol: 'P-1', visit: 'V1' } })
  await until('a delivery that waits for a person', 30_000, async () => {
    const row = await site.db.kysely.selectFrom('transfers').select('error_code').executeTakeFirstOrThrow()
    return row.error_code === 'ENDPOINT_STOPPED'
  })
  assert.equal((await filesBelow(sshd.root)).size, 0)

  const shown = await site.endpoints.look(site.admin, 'CRO', AbortSignal.timeout(20_000))
  assert.equal(shown.shownPin, sshd.hostKey)
  await site.endpoints.confirm(site.admin, 'CRO', sshd.hostKey)
  await site.nudge(id)
  await site.untilState(id, 'delivered')

  const files = await filesBelow(sshd.root)
  const paths = [...files.keys()]
  assert.ok(paths.length > 6 && paths.every(path => /^P-1\/[^/]+\/V1\//.test(path)), paths.join(' '))
  assert.ok(!paths.some(path => path.endsWith('.part')))
  const everything = `${paths.join('\n')}${[...files.values()].map(bytes => bytes.toString('latin1')).join('\n')}`
  for (const marker of markers) {
    assert.ok(!everything.includes(marker), `${marker} at the endpoint`)
    assert.ok(!JSON.stringify(lines).includes(marker), `${marker} in a log`)
  }
})

test('a server that shows another host key gets nothing and raises an alarm, until a person has confirmed it', {
  skip: missingSshd,
}, async t => {
  const sshd = await startSshd(t)
  const site = await startEndpointSite(t)
  await site.endpoints.put(site.admin, 'CRO', inputOf(sshd))
  await site.endpoints.confirm(site.admin, 'CRO', sshd.hostKey)
  const row = await site.store(study(1))
  await sshd.kill()
  await sshd.changeHostKey()
  await sshd.start()

  const id = await site.send(row, 'CRO', { names: { protocol: 'P-1', visit: 'V1' } })
  const stopped = await until('a stopped endpoint', 30_000, async () => {
    const endpoint = await site.endpoints.load(site.admin, 'CRO')
    return endpoint.state === 'stopped' && endpoint
  })

  assert.deepEqual([stopped.reasonCode, stopped.shownPin], ['ENDPOINT_HOST_KEY', sshd.hostKey])
  assert.equal((await filesBelow(sshd.root)).size, 0)
  await site.endpoints.confirm(site.admin, 'CRO', sshd.hostKey)
  await site.nudge(id)
  await site.untilState(id, 'delivered')
})

test('a delivery whose server is killed in the middle arrives once and whole', { skip: missingSshd }, async t => {
  const sshd = await startSshd(t)
  const site = await startEndpointSite(t)
  const input = { ...inputOf(sshd), rules: { parallel: 1, bytesPerSecond: 60_000 } }
  await site.endpoints.put(site.admin, 'CRO', input)
  await site.endpoints.confirm(site.admin, 'CRO', sshd.hostKey)
  const id = await site.send(await site.store(study(12)), 'CRO', { names: { protocol: 'P-1', visit: 'V1' } })
  await until('a first file there', 30_000, async () => (await filesBelow(sshd.root)).size > 0)
  await sshd.kill()
  await until('a delivery that says why it waits', 30_000, async () => {
    const row = await site.db.kysely.selectFrom('transfers').select('error_code').executeTakeFirstOrThrow()
    return row.error_code !== null
  })
  assert.ok(![...(await filesBelow(sshd.root)).keys()].some(path => path.endsWith('.done')))

  await sshd.start()
  await site.endpoints.put(site.admin, 'CRO', inputOf(sshd))
  await site.nudge(id)
  await site.untilState(id, 'delivered')

  const there = await filesBelow(sshd.root)
  const rows = await site.db.kysely.selectFrom('transfer_files').select(['name', 'size_bytes']).execute()
  assert.deepEqual([...there.keys()].sort(), rows.map(({ name }) => name).sort())
  for (const { name, size_bytes } of rows) assert.equal(there.get(name)?.length, Number(size_bytes), name)
})
