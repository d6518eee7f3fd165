import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { GatewayError } from '../../gateway/errors.ts'
import { decodeJpegLs } from '../../gateway/pixels/jpeg-ls.ts'
import { compileCodecs, startCodecs } from '../../gateway/pixels/native-codecs.ts'

/** The example of ITU-T T.87 §H.3. */
const example = Buffer.from(
  `ffd8 fff7000b 08 0004 0004 01 011100 ffda0008 01 0100 00 00 00
   c000006c80208e01c0000057400000 6ee6000001bc18000005d8000091 60 ffd9`.replaceAll(/\s/g, ''),
  'hex',
)

test('the example of the standard decodes to its samples', () => {
  const samples = decodeJpegLs(example, { rows: 4, columns: 4, precision: 8 })

  assert.deepEqual([...samples], [0, 0, 90, 74, 68, 50, 43, 205, 64, 145, 145, 145, 100, 145, 145, 145])
})

test('what CharLS encodes is decoded to the same samples, in all precisions', () => {
  const compiled = compileCodecs()
  fc.assert(
    fc.property(
      fc.integer({ min: 2, max: 16 }),
      fc.integer({ min: 1, max: 20 }),
      fc.integer({ min: 1, max: 20 }),
      fc.infiniteStream(fc.oneof(fc.nat(), fc.nat({ max: 3 }), fc.constant(5))),
      (precision, rows, columns, numbers) => {
        // Near each other, so that CharLS can encode them, with runs and edges.
        const cells = precision > 8 ? new Uint16Array(rows * columns) : new Uint8Array(rows * columns)
        let at = 0
        for (const number of numbers.take(cells.length)) cells[at++] = number % Math.min(2 ** precision, 3_000)
        const samples = { rows, columns, samplesPerPixel: 1, bitsAllocated: precision, bitsStored: precision }
        const encoded = startCodecs(compiled).encode('JpegLs', new Uint8Array(cells.buffer), {
          ...samples,
          isSigned: false,
          isRgb: false,
        })

        assert.deepEqual(decodeJpegLs(encoded, { rows, columns, precision }), cells)
      },
    ),
    { numRuns: process.env['HANSE_SOAK'] === '1' ? 1_000 : 60 },
  )
})

test('a code stream that was cut or changed anywhere decodes to something or fails with an error of ours', () => {
  for (let at = 2; at < example.length; at++) {
    for (const bytes of [example.subarray(0, at), Buffer.from(example).fill(0xff, at, at + 1), mutated(at)]) {
      try {
        decodeJpegLs(bytes, { rows: 4, columns: 4, precision: 8 })
      } catch (error) {
        assert.ok(error instanceof GatewayError, String(error))
      }
    }
  }
})

function mutated(at: number): Buffer {
  const bytes = Buffer.from(example)
  bytes[at] = (bytes[at] ?? 0) ^ 0x55
  return bytes
}
