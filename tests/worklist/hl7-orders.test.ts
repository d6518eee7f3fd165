import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { jsonItems, jsonText, jsonTexts } from '../../gateway/dicom/json-read.ts'
import { GatewayError } from '../../gateway/errors.ts'
import { OrderProblem } from '../../gateway/hl7/elements.ts'
import { component, escapeText, findSegment, parseHeader, parseMessage } from '../../gateway/hl7/message.ts'
import { FrameReader, frame } from '../../gateway/hl7/mllp.ts'
import { ordersOf } from '../../gateway/hl7/orders.ts'
import type { Order } from '../../gateway/services/worklist.ts'
import { message, omi, orm } from './hl7-messages.ts'

const defaults = { stations: { CT: ['CT_1', 'CT_2'] }, now: new Date(2026, 2, 1, 7, 30) }

async function read(segments: readonly string[], encoding?: BufferEncoding): Promise<readonly Order[]> {
  return await ordersOf(parseMessage(message(segments, encoding)), defaults)
}

async function scheduled(segments: readonly string[], encoding?: BufferEncoding) {
  const [order] = await read(segments, encoding)
  assert.ok(order?.kind === 'schedule')
  const [first] = order.entries
  assert.ok(first)
  const { document } = first.entry
  return { order, document, step: jsonItems(document, 0x00400100)[0] ?? {} }
}

test('a new ORM order becomes an item with all that a modality asks for', async () => {
  const { order, document, step } = await scheduled(orm())

  assert.deepEqual(
    [order.orderKey, order.entries.map(({ externalKey }) => externalKey)],
    ['filler F100@RIS', ['filler F100@RIS^SPS1']],
  )
  const patient = [0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00100040, 0x001021c0, 0x00102110, 0x00380010]
  assert.deepEqual(
    patient.map(tag => jsonText(document, tag)),
    ['TEST^Jane^Mary^Dr^Jr', 'T-100', 'HOSP', '19700203', 'F', '3', 'latex', 'VISIT1'],
  )
  assert.equal(jsonText(jsonItems(document, 0x00101002)[0] ?? {}, 0x00100020), 'T-1')
  const request = [0x00080050, 0x00080090, 0x0020000d, 0x00321032, 0x00321060, 0x00401001, 0x00401003, 0x00380300]
  assert.deepEqual(
    request.map(tag => jsonText(document, tag)),
    ['A100', 'REFERRER^Ron^^Dr', '1.2.3.4.5', 'ORDERER^Olga', 'CT head', 'RP1', 'STAT', 'WARD 2 B'],
  )
  const ofStep = [0x00080060, 0x00400002, 0x00400003, 0x00400006, 0x00400007, 0x00400009]
  assert.deepEqual(
    ofStep.map(tag => jsonText(step, tag)),
    ['CT', '20260301', '101500', 'TECH^Tom', 'Head native', 'SPS1'],
  )
  assert.deepEqual(jsonTexts(step, 0x00400001), ['CT_1', 'CT_2'])
  assert.equal(jsonText(jsonItems(step, 0x00400008)[0] ?? {}, 0x00080100), 'HEADNAT')
  assert.equal(jsonText(jsonItems(document, 0x00321064)[0] ?? {}, 0x00080100), 'CTHEAD')
})

test('an OMI order has an item for each of its IPC segments', async () => {
  const { order } = await scheduled(omi())

  assert.deepEqual(
    order.entries.map(({ externalKey, entry }) => [externalKey, entry.keys.stationAes, entry.keys.startTime]),
    [
      ['filler F200@RIS^S1', ['MR_1'], '090000'],
      ['filler F200@RIS^S2', ['MR_2'], '090000'],
    ],
  )
  assert.equal(order.entries[0]?.entry.keys.studyInstanceUid, '1.2.3.9')
})

test('order control says whether an order is wanted, in which state, or is not understood', async () => {
  const ofControl = async (control: string, status = ''): Promise<string> => {
    const [order] = await read(orm({ control, status }))
    return order?.kind === 'state' ? `${order.state} ${order.externalKey}` : String(order?.kind)
  }

  assert.deepEqual(
    [await ofControl('NW'), await ofControl('XO'), await ofControl('CA'), await ofControl('DC')],
    ['schedule', 'schedule', 'cancelled filler F100@RIS^SPS1', 'discontinued filler F100@RIS^SPS1'],
  )
  assert.equal(await ofControl('SC', 'CM'), 'completed filler F100@RIS^SPS1')
  assert.equal(await ofControl('SC', 'IP'), 'started filler F100@RIS^SPS1')
  await assert.rejects(
    ofControl('ZZ'),
    (error: unknown) => error instanceof OrderProblem && error.refusal.condition === '103',
  )
  const [whole] = await read(orm({ control: 'CA', stepId: '' }))
  assert.ok(whole?.kind === 'state' && whole.externalKey === undefined)
})

