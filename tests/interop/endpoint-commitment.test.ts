/** Storage commitment as the proof of a delivery by C-STORE: an Orthanc, and another Hanse. */
import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { temporaryDir } from '../support/blobs.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { missingOrthanc, orthancAe, startOrthanc } from '../support/orthanc.ts'
import { type ProcessGateway, prepareProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'

const studyInstanceUid = '1.2.826.0.1.3680043.10.9.779'

interface Detail {
  readonly state: string
  readonly error: string | null
  readonly problems: readonly { readonly problem: string }[]
  readonly steps: readonly { readonly step: string; readonly detail: Readonly<Record<string, unknown>> }[]
}

/** Stores a study of three and sends it there; the transfer when it is acknowledged. */
async function deliver(gateway: ProcessGateway, settings: object): Promise<Detail> {
  for (let index = 1; index <= 3; index++) {
    const { bytes } = buildInstance({
      seed: index,
      rows: 8,
      cols: 8,
      patientId: 'QZID-4711',
      studyInstanceUid,
      seriesInstanceUid: `${studyInstanceUid}.1`,
      sopInstanceUid: `${studyInstanceUid}.1.${index}`,
      extra: [{ tag: 0x00200013, value: String(index) }],
    })
    const answer = await fetch(`${gateway.url}/instances`, { method: 'POST', body: Uint8Array.from(bytes) })
    assert.equal(answer.status, 200)
  }
  const packaging = { names: { template: '{protocol}/{subject}/{visit}/' } }
  await gateway.api('PUT', '/api/v1/endpoints/PORTAL', { kind: 'hand', profile: 'trial', packaging })
  await gateway.api('PUT', '/api/v1/endpoints/PACS', { kind: 'dimse', settings, profile: 'trial', packaging })
  const words = ['send', studyInstanceUid, '--purpose', 'trial', '--protocol', 'P-1', '--endpoint']
  const refused = await gateway.hanse(...words, 'PORTAL')
  assert.ok(refused.code === 1 && refused.output.includes('needs visit'), refused.output)
  const sent = await gateway.hanse(...words, 'PACS')
  assert.equal(sent.code, 0, sent.output)
  const { transfers } = await gateway.api<{ transfers: { id: string }[] }>('GET', '/api/v1/transfers')
  let seen: Detail | undefined
  return await until('an acknowledged delivery', 120_000, async () => {
    seen = await gateway.api<Detail & Record<string, unknown>>('GET', `/api/v1/transfers/${transfers[0]?.id}`)
    return seen.state === 'receipted' && seen
  }).catch(error => {
    throw new Error(
      `${String(error)}; ${JSON.stringify(seen)} ${gateway
        .output()
        .split('\n')
        .filter(line => !line.includes('"request"'))
        .slice(-30)
        .join('\n')}`,
    )
  })
}

const stepsOf = ({ steps }: Detail): string[] => steps.map(({ step }) => step)

const sender = (t: TestContext): Promise<ProcessGateway> => prepareProcessGateway(t, 'commitment')

test('an Orthanc commits to what it was sent; what it has not stored is named and sent again', {
  skip: missingOrthanc,
}, async t => {
  const gateway = await sender(t)
  // It says that it has taken the second instance, and throws it away the first time.
  const script = join(await temporaryDir(t), 'forget.lua')
  await writeFile(
    script,
    `thrown = false
     function ReceivedInstanceFilter(dicom, origin)
       if dicom['InstanceNumber'] == '2' and not thrown then
         thrown = true
         return false
       end
       return true
     end`,
  )
  const known = { hanse: ['HANSE', '127.0.0.1', gateway.ports.dicom] } as const
  const orthanc = await startOrthanc(t, known, { LuaScripts: [script] })
  await gateway.start()
  // Its answer comes on an association of its own.
  const answering = { aeTitle: orthancAe, host: '127.0.0.1', port: orthanc.port, permissions: ['echo', 'commit'] }
  await gateway.api('PUT', '/api/v1/modalities/ORTHANC', { ...answering, zone: 'outside' })

  const settings = { host: '127.0.0.1', port: orthanc.port, aeTitle: orthancAe, commitment: true }
  const transfer = await deliver(gateway, settings)

  assert.deepEqual(stepsOf(transfer), [
    ...['planned', 'prepared', 'delivered', 'commitment-requested', 'not-committed'],
    ...['prepared', 'delivered', 'commitment-requested', 'acknowledged'],
  ])
  const again = transfer.steps.filter(({ step }) => step === 'not-committed' || step === 'commitment-requested')
  assert.deepEqual(
    again.map(({ detail }) => detail['instances']),
    [3, 1, 1],
  )
  const there = await orthanc.call('GET', '/instances')
  assert.ok(Array.isArray(there))
  assert.equal(there.length, 3)
})

test('another Hanse commits to what it was sent', async t => {
  const gateway = await sender(t)
  const other = await prepareProcessGateway(t, 'commits')
  await Promise.all([gateway.start(), other.start()])
  await other.api('PUT', '/api/v1/modalities/HANSE', {
    aeTitle: 'HANSE',
    host: '127.0.0.1',
    port: gateway.ports.dicom,
    permissions: ['echo', 'store', 'commit'],
  })

  const settings = { host: '127.0.0.1', port: other.ports.dicom, aeTitle: 'HANSE', commitment: true }
  const transfer = await deliver(gateway, settings)

  assert.deepEqual(stepsOf(transfer).slice(-3), ['delivered', 'commitment-requested', 'acknowledged'])
  const stored = await other.api<unknown[]>('GET', '/instances')
  assert.equal(stored.length, 3)
})
