import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createDeflateRaw } from 'node:zlib'
import fc from 'fast-check'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { readInstanceHeader } from '../../gateway/dicom/instance-header.ts'
import { toJson } from '../../gateway/dicom/json.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { type Edit, spliceEdits } from '../../gateway/dicom/part10-splice.ts'
import { fileMeta, type NewElement } from '../../gateway/dicom/part10-writer.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { buildInstance } from '../support/dicom-builder.ts'

/** More of everything on demand. */
const effort = process.env['HANSE_SOAK'] ? 100 : 1

const edits: readonly Edit[] = [
  { set: { tag: 0x00100010, value: 'TEST' } },
  { remove: 0x00081140 },
  { within: [0x00082112, 0], remove: 0x00081155 },
]

/** Everything that reads; only a GatewayError may come out. Returns what the full read came to. */
async function readAll(bytes: Uint8Array): Promise<string> {
  const source = bufferSource(bytes)
  await outcome(readInstanceHeader(source))
  await outcome(readInstanceHeader(source, { datasetOffset: 0, transferSyntaxUid: '1.2.840.10008.1.2' }))
  await outcome(drain(spliceEdits(source, edits)))
  return outcome(readPart10(source).then(({ dataset }) => JSON.stringify(toJson(dataset))))
}

async function outcome(reading: Promise<unknown>): Promise<string> {
  try {
    await reading
    return 'read'
  } catch (error) {
    if (!isGatewayError(error)) throw error
    assert.ok(['DICOM_UNREADABLE', 'DICOM_LIMIT', 'BAD_REQUEST'].includes(error.code), error.code)
    return error.code
  }
}

async function drain(chunks: AsyncIterable<Uint8Array>): Promise<void> {
  for await (const _ of chunks);
}

/** Instances with nesting, in every kind of encoding. */
function seeds(): Uint8Array[] {
  const extra: NewElement[] = [
    { tag: 0x00081140, items: [[{ tag: 0x00081155, value: '1.2' }], [{ tag: 0x00081140, items: [[], []] }]] },
    { tag: 0x00082112, items: [[{ tag: 0x00081155, value: '1.3' }]] },
    { tag: 0x00091001, vr: 'UN', value: new Uint8Array(12) },
    { tag: 0x00100000, value: 100 },
  ]
  const syntaxes = [
    '1.2.840.10008.1.2',
    '1.2.840.10008.1.2.1',
    '1.2.840.10008.1.2.2',
    '1.2.840.10008.1.2.4.90',
    '1.2.840.10008.1.2.1.99',
  ]
  const built = syntaxes.map(transferSyntaxUid =>
    buildInstance({ transferSyntaxUid, extra, rows: 4, cols: 4, charset: ['', 'ISO 2022 IR 87'] }),
  )
  return built.flatMap(({ bytes, dataset }) => [bytes, dataset])
}

/** A reproducible sequence of numbers below `bound`. */
function numbers(seed: number): (bound: number) => number {
  let state = seed >>> 0
  return bound => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0
    return Math.floor((state / 2 ** 32) * bound)
  }
}

/** One to four changes: bits, truncation, extreme lengths, bytes moved, doubled or cut out. */
function mutate(bytes: Uint8Array, next: (bound: number) => number): Buffer {
  let mutant = Buffer.from(bytes)
  for (let changes = 1 + next(4); changes > 0; changes--) {
    const at = next(mutant.length)
    const length = next(64)
    const kind = next(7)
    if (kind === 0) mutant[at] = (mutant[at] ?? 0) ^ (1 << next(8))
    else if (kind === 1) mutant[at] = next(256)
    else if (kind === 2) mutant = mutant.subarray(0, at)
    else if (kind === 3) mutant.fill(next(2) * 255, at, Math.min(mutant.length, at + 1 + next(8)))
    else if (kind === 4) mutant = Buffer.concat([mutant.subarray(0, at), mutant.subarray(at + length)])
    else if (kind === 5) mutant = Buffer.concat([mutant.subarray(0, at + length), mutant.subarray(at)])
    else mutant = Buffer.concat([mutant.subarray(0, at), Buffer.from('feff00e0ffffffff', 'hex'), mutant.subarray(at)])
    if (mutant.length === 0) return mutant
  }
  return mutant
}

