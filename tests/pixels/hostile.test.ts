/** Damaged and hostile pixel data: errors of ours, in time, and the next frame is decoded as if nothing had been. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import type { Worker } from 'node:worker_threads'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { spliceEdits } from '../../gateway/dicom/part10-splice.ts'
import { explicitVrLittleEndian, transferSyntax } from '../../gateway/dicom/uid.ts'
import { GatewayError, isGatewayError } from '../../gateway/errors.ts'
import { readPixelLayout } from '../../gateway/pixels/layout.ts'
import { canTranscode } from '../../gateway/pixels/syntaxes.ts'
import { gather } from '../support/bytes.ts'
import { openCorpus, transferSyntaxUids } from '../support/corpus.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { until } from '../support/until.ts'
import { isSoak, nativePixels, never, testPixels, transcoded } from './support.ts'

test('mutated pixel data of every syntax decodes to something or fails with an error of ours', async t => {
  const files = openCorpus(t)
  if (files === undefined) return
  const pixels = await testPixels(t)
  const random = generator(20_260_102)
  const picked = new Map<string, number>()
  let failed = 0

  for (const file of files) {
    const uid = transferSyntaxUids[file.transferSyntax] ?? ''
    const count = picked.get(uid) ?? 0
    if (!transferSyntax(uid)?.encapsulated || file.isMalformed || (count >= 2 && !isSoak)) continue
    const bytes = await file.bytes()
    if (bytes.length > 400_000 && !isSoak) continue
    picked.set(uid, count + 1)
    const { pixels: found } = await readPixelLayout(bufferSource(bytes))
    const fragments = found?.fragments ?? []
    for (let round = 0; round < (isSoak ? 40 : 3); round++) {
      const mutated = Buffer.from(bytes)
      for (const { offset, length } of fragments.slice(0, 3)) mutate(mutated, offset, length, round, random)
      const outcome = await transcoded(pixels, mutated, uid, explicitVrLittleEndian).catch((error: unknown) => error)
      if (outcome instanceof Buffer) continue
      assert.ok(outcome instanceof GatewayError, `${file.name} ${round}: ${String(outcome)}`)
      failed++
    }
  }

  assert.ok(failed > 5, `${failed} failed`)
  await assertWorks(pixels)
})

test('malformed files of the corpus are transcoded or refused', async t => {
  const files = openCorpus(t)
  if (files === undefined) return
  const pixels = await testPixels(t)

  for (const file of files.filter(({ isMalformed }) => isMalformed)) {
    const bytes = await file.bytes()
    for (const from of new Set([transferSyntaxUids[file.transferSyntax] ?? '', '1.2.840.10008.1.2.4.90'])) {
      if (!canTranscode(from, explicitVrLittleEndian)) continue
      const outcome = await transcoded(pixels, bytes, from, explicitVrLittleEndian).catch((error: unknown) => error)
      assert.ok(outcome instanceof Buffer || outcome instanceof GatewayError, `${file.name}: ${String(outcome)}`)
    }
  }
})

test('a code stream that claims to be larger than its data set says is not given memory', async t => {
  const pixels = await testPixels(t)
  const image = buildInstance({ rows: 32, cols: 32 })
  for (const syntax of ['1.2.840.10008.1.2.4.80', '1.2.840.10008.1.2.4.90', '1.2.840.10008.1.2.4.70']) {
    const bytes = await transcoded(pixels, image.bytes, explicitVrLittleEndian, syntax)
    const { pixels: found } = await readPixelLayout(bufferSource(bytes))
    const at = found?.fragments?.[0]?.offset ?? 0
    const header = bytes.subarray(at, at + 200)
    const size = header.indexOf(syntax.endsWith('90') ? Buffer.of(0, 0, 0, 32, 0, 0, 0, 32) : Buffer.of(0, 32, 0, 32))
    assert.ok(size > 0)
    header.fill(0x7f, size, size + (syntax.endsWith('90') ? 8 : 4))

    await assert.rejects(transcoded(pixels, bytes, syntax, explicitVrLittleEndian), isUnreadable, syntax)
  }
  await assertWorks(pixels)
})

test('more frames than there are pixels for are refused before anything is made for them', async t => {
  const pixels = await testPixels(t)
  const frames = { tag: 0x00280008, value: 2_147_483_647 }
  const { bytes } = buildInstance({ extra: [frames] })
  const rle = await transcoded(pixels, buildInstance().bytes, explicitVrLittleEndian, '1.2.840.10008.1.2.5')
  const claiming = await gather(spliceEdits(bufferSource(rle), [{ set: frames }]))
  const isRefused = (error: unknown): boolean => isGatewayError(error, 'DICOM_UNREADABLE')

  for (const to of ['1.2.840.10008.1.2.5', '1.2.840.10008.1.2.4.80']) {
    await assert.rejects(transcoded(pixels, bytes, explicitVrLittleEndian, to), isRefused)
  }
  await assert.rejects(transcoded(pixels, claiming, '1.2.840.10008.1.2.5', explicitVrLittleEndian), isRefused)
})

test('a frame beyond its deadline fails, and its thread is replaced', async t => {
  const large = buildInstance({ rows: 5_000, cols: 5_000 }).bytes
  const slow = await testPixels(t, { frameDeadlineMs: 500, threads: 1 })
  const small = await transcoded(
    await testPixels(t),
    buildInstance().bytes,
    explicitVrLittleEndian,
    '1.2.840.10008.1.2.5',
  )

  await assert.rejects(
    slow.transcode(bufferSource(large), explicitVrLittleEndian, '1.2.840.10008.1.2.4.90', never),
    isUnreadable,
  )
  // A busy machine may not start the next thread within the short deadline either.
  let decoded: Buffer | undefined
  await until('the next frame is decoded', 60_000, async () => {
    decoded = await transcoded(slow, small, '1.2.840.10008.1.2.5', explicitVrLittleEndian).catch(() => undefined)
    return decoded !== undefined
  })

  assert.ok(decoded)
  assert.deepEqual(await nativePixels(decoded), await nativePixels(buildInstance().bytes))
})

for (const [when, event] of [
  ['starting', 'online'],
  ['working', 'message'],
])
  test(`a codec thread that dies while it is ${when} fails its object only, and is replaced`, async t => {
    const started = Promise.withResolvers<Worker>()
    const onWorker = (worker: Worker): void => started.resolve(worker)
    process.once('worker', onWorker)
    t.after(() => process.off('worker', onWorker))
    const pixels = await testPixels(t, { threads: 1, frameDeadlineMs: 10_000 })
    const image = buildInstance({ rows: 3_000, cols: 3_000 })
    const running = pixels.transcode(bufferSource(image.bytes), explicitVrLittleEndian, '1.2.840.10008.1.2.4.90', never)
    const outcome = assert.rejects(running, isUnreadable)
    const worker = await started.promise
    await once(worker, event ?? '')
    await worker.terminate()

    await outcome
    await assertWorks(pixels)
  })

test('a transcoding that is no longer wanted ends with the reason, and the threads go on', async t => {
  const pixels = await testPixels(t)
  const wanted = new AbortController()
  const image = buildInstance({ rows: 1_500, cols: 1_500, frames: 6 })
  const running = pixels.transcode(
    bufferSource(image.bytes),
    explicitVrLittleEndian,
    '1.2.840.10008.1.2.4.90',
    wanted.signal,
  )
  wanted.abort(new Error('the association is gone'))

  await assert.rejects(running, /the association is gone/)
  await assertWorks(pixels)
})

test('what is still running when the pixels are closed is refused', async t => {
  const pixels = await testPixels(t)
  const image = buildInstance({ rows: 1_500, cols: 1_500, frames: 6 })
  const running = pixels.transcode(bufferSource(image.bytes), explicitVrLittleEndian, '1.2.840.10008.1.2.4.90', never)
  const outcome = assert.rejects(running, error => isGatewayError(error, 'UNAVAILABLE'))
  await pixels.close()

  await outcome
})

const isUnreadable = (error: unknown): boolean => isGatewayError(error, 'PIXELS_UNREADABLE')

async function assertWorks(pixels: Awaited<ReturnType<typeof testPixels>>): Promise<void> {
  const { bytes } = buildInstance({ seed: 9 })
  for (const syntax of ['1.2.840.10008.1.2.4.80', '1.2.840.10008.1.2.4.201']) {
    const there = await transcoded(pixels, bytes, explicitVrLittleEndian, syntax)
    const back = await transcoded(pixels, there, syntax, explicitVrLittleEndian)
    assert.deepEqual(await nativePixels(back), await nativePixels(bytes))
  }
}

/** Flips bits, overwrites or blanks ranges, cuts the end: more of it with each round. */
function mutate(bytes: Buffer, offset: number, length: number, round: number, random: () => number): void {
  if (length < 16) return
  const place = (): number => offset + Math.floor(random() * length)
  for (let i = 0; i <= round; i++) bytes[place()] = Math.floor(random() * 256)
  if (round % 3 === 1) bytes.fill(round % 2 === 0 ? 0 : 0xff, place(), offset + length)
  if (round % 3 === 2)
    for (let i = 0; i < 4; i++) bytes[offset + Math.floor(random() * 64)] = Math.floor(random() * 256)
}

function generator(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}
