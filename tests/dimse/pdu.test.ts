import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  decodeAssociateAccept,
  decodeAssociateRequest,
  encodeAbort,
  encodeCommandPdus,
  fragmentBytes,
} from '../../gateway/dimse/pdu.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { associateRequest, ctImageStorage, explicitLittleEndian, item } from './fixture.ts'

const body = (request: Buffer): Buffer => request.subarray(6)

test('an association request is decoded with titles trimmed and items that nobody knows skipped', () => {
  const request = decodeAssociateRequest(
    body(
      associateRequest([{ id: 3, abstractSyntax: ctImageStorage, transferSyntaxes: [explicitLittleEndian, '1.2.3'] }], {
        callingAe: ' CT1 ',
        calledAe: 'H\x1b[2J',
        maxPduLength: 0,
        items: [
          item(0x77, Buffer.alloc(9)),
          item(0x20, [Buffer.from([1, 0, 0, 0]), item(0x99, Buffer.alloc(2)), item(0x30, Buffer.from('1.2\0'))]),
        ],
      }),
    ),
  )

  assert.deepEqual(request, {
    protocolVersion: 1,
    calledAe: 'H?[2J',
    callingAe: 'CT1',
    applicationContext: '1.2.840.10008.3.1.1.1',
    contexts: [
      { id: 1, abstractSyntaxUid: '1.2', transferSyntaxUids: [] },
      { id: 3, abstractSyntaxUid: ctImageStorage, transferSyntaxUids: [explicitLittleEndian, '1.2.3'] },
    ],
    roles: [],
    maxPduLength: 0,
    implementationClassUid: '1.2.3',
    implementationVersion: '',
  })
})

test('of thousands of contexts at most one for each id is kept, the first', () => {
  const contexts = Array.from({ length: 5_000 }, (_, index) => ({
    id: index % 256,
    abstractSyntax: `1.2.${index}`,
    transferSyntaxes: [explicitLittleEndian],
  }))

  const request = decodeAssociateRequest(body(associateRequest(contexts)))

  assert.equal(request.contexts.length, 256)
  assert.equal(request.contexts[5]?.abstractSyntaxUid, '1.2.5')
})

test('association PDUs of any bytes are decoded or refused as malformed', () => {
  const valid = body(
    associateRequest([{ id: 1, abstractSyntax: ctImageStorage, transferSyntaxes: [explicitLittleEndian] }]),
  )
  const decoders = [decodeAssociateRequest, decodeAssociateAccept]
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat({ max: valid.length - 1 }), fc.nat({ max: 255 })), { maxLength: 6 }),
      fc.nat({ max: valid.length }),
      (changes, length) => {
        const bytes = Buffer.from(valid.subarray(0, length))
        for (const [at, value] of changes) if (at < length) bytes[at] = value
        for (const decode of decoders) {
          try {
            decode(bytes)
          } catch (error) {
            assert.ok(isGatewayError(error, 'BAD_REQUEST'))
          }
        }
      },
    ),
  )
})

test('a command is split where the peer takes short PDUs only', () => {
  const command = Buffer.from('0123456789')

  const pdus = encodeCommandPdus(5, command, 10)

  assert.equal(
    pdus.toString('hex'),
    [
      '0400',
      '0000000a',
      '00000006',
      '0501',
      '30313233',
      '0400',
      '0000000a',
      '00000006',
      '0501',
      '34353637',
      '0400',
      '00000008',
      '00000004',
      '0503',
      '3839',
    ].join(''),
  )
})

test('fragments are even, fit the peer, and have a bound where the peer has none', () => {
  assert.equal(fragmentBytes(16_384), 16_378)
  assert.equal(fragmentBytes(16_385), 16_378)
  assert.equal(fragmentBytes(0), 1_048_576)
  assert.equal(fragmentBytes(0xffffffff), 1_048_576)
})

test('an abort names its source and reason', () => {
  assert.equal(encodeAbort(2, 6).toString('hex'), '07000000000400000206')
})
