/** Deliveries to an endpoint over a slow line, and a gateway that is killed in the middle of them. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { hanse } from '../cli/terminal.ts'
import { temporaryDir } from '../support/blobs.ts'
import { buildInstance, seededUid } from '../support/dicom-builder.ts'
import { filesBelow } from '../support/endpoints.ts'
import { type ProcessGateway, startProcessGateway } from '../support/process-gateway.ts'
import { startSlowLine } from '../support/slow-line.ts'
import { missingSshd, startSshd } from '../support/sshd.ts'
import { until } from '../support/until.ts'

const isSoak = process.env['HANSE_SOAK'] === '1'
const kills = isSoak ? 30 : 2
const chunkBytes = 1_048_576

interface Detail {
  readonly state: string
  readonly attempts: number
  readonly errorCode: string | null
}

async function started(t: TestContext, bytesPerSecond: () => number) {
  const { port, user, root, hostKey, privateKey } = await startSshd(t)
  const line = await startSlowLine(t, port, bytesPerSecond)
  const gateway = await startProcessGateway(t, 'deliveries')
  await gateway.api('PUT', '/api/v1/policy', { format: 'hanse-policy-2', destinations: {}, rules: [], incoming: [] })
  await gateway.api('PUT', '/api/v1/endpoints/CRO', {
    kind: 'sftp',
    settings: { host: '127.0.0.1', port: line.port, user, root, hostKey },
    secrets: { privateKey },
    profile: 'trial',
    packaging: { unit: 'file' },
  })
  return { root, line, gateway }
}

/** Stores a study and sends it; the transfer's id. */
async function send(gateway: ProcessGateway, count: number, size: number): Promise<string> {
  const studyInstanceUid = seededUid('delivered study', count)
  for (let index = 0; index < count; index += 1) {
    const { bytes } = buildInstance({ seed: index + 1, rows: size, cols: size, studyInstanceUid, patientId: 'QZID-1' })
    const response = await fetch(`${gateway.url}/instances`, { method: 'POST', body: Buffer.from(bytes) })
    assert.equal(response.status, 200, await response.text())
  }
  const { code, output } = await gateway.hanse('send', studyInstanceUid, '--endpoint', 'CRO')
  assert.equal(code, 0, output)
  const { transfers } = await gateway.api<{ transfers: { id: string }[] }>('GET', '/api/v1/transfers')
  return transfers[0]?.id ?? ''
}

const delivered = (gateway: ProcessGateway, id: string): Promise<Detail> =>
  until(`transfer ${id} delivered`, 240_000, async () => {
    const detail = await gateway.api<Detail & Record<string, unknown>>('GET', `/api/v1/transfers/${id}`)
    return detail.state === 'delivered' && detail
  })

async function assertWhole(t: TestContext, root: string, id: string, count: number): Promise<void> {
  const names = [...(await filesBelow(root)).keys()]
  assert.deepEqual(
    names.filter(name => name.endsWith('.part')),
    [],
  )
  assert.equal(names.filter(name => name.endsWith('.dcm')).length, count, names.join(' '))
  const opened = await hanse(['open', id, '--out', join(await temporaryDir(t), 'out')], { cwd: root })
  assert.match(`${opened.out}${opened.err}`, new RegExp(`${count} objects, 0 failed`))
}

test('at 64 kbit/s a delivery takes long and arrives in one go', { skip: missingSshd }, async t => {
  const { root, gateway } = await started(t, () => 8_000)
  const id = await send(gateway, 3, 64)
  const { attempts, errorCode } = await delivered(gateway, id)
  assert.deepEqual([attempts, errorCode], [0, null])
  await assertWhole(t, root, id, 3)
})

test('a gateway that is killed while it delivers goes on: once, whole, little sent again', {
  skip: missingSshd,
}, async t => {
  const count = isSoak ? 80 : 24
  let rate = isSoak ? 2_000_000 : 4_000_000
  const { root, line, gateway } = await started(t, () => rate)
  const id = await send(gateway, count, 512)
  for (let kill = 0; kill < kills; kill += 1) {
    await line.passed(300_000 + ((kill * 7_919) % 300_000))
    await gateway.kill('SIGKILL')
    await gateway.start()
  }
  rate = 100_000_000
  await delivered(gateway, id)
  await assertWhole(t, root, id, count)
  const files = await filesBelow(root)
  const total = [...files.values()].reduce((sum, bytes) => sum + bytes.length, 0)
  const again = line.forwarded - total
  // Two files are on their way at a time.
  assert.ok(again < (kills + 1) * 2 * chunkBytes, `${again} bytes more than ${total} for ${kills} kills`)
})
