import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isStored, outcomeOfError, outcomeOfIngest } from '../../gateway/dimse/status.ts'
import { errorTable, GatewayError } from '../../gateway/errors.ts'

test('every error code has a status of the failure class and a comment without detail', () => {
  for (const code of Object.keys(errorTable)) {
    if (!isCode(code)) continue
    const { status, comment } = outcomeOfError(new GatewayError(code, 'TEST^PATIENT has 12345'))

    assert.equal(status, errorTable[code].dimse)
    assert.equal(isStored(status), false)
    assert.ok(comment && comment.length <= 64 && !comment.includes('TEST'), code)
  }
})

test('the refusals of C-STORE are those of PS3.4 Table B.2-1', () => {
  assert.equal(outcomeOfError(new GatewayError('STORAGE_FULL', '')).status, 0xa700)
  assert.equal(outcomeOfError(new GatewayError('DICOM_MISMATCH', '')).status, 0xa900)
  assert.equal(outcomeOfError(new GatewayError('DICOM_UNREADABLE', '')).status, 0xc000)
  assert.equal(outcomeOfError(new Error('any')).status, 0x0110)
})

test('bytes that are kept are a success, whatever was there before', () => {
  for (const kind of ['stored', 'duplicate', 'conflict', 'variant'] as const) {
    assert.deepEqual(outcomeOfIngest(kind), { status: 0x0000 })
  }
  assert.ok(isStored(0xb000) && isStored(0xb007) && isStored(1))
})

function isCode(text: string): text is keyof typeof errorTable {
  return text in errorTable
}
