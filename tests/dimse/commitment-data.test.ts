import assert from 'node:assert/strict'
import { test } from 'node:test'
import { encodeDataset } from '../../gateway/dicom/part10-writer.ts'
import { explicitVrLittleEndian, implicitVrLittleEndian } from '../../gateway/dicom/uid.ts'
import { encodeReport, encodeRequest, readReport, readRequest } from '../../gateway/dimse/commitment-data.ts'
import { isGatewayError } from '../../gateway/errors.ts'

const instances = Array.from({ length: 3_000 }, (_, i) => ({
  sopClassUid: '1.2.840.10008.5.1.4.1.1.2',
  sopInstanceUid: `2.25.${i}`,
}))

for (const syntax of [explicitVrLittleEndian, implicitVrLittleEndian]) {
  test(`requests and reports are read as they were written, in ${syntax}`, async () => {
    const request = { transactionUid: '2.25.7', instances }
    const report = {
      transactionUid: '2.25.7',
      committed: instances.slice(0, 2_000),
      failed: instances.slice(2_000).map(item => ({ ...item, reason: 0x0112 })),
    }

    assert.deepEqual(await readRequest(encodeRequest(request, syntax), syntax), request)
    assert.deepEqual(await readReport(encodeReport(report, syntax), syntax), report)
  })
}

test('what lacks a transaction, instances or their UIDs is refused', async () => {
  const item = [
    { tag: 0x00081150, value: '1.2.3' },
    { tag: 0x00081155, value: '2.25.1' },
  ]
  const cases = [
    [],
    [{ tag: 0x00081195, value: '2.25.7' }],
    [
      { tag: 0x00081195, value: '2.25.7' },
      { tag: 0x00081199, items: [] },
    ],
    [{ tag: 0x00081199, items: [item] }],
    [
      { tag: 0x00081195, value: "2.25.7'" },
      { tag: 0x00081199, items: [item] },
    ],
    [
      { tag: 0x00081195, value: '2.25.7' },
      { tag: 0x00081199, items: [item, item.slice(0, 1)] },
    ],
  ]
  for (const elements of cases) {
    const bytes = encodeDataset(elements, explicitVrLittleEndian)
    await assert.rejects(readRequest(bytes, explicitVrLittleEndian), error => isGatewayError(error, 'BAD_REQUEST'))
  }
  await assert.rejects(readReport(Buffer.from('nonsense!'), explicitVrLittleEndian), error => isGatewayError(error))
})
