/** Two gateways in processes of their own: a person sends a study de-identified, and the other site has nothing that tells who it is. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { buildInstance } from '../support/dicom-builder.ts'
import { until } from '../support/until.ts'
import { assertSound, listInstances, startHospitals } from './hospitals.ts'

interface Sent {
  readonly id: string
  readonly state: string
  readonly profile: string
}

const patient = { patientId: 'MARKERID77', patientName: 'MARKERNAME^Quirin' }

test('a study that is sent under a profile arrives de-identified, with a certificate that both sites have', async t => {
  const { a, b } = await startHospitals(t)
  // Nothing goes by itself.
  await a.api('PUT', '/api/v1/policy', { format: 'hanse-policy-2', destinations: {}, rules: [], incoming: [] })
  const built = [1, 2, 3].map(seed =>
    buildInstance({ seed, ...patient, studyInstanceUid: '1.2.3.77', seriesInstanceUid: '1.2.3.77.1' }),
  )
  for (const { bytes } of built) {
    const answer = await fetch(`${a.url}/instances`, { method: 'POST', body: Buffer.from(bytes) })
    assert.equal(answer.status, 200)
  }

  const sent = await a.hanse('send', '1.2.3.77', '--to', b.site, '--purpose', 'trial', '--profile', 'trial', '--json')
  assert.equal(sent.code, 0, sent.output)
  const transfer = await until('the receipt', 120_000, async () => {
    const { transfers } = await a.api<{ transfers: Sent[] }>('GET', '/api/v1/transfers?direction=outbound')
    return transfers.find(({ state, profile }) => state === 'receipted' && profile === 'trial')
  })

  const arrived = await listInstances(b)
  assert.equal(arrived.length, built.length)
  for (const { id, sopInstanceUid } of arrived) {
    assert.ok(built.every(({ sopInstanceUid: original }) => original !== sopInstanceUid))
    const file = Buffer.from(await (await fetch(`${b.url}/instances/${id}/file`)).arrayBuffer()).toString('latin1')
    for (const marker of ['MARKERID77', 'MARKERNAME', '1.2.3.77']) assert.ok(!file.includes(marker), marker)
  }
  const here = await a.api('GET', `/api/v1/transfers/${transfer.id}/certificate`)
  const { transfers } = await b.api<{ transfers: Sent[] }>('GET', '/api/v1/transfers?direction=inbound')
  const there = await b.api('GET', `/api/v1/transfers/${transfers[0]?.id}/certificate`)
  assert.equal(there['envelope'], here['envelope'])
  assert.ok(!JSON.stringify(here).includes('MARKER'))
  await assertSound(a)
  await assertSound(b)
})
