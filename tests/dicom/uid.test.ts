import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isUid, storageSopClasses, toUid, transferSyntax, transferSyntaxes, uidName } from '../../gateway/dicom/uid.ts'
import { isGatewayError } from '../../gateway/errors.ts'

test('a UID has digits and dots, no leading zeros, at most 64 characters', () => {
  assert.ok(isUid('1.2.840.10008.1.2'))
  assert.ok(isUid('2.25.0'))
  for (const text of ['', '1..2', '.1', '1.', '1.02', '1.a', ' 1', `1.${'2'.repeat(63)}`]) assert.ok(!isUid(text), text)
})

test('padding is removed, leading zeros of the field survive, other text is refused without its value', () => {
  assert.equal(toUid('1.2.3\0'), '1.2.3')
  assert.equal(toUid('1.2.003 '), '1.2.003')
  assert.throws(
    () => toUid('DOE^JOHN'),
    error =>
      isGatewayError(error, 'DICOM_UNREADABLE') && !`${error.message}${JSON.stringify(error.context)}`.includes('DOE'),
  )
})

test('transfer syntaxes say how they encode', () => {
  const { explicitVr, bigEndian, deflated, encapsulated } = transferSyntax('1.2.840.10008.1.2.1.99') ?? assert.fail()
  assert.deepEqual(
    { explicitVr, bigEndian, deflated, encapsulated },
    { explicitVr: true, bigEndian: false, deflated: true, encapsulated: false },
  )
  assert.equal(transferSyntax('1.2.840.10008.1.2')?.explicitVr, false)
  assert.equal(transferSyntax('1.2.840.10008.1.2.2')?.bigEndian, true)
  assert.equal(transferSyntax('1.2.840.10008.1.2.4.201')?.encapsulated, true)
  assert.equal(transferSyntax('1.2.3'), undefined)
  assert.ok(transferSyntaxes.size > 60)
})

test('storage SOP classes are all there, and nothing but them', () => {
  assert.equal(storageSopClasses.get('1.2.840.10008.5.1.4.1.1.2'), 'CT Image Storage')
  assert.ok(storageSopClasses.has('1.2.840.10008.5.1.4.1.1.66.7'))
  assert.ok(storageSopClasses.has('1.2.840.10008.5.1.4.1.1.5'), 'retired ones too')
  assert.ok(!storageSopClasses.has('1.2.840.10008.1.20.1'), 'not storage commitment')
  assert.ok(!storageSopClasses.has('1.2.840.10008.5.1.4.1.2.1.1'), 'not query/retrieve')
  assert.ok(storageSopClasses.size > 200)
  assert.equal(uidName('1.2.840.10008.1.1'), 'Verification SOP Class')
})
