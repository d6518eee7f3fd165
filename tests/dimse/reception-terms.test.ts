/** What C-STORE takes is changed while the gateway runs, as scripts for Orthanc do it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { storeScu } from '../../gateway/dimse/scu.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { type ProcessGateway, startProcessGateway } from '../support/process-gateway.ts'

const explicitLittleEndian = '1.2.840.10008.1.2.1'

/** How a C-STORE in explicit little endian ends. */
async function store(gateway: ProcessGateway, seed: number, sopClassUid?: string): Promise<string> {
  const built = buildInstance({ seed, rows: 8, cols: 8, ...(sopClassUid !== undefined && { sopClassUid }) })
  const target = {
    host: '127.0.0.1',
    port: gateway.ports.dicom,
    callingAe: 'TEST',
    calledAe: 'HANSE',
    timeoutMs: 30_000,
  }
  let outcome = ''
  const outgoing = {
    ...{ sopClassUid: built.sopClassUid, sopInstanceUid: built.sopInstanceUid },
    transferSyntaxUid: explicitLittleEndian,
    open: () => ({ source: bufferSource(built.dataset), datasetOffset: 0 }),
  }
  await storeScu(target, [outgoing], (_, result) => {
    outcome = result.kind === 'responded' ? `status ${result.status}` : result.kind
  })
  return outcome
}

test('transfer syntaxes and unknown SOP classes', async t => {
  const gateway = await startProcessGateway(t, 'terms')
  const put = async (name: string, body: string): Promise<unknown> => {
    const response = await fetch(`${gateway.url}/tools/${name}`, { method: 'PUT', body })
    assert.equal(response.status, 200)
    return response.headers.get('content-type')?.includes('json') ? await response.json() : await response.text()
  }
  const listed: unknown = await (await fetch(`${gateway.url}/tools/accepted-transfer-syntaxes`)).json()
  assert.ok(Array.isArray(listed) && listed.length === 42)
  assert.equal(await store(gateway, 1), 'status 0')

  assert.deepEqual(await put('accepted-transfer-syntaxes', '["1.2.840.10008.1.2"]'), ['1.2.840.10008.1.2'])
  assert.doesNotMatch(await store(gateway, 2), /status 0/)
  assert.equal(
    (await fetch(`${gateway.url}/tools/accepted-transfer-syntaxes`, { method: 'PUT', body: '"9.9"' })).status,
    400,
  )
  assert.deepEqual(await put('accepted-transfer-syntaxes', '"*"'), listed)
  assert.equal(await store(gateway, 2), 'status 0')

  const unknown = '1.2.826.0.1.3680043.10.9.5.4.1'
  assert.doesNotMatch(await store(gateway, 3, unknown), /status 0/)
  await put('unknown-sop-class-accepted', '1')
  assert.equal(await store(gateway, 3, unknown), 'status 0')
  await put('unknown-sop-class-accepted', '0')
  assert.doesNotMatch(await store(gateway, 4, unknown), /status 0/)
})