test('mutated files are read or refused, never anything else', async () => {
  const originals = seeds()
  const next = numbers(20_260_102)
  const outcomes = new Map<string, number>()

  for (let run = 0; run < 3000 * effort; run++) {
    const original = originals[run % originals.length] ?? new Uint8Array(0)
    const came = await readAll(mutate(original, next))
    outcomes.set(came, (outcomes.get(came) ?? 0) + 1)
  }

  // Both ends of the code are reached: the mutations are neither harmless nor hopeless.
  assert.ok(
    (outcomes.get('read') ?? 0) > 200 && (outcomes.get('DICOM_UNREADABLE') ?? 0) > 200,
    JSON.stringify([...outcomes]),
  )
})

test('random bytes are refused or read as what they happen to be', async () => {
  const meta = fileMeta({ sopClassUid: '1.2', sopInstanceUid: '1.3', transferSyntaxUid: '1.2.840.10008.1.2.1' })
  const fragments = [
    'feff00e0',
    'feff0de0',
    'feffdde0',
    'ffffffff',
    '08000500',
    '5351',
    '554e',
    '4c4f',
    '0000',
    '00000000',
    '10001000',
    'e07f1000',
    '4f42',
  ]
  const structured = fc
    .array(fc.constantFrom(...fragments), { maxLength: 60 })
    .map(parts => Buffer.from(parts.join(''), 'hex'))
  const random = fc.oneof(fc.uint8Array({ maxLength: 400 }), structured)

  const property = fc.asyncProperty(random, fc.boolean(), async (bytes, hasMeta) => {
    await readAll(hasMeta ? Buffer.concat([meta, bytes]) : bytes)
  })
  await fc.assert(property, { numRuns: 2000 * effort })
})

test('every truncation of a file is read or refused', async () => {
  for (const bytes of seeds()) {
    for (let length = 0; length < bytes.length; length += effort > 1 ? 1 : 3) await readAll(bytes.subarray(0, length))
  }
})

test('lengths of four gigabytes allocate nothing', async () => {
  const meta = fileMeta({ sopClassUid: '1.2', sopInstanceUid: '1.3', transferSyntaxUid: '1.2.840.10008.1.2.1' })
  const before = process.memoryUsage().arrayBuffers
  for (const vr of ['OB', 'UT', 'UN', 'SQ']) {
    const header = Buffer.concat([
      Buffer.from('08000100', 'hex'),
      Buffer.from(`${vr}\0\0`, 'latin1'),
      Buffer.from('feffffff', 'hex'),
    ])
    assert.equal(await readAll(Buffer.concat([meta, header, Buffer.alloc(64)])), 'DICOM_UNREADABLE', vr)
  }
  assert.ok(process.memoryUsage().arrayBuffers - before < 16_000_000)
})

test('deep nesting is refused at once by every reader', async () => {
  const meta = fileMeta({ sopClassUid: '1.2', sopInstanceUid: '1.3', transferSyntaxUid: '1.2.840.10008.1.2.1' })
  const level = Buffer.from('080012215351 0000ffffffff feff00e0ffffffff'.replaceAll(' ', ''), 'hex')
  const deep = Buffer.concat([meta, Buffer.alloc(level.length * 100_000, level)])

  assert.equal(await readAll(deep), 'DICOM_LIMIT')
})

test('a deflated bomb is refused in bounded memory', async () => {
  const meta = fileMeta({ sopClassUid: '1.2', sopInstanceUid: '1.3', transferSyntaxUid: '1.2.840.10008.1.2.1.99' })
  const element = Buffer.from('09000110 4f42 0000 feffff7f'.replaceAll(' ', ''), 'hex')
  const bomb = Buffer.concat([meta, await deflated(element, 320)])
  const before = process.memoryUsage().rss

  const came = await outcome(readInstanceHeader(bufferSource(bomb)))

  assert.equal(came, 'DICOM_LIMIT')
  const grown = process.memoryUsage().rss - before
  assert.ok(grown < 150_000_000, `${bomb.length} bytes of bomb grew memory by ${grown}`)
})

/** A deflate stream of `head` and that many MiB of zeros. */
async function deflated(head: Uint8Array, mebibytes: number): Promise<Buffer> {
  const deflater = createDeflateRaw({ level: 1 })
  const zeros = Buffer.alloc(1 << 20)
  const parts: Buffer[] = []
  deflater.on('data', (part: Buffer) => parts.push(part))
  deflater.write(head)
  for (let i = 0; i < mebibytes; i++) {
    if (!deflater.write(zeros)) await new Promise(resolve => deflater.once('drain', resolve))
  }
  await new Promise(resolve => deflater.end(() => deflater.once('end', resolve)))
  return Buffer.concat(parts)
}
