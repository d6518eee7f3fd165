import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { decodeCommand, encodeEchoRequest, encodeResponse, encodeStoreRequest } from '../../gateway/dimse/command.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { commandSet, ctImageStorage, storeCommand } from './fixture.ts'

test('a C-STORE request is read', () => {
  assert.deepEqual(decodeCommand(storeCommand()), {
    commandField: 1,
    messageId: 7,
    respondedMessageId: undefined,
    hasDataSet: true,
    status: undefined,
    errorComment: undefined,
    sopClassUid: ctImageStorage,
    sopInstanceUid: '1.2.3.4',
    priority: 0,
    moveDestination: undefined,
    originator: undefined,
    eventTypeId: undefined,
    actionTypeId: undefined,
    errorId: undefined,
    counts: { remaining: undefined, completed: undefined, failed: undefined, warning: undefined },
  })
})

test('what is written is read back, with a group length that is right', () => {
  const response = encodeResponse({
    commandField: 0x8001,
    messageId: 65_535,
    sopClassUid: ctImageStorage,
    sopInstanceUid: '1.2.3',
    status: 0xa700,
    comment: `line\nwith\\controls ${'x'.repeat(100)}`,
  })

  const read = decodeCommand(response)

  assert.equal(response.readUInt32LE(8), response.length - 12)
  assert.equal(read.respondedMessageId, 65_535)
  assert.equal(read.status, 0xa700)
  assert.equal(read.hasDataSet, false)
  assert.equal(read.errorComment?.length, 64)
  assert.match(read.errorComment ?? '', /^line\?with\?controls x+$/)
  assert.equal(
    decodeCommand(encodeStoreRequest(1, { sopClassUid: ctImageStorage, sopInstanceUid: '1.2' })).hasDataSet,
    true,
  )
  assert.equal(decodeCommand(encodeEchoRequest(9, '1.2.840.10008.1.1')).messageId, 9)
})

test('malformed command sets are refused', () => {
  const wrong = [
    Buffer.alloc(0),
    Buffer.alloc(7),
    commandSet({ 256: 1 }),
    commandSet({ 2048: 1 }),
    Buffer.concat([storeCommand(), commandSet({ 272: 3 })]),
    storeCommand().subarray(0, -1),
    commandSet({ 256: '1.2.3', 2048: 0 }),
    Buffer.concat([storeCommand(), Buffer.from([8, 0, 0x18, 0, 0, 0, 0, 0])]),
  ]
  for (const bytes of wrong)
    assert.throws(
      () => decodeCommand(bytes),
      error => isGatewayError(error, 'BAD_REQUEST'),
    )
})

test('any bytes are a command set or refused', () => {
  const valid = storeCommand()
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat({ max: valid.length - 1 }), fc.nat({ max: 255 })), { maxLength: 5 }),
      changes => {
        const bytes = Buffer.from(valid)
        for (const [at, value] of changes) bytes[at] = value
        try {
          decodeCommand(bytes)
        } catch (error) {
          assert.ok(isGatewayError(error, 'BAD_REQUEST'))
        }
      },
    ),
  )
})
