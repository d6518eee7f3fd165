import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { Violation } from '../../gateway/dimse/pdu.ts'
import { PduReader } from '../../gateway/dimse/pdu-reader.ts'
import { pdu, pdv } from './fixture.ts'

type Event = readonly [kind: string, ...detail: (number | string)[]]

/** Reads `stream` cut into chunks of the given lengths (cyclically); pieces of one value are joined. */
function read(
  stream: Buffer,
  cuts: readonly number[],
  limit = 1_000_000,
): { events: Event[]; violation: Violation | undefined } {
  const events: Event[] = []
  let violation: Violation | undefined
  let value = ''
  const reader = new PduReader({
    admit: (_type, length) => (length > limit ? { reason: 6, message: 'too long' } : undefined),
    control: (type, body) => events.push(['control', type, body.toString('hex')]),
    value: (contextId, control, piece, endOfValue) => {
      value += piece.toString('hex')
      if (!endOfValue) return
      events.push(['value', contextId, control, value])
      value = ''
    },
    violation: found => {
      violation = found
    },
  })
  let offset = 0
  for (let index = 0; offset < stream.length; index += 1) {
    const chunk = stream.subarray(offset, offset + (cuts[index % cuts.length] ?? 1))
    offset += reader.feed(chunk, () => false)
    assert.ok(violation || chunk.length > 0)
  }
  if (!violation) assert.equal(reader.isMidPdu, false)
  return { events, violation }
}

const anyValue = fc.record({
  contextId: fc.integer({ min: 0, max: 255 }),
  control: fc.integer({ min: 0, max: 3 }),
  value: fc.uint8Array({ maxLength: 40 }),
})
const anyPdu = fc.oneof(
  fc.record({ type: fc.constantFrom(1, 2, 3, 5, 6, 7), body: fc.uint8Array({ maxLength: 60 }) }),
  fc.array(anyValue, { minLength: 1, maxLength: 4 }),
)

test('however the stream is cut, the same PDUs and values come out', () => {
  const cuts = fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 20 })
  fc.assert(
    fc.property(fc.array(anyPdu, { maxLength: 8 }), cuts, (pdus, lengths) => {
      const stream: Buffer[] = []
      const expected: Event[] = []
      for (const each of pdus) {
        if (Array.isArray(each)) {
          stream.push(
            pdu(
              4,
              each.map(one => pdv(one.contextId, one.control, Buffer.from(one.value))),
            ),
          )
          for (const one of each)
            expected.push(['value', one.contextId, one.control, Buffer.from(one.value).toString('hex')])
        } else {
          stream.push(pdu(each.type, [Buffer.from(each.body)]))
          expected.push(['control', each.type, Buffer.from(each.body).toString('hex')])
        }
      }
      assert.deepEqual(read(Buffer.concat(stream), lengths), { events: expected, violation: undefined })
    }),
  )
})

test('any bytes are read to their end without an exception', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 500 }), fc.integer({ min: 1, max: 50 }), (bytes, cut) => {
      const reader = new PduReader({
        admit: () => undefined,
        control: () => undefined,
        value: () => undefined,
        violation: () => undefined,
      })
      for (let offset = 0; offset < bytes.length; offset += cut)
        reader.feed(Buffer.from(bytes.subarray(offset, offset + cut)), () => false)
    }),
  )
})

test('values are views of the chunks, not copies', () => {
  const chunk = pdu(4, [pdv(1, 2, Buffer.alloc(100, 9))])
  const pieces: Buffer[] = []
  const reader = new PduReader({
    admit: () => undefined,
    control: () => undefined,
    value: (_contextId, _control, piece) => pieces.push(piece),
    violation: () => undefined,
  })

  reader.feed(chunk, () => false)

  assert.equal(pieces[0]?.buffer, chunk.buffer)
})

test('a stopped reader takes no more and goes on where it was', () => {
  const stream = Buffer.concat([pdu(5, [Buffer.alloc(4)]), pdu(6, [Buffer.alloc(4)])])
  const types: number[] = []
  const reader = new PduReader({
    admit: () => undefined,
    control: type => types.push(type),
    value: () => undefined,
    violation: () => undefined,
  })

  const taken = reader.feed(stream, () => types.length === 1)
  assert.equal(taken, 10)
  assert.deepEqual(types, [5])
  reader.feed(stream.subarray(taken), () => false)
  assert.deepEqual(types, [5, 6])
})

test('a length that is not admitted breaks the stream at its header', () => {
  assert.deepEqual(read(Buffer.from([1, 0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]), [3]), {
    events: [],
    violation: { reason: 6, message: 'too long' },
  })
})