test('names keep their characters, by the set of MSH-18 and without one', async () => {
  const nameOf = async (name: string, charset: string, bytes?: BufferEncoding): Promise<string> =>
    jsonText((await scheduled(orm({ name, charset }), bytes)).document, 0x00100010)

  assert.equal(await nameOf('MÜLLER^Jörg', '8859/1', 'latin1'), 'MÜLLER^Jörg')
  assert.equal(await nameOf('MÜLLER^Jörg', 'UNICODE UTF-8'), 'MÜLLER^Jörg')
  assert.equal(await nameOf('MÜLLER^Jörg', ''), 'MÜLLER^Jörg')
  assert.equal(await nameOf('MÜLLER^Jörg', '', 'latin1'), 'MÜLLER^Jörg')
  assert.equal(
    await nameOf('YAMADA^Tarou^^^^^L^A~山田^太郎^^^^^L^I~やまだ^たろう^^^^^L^P', 'UNICODE UTF-8'),
    'YAMADA^Tarou=山田^太郎=やまだ^たろう',
  )
  // 山田 in JIS X 0208, designated by its escape sequence.
  assert.equal(await nameOf('\x1b$B;3ED\x1b(B^X', '~ISO IR87', 'latin1'), '山田^X')
  assert.equal(await nameOf('O\\T\\BRIEN^A\\S\\B', ''), 'O&BRIEN^A B')
  await assert.rejects(nameOf('X', 'EBCDIC'), /table 0211/)
})

test('an order without what it needs is refused by field and condition', async () => {
  const refusal = async (segments: readonly string[]): Promise<string> => {
    const error: unknown = await read(segments).catch((thrown: unknown) => thrown)
    return error instanceof OrderProblem ? `${error.code} ${error.refusal.condition}` : String(error)
  }
  const swap = (pattern: RegExp, by: string): string[] => orm().map(segment => segment.replace(pattern, by))

  assert.equal(await refusal(swap(/ORM\^O01\^ORM_O01/, 'ADT^A01')), 'AR 200')
  assert.equal(await refusal(swap(/ORM\^O01\^ORM_O01/, 'ORM^O02')), 'AR 201')
  assert.equal(await refusal(orm().filter(segment => !/^O/.test(segment))), 'AE 100')
  assert.equal(await refusal(swap(/\|\|\|\|CT\|/, '|||||')), 'AE 101')
  assert.equal(await refusal(swap(/A100/, 'A'.repeat(17))), 'AE 102')
  assert.equal(await refusal(swap(/1\.2\.3\.4\.5/, 'no-uid')), 'AE 102')
})

test('an order without identifiers or time gets them, the same each time', async () => {
  const bare = orm({ stepId: '', start: '' }).map(segment =>
    segment.replace('|A100|RP1|', '|||').replace('^20260301100000', ''),
  )
  const lean = bare.filter(segment => !segment.startsWith('ZDS'))

  const [first, again] = [await scheduled(lean), await scheduled(lean)]

  assert.deepEqual(first, again)
  assert.deepEqual(
    [0x00080050, 0x00401001].map(tag => jsonText(first.document, tag)),
    ['F100', 'F100'],
  )
  assert.match(jsonText(first.document, 0x0020000d), /^2\.25\./)
  assert.deepEqual([jsonText(first.step, 0x00400002), jsonText(first.step, 0x00400003)], ['20260301', '073000'])
})

test('text that is escaped comes back as it was, whatever it holds', () => {
  const header = parseHeader(message(orm()))
  assert.ok(header)
  const visible = fc.string({ unit: fc.constantFrom(...'ab|^~\\&ü ß') })

  fc.assert(
    fc.property(visible, text => {
      const parsed = parseMessage(message(['MSH|^~\\&|A', `ZZZ|${escapeText(text, header.delimiters)}`]))
      assert.equal(component(parsed, findSegment(parsed, 'ZZZ'), 1), text.trim() === '""' ? '' : text.trim())
    }),
  )
})

test('whatever bytes come as a message, they are read or refused, never worse', async () => {
  const valid = message(orm())
  const mutated = fc
    .array(fc.record({ at: fc.nat(valid.length - 1), byte: fc.nat(255), cut: fc.boolean() }), { maxLength: 12 })
    .map(changes => {
      let bytes = Buffer.from(valid)
      for (const { at, byte, cut } of changes) {
        if (cut && bytes.length > 4) bytes = bytes.subarray(0, Math.max(4, at % bytes.length))
        else bytes[at % bytes.length] = byte
      }
      return bytes
    })
  const random = fc.uint8Array({ maxLength: 400 }).map(bytes => Buffer.concat([Buffer.from('MSH|^~\\&|'), bytes]))

  await fc.assert(
    fc.asyncProperty(fc.oneof(mutated, random), async bytes => {
      try {
        await ordersOf(parseMessage(bytes), defaults)
      } catch (error) {
        assert.ok(error instanceof OrderProblem || error instanceof GatewayError, String(error))
      }
    }),
    { numRuns: process.env['HANSE_SOAK'] ? 20_000 : 400 },
  )
})

test('frames are found however the bytes are cut, and what is no frame is a violation', () => {
  const messages = [Buffer.from('MSH|one'), Buffer.from(''), Buffer.from('MSH|two\rPID|')]
  const stream = Buffer.concat(messages.flatMap(each => [frame(each), Buffer.from('\r\n')]))

  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 40 }), cuts => {
      const reader = new FrameReader(100)
      const found: Buffer[] = []
      let at = 0
      for (const cut of [...cuts, stream.length]) {
        const { messages, violation } = reader.push(stream.subarray(at, at + cut))
        assert.equal(violation, undefined)
        found.push(...messages)
        at += cut
        if (at >= stream.length) break
      }
      assert.deepEqual(found, messages)
    }),
  )
  assert.equal(new FrameReader(100).push(Buffer.from('GET / HTTP/1.1')).violation, 'not-mllp')
  assert.equal(new FrameReader(100).push(Buffer.from('\x0bMSH\x1cX')).violation, 'not-mllp')
  assert.equal(new FrameReader(10).push(Buffer.from(`\x0b${'M'.repeat(11)}`)).violation, 'too-long')
})
