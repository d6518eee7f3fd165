/** Multipart bodies as others send them, and as nobody should. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { readMultipart } from '../../gateway/dicom/multipart.ts'
import { newBoundary, partsBody } from '../../gateway/dicom/multipart-writer.ts'
import { isGatewayError } from '../../gateway/errors.ts'

interface Read {
  readonly headers: Record<string, string>
  readonly bytes: Buffer
}

async function collect(chunks: Iterable<Uint8Array>, boundary: string): Promise<Read[]> {
  const parts: Read[] = []
  for await (const { headers, content } of readMultipart(stream(chunks), boundary)) {
    const bytes: Uint8Array[] = []
    for await (const chunk of content) bytes.push(chunk)
    parts.push({ headers: Object.fromEntries(headers), bytes: Buffer.concat(bytes) })
  }
  return parts
}

async function* stream(chunks: Iterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  yield* chunks
}

/** The body in pieces of these sizes, over and over. */
function* cut(body: Uint8Array, sizes: readonly number[]): Generator<Uint8Array> {
  for (let at = 0, turn = 0; at < body.length; turn += 1) {
    const size = sizes[turn % sizes.length] ?? 1
    yield body.subarray(at, at + size)
    at += size
  }
}

/** Bytes that like to look like boundaries. */
const content = (boundary: string) =>
  fc
    .array(
      fc.oneof(
        fc.uint8Array({ maxLength: 40 }),
        fc.constantFrom('\r', '\n', '\r\n', '--', '\r\n--', `--${boundary}`, `\r\n-${boundary}`, boundary),
      ),
      { maxLength: 12 },
    )
    .map(pieces => Buffer.concat(pieces.map(piece => Buffer.from(piece))))
    .filter(bytes => !`\r\n${bytes.toString('latin1')}`.includes(`\r\n--${boundary}`))

const sizes = fc.array(fc.integer({ min: 1, max: 70 }), { minLength: 1, maxLength: 5 })

test('what is written as parts is read as the same parts, however it is cut', async () => {
  const boundary = 'b'
  await fc.assert(
    fc.asyncProperty(
      fc.array(content(boundary), { maxLength: 5 }),
      sizes,
      fc.string(),
      async (bodies, pieces, noise) => {
        const parts = bodies.map((bytes, index) => ({
          headers: { 'Content-Type': 'x/y', 'X-Number': `${index}` },
          content: [bytes],
        }))
        const chunks: Uint8Array[] = []
        for await (const chunk of partsBody(list(parts), boundary)) chunks.push(chunk)
        const body = Buffer.concat([...chunks, Buffer.from(noise)])
        const read = await collect(cut(body, pieces), boundary)
        assert.deepEqual(
          read.map(({ bytes }) => bytes),
          bodies,
        )
        assert.deepEqual(
          read.map(({ headers }) => headers['x-number']),
          bodies.map((_, index) => `${index}`),
        )
      },
    ),
    { numRuns: 300 },
  )
})

test('no bytes make the reader hang, crash or lose the end', async () => {
  const token = fc.constantFrom(
    '--b',
    '\r\n--b',
    '--b--',
    '\r\n--b--',
    '\r\n',
    '\r\n\r\n',
    'A: b',
    ': ',
    ' ',
    '\t',
    'x',
    '\0',
  )
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.oneof(token, fc.string({ maxLength: 5 })), { maxLength: 20 }),
      sizes,
      async (tokens, pieces) => {
        const body = Buffer.from(tokens.join(''))
        const outcome = async (chunks: Iterable<Uint8Array>): Promise<unknown> =>
          collect(chunks, 'b').catch((error: unknown) => {
            assert.ok(isGatewayError(error, 'BAD_REQUEST') || isGatewayError(error, 'DICOM_LIMIT'))
            return 'refused'
          })
        // However it is cut, it is the same.
        assert.deepEqual(await outcome(cut(body, pieces)), await outcome([body]))
      },
    ),
    { numRuns: 500 },
  )
})

test('odd but legal bodies are read', async () => {
  const read = (text: string, boundary = 'b') => collect([Buffer.from(text)], boundary)
  const texts = async (text: string, boundary = 'b') =>
    (await read(text, boundary)).map(({ bytes }) => bytes.toString())

  assert.deepEqual(await texts('preamble\r\n--b\r\n\r\none\r\n--b  \r\nA: 1\r\n\r\n\r\n--b--\r\nepilogue'), ['one', ''])
  assert.deepEqual(await texts('--b\r\n\r\n--bc\r\n--b-\r\n--b--'), ['--bc\r\n--b-'])
  assert.deepEqual(await texts('--a (b)\r\n\r\nx\r\n--a (b)--', 'a (b)'), ['x'])
  const [folded] = await read('--b\r\nContent-Type: multipart/related;\r\n type="x"\r\nX:y\r\n\r\n\r\n--b--')
  assert.deepEqual(folded?.headers, { 'content-type': 'multipart/related; type="x"', x: 'y' })
  assert.deepEqual(await read('--b--'), [])
})

test('bodies without end, with endless headers, preambles or parts are refused', async () => {
  const refused = (chunks: Iterable<Uint8Array>, boundary = 'b') =>
    assert.rejects(collect(chunks, boundary), error => isGatewayError(error) && error.code !== 'STORAGE_IO')
  await refused([])
  await refused([Buffer.from('--b\r\n\r\nbytes')])
  await refused([Buffer.from('--b\r\nA: b')])
  await refused([Buffer.from('--b\r\nno header\r\n\r\nx\r\n--b--')])
  await refused([Buffer.from('--b--')], '')
  await refused([Buffer.from('--b--')], 'x'.repeat(201))
  function* endless(start: string, more: string): Generator<Uint8Array> {
    yield Buffer.from(start)
    for (;;) yield Buffer.from(more)
  }
  await refused(endless('', 'preamble'))
  await refused(endless('--b\r\n', 'A: b\r\n'))
  await refused(endless('--b\r\n', 'x'))
  const two = readMultipart(stream([Buffer.from('--b\r\n\r\n\r\n--b\r\n\r\n\r\n--b--')]), 'b', {
    maxParts: 1,
    maxHeaderBytes: 100,
  })
  await two.next()
  await assert.rejects(two.next(), error => isGatewayError(error, 'DICOM_LIMIT'))
})

test('content that is not read is passed over, and nothing is kept of it', async () => {
  const boundary = newBoundary()
  function* body(): Generator<Uint8Array> {
    yield Buffer.from(`--${boundary}\r\n\r\n`)
    for (let count = 0; count < 2_000; count += 1) yield Buffer.alloc(65_536)
    yield Buffer.from(`\r\n--${boundary}\r\n\r\nlast\r\n--${boundary}--`)
  }
  const before = process.memoryUsage().arrayBuffers
  let parts = 0
  let last = ''
  for await (const { content } of readMultipart(stream(body()), boundary)) {
    parts += 1
    if (parts === 1) {
      for await (const _ of content) break
    } else for await (const chunk of content) last += Buffer.from(chunk).toString()
    assert.ok(process.memoryUsage().arrayBuffers - before < 100_000_000)
  }
  assert.deepEqual([parts, last], [2, 'last'])
})

async function* list<T>(items: readonly T[]): AsyncGenerator<T> {
  yield* items
}
