import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { temporaryDir } from '../support/blobs.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { startProcessGateway } from '../support/process-gateway.ts'

const policy = (title: string) => ({
  format: 'hanse-policy-2',
  title,
  destinations: { pacs: { modality: 'PACS' } },
  rules: [
    { id: 'ct', when: { attribute: 'Modality', equals: 'CT' }, send: { to: ['pacs'], purpose: 'x', profile: 'as-is' } },
  ],
})

test('two people publish over the API, and a draft is dry run and compared before', async t => {
  const gateway = await startProcessGateway(t, 'two-people', { HANSE_POLICY_TWO_PERSONS: 'true' })
  const dir = await temporaryDir(t)
  const { token } = await gateway.api<{ token: string }>('POST', '/api/v1/tokens', {
    name: 'publisher',
    role: 'policy-publisher',
  })
  const asPublisher = (method: string, path: string, body?: unknown): Promise<Response> =>
    fetch(`${gateway.url}/api/v1${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, ...(body !== undefined && { 'content-type': 'application/json' }) },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
  const instance = buildInstance({ seed: 9, rows: 8, cols: 8 })
  await fetch(`${gateway.url}/instances`, { method: 'POST', body: Buffer.from(instance.bytes) })
  const file = join(dir, 'policy.json')
  writeFileSync(file, JSON.stringify(policy('one')))

  const written = await gateway.hanse('policy', 'publish', file)
  assert.equal(written.code, 1)
  const draft = /--draft ([0-9a-f-]{36})/.exec(written.output)?.[1] ?? ''
  const alone = await fetch(`${gateway.url}/api/v1/policies/drafts/${draft}/publish`, { method: 'POST' })
  assert.equal(alone.status, 403)
  assert.equal((await asPublisher('POST', '/policies/drafts', policy('mine'))).status, 403, 'a publisher is no author')
  const dryRun = await gateway.hanse('policy', 'dry-run', '--policy', draft, '--days', '1', '--all')
  assert.match(dryRun.output, /1 studies.*1 held/)
  assert.match(dryRun.output, /no modality is called PACS/)
  const compared = await gateway.hanse('policy', 'diff', draft)
  assert.match(compared.output, /\+ rules\.ct/)

  const published = await asPublisher('POST', `/policies/drafts/${draft}/publish?revision=1`)

  assert.equal(published.status, 200)
  const status = await gateway.api<{ policy: unknown }>('GET', '/api/v1/status')
  assert.deepEqual(status.policy, { version: 2, twoPersons: true })
  const history = await gateway.hanse('policy', 'history')
  assert.match(history.output, /\*2 .*local .*token:publisher/)
  assert.equal((await gateway.hanse('policy', 'rollback', '1')).code, 0)
  const upload = await fetch(`${gateway.url}/api/v1/dry-runs/attributes/file?profile=basic`, {
    method: 'POST',
    headers: { 'content-type': 'application/dicom' },
    body: Buffer.from(instance.bytes),
  })
  const diff = (await upload.json()) as { outcome: string; changes: readonly { keyword: string }[] }
  assert.equal(diff.outcome, 'go')
  assert.ok(diff.changes.some(change => change.keyword === 'PatientID'))
})

test('a consent is recorded for the patient of a study and withdrawn, and no URL names the patient', async t => {
  const gateway = await startProcessGateway(t, 'consents')
  const { bytes, studyInstanceUid } = buildInstance({ seed: 10, patientId: 'TEST-10', rows: 8, cols: 8 })
  await fetch(`${gateway.url}/instances`, { method: 'POST', body: Buffer.from(bytes) })
  interface Recorded {
    readonly consent: { readonly id: string; readonly patient: { readonly id: string }; readonly isInForce: boolean }
  }

  const { consent } = await gateway.api<Recorded>('POST', '/api/v1/consents', {
    study: studyInstanceUid,
    purpose: 'trial',
    recipient: '*',
    source: 'form',
  })
  const found = await gateway.api<{ consents: readonly { id: string }[] }>('POST', '/api/v1/consents/search', {
    patient: { id: 'TEST-10' },
  })
  const ended = await gateway.api<Recorded>('POST', `/api/v1/consents/${consent.id}/withdraw`)

  assert.deepEqual([consent.patient.id, consent.isInForce, ended.consent.isInForce], ['TEST-10', true, false])
  assert.deepEqual(
    found.consents.map(({ id }) => id),
    [consent.id],
  )
  const nobody = await fetch(`${gateway.url}/api/v1/consents`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ purpose: 'trial', recipient: '*', source: 'form' }),
  })
  assert.equal(nobody.status, 400)
})
