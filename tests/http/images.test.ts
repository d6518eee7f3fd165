import assert from 'node:assert/strict'
import { test } from 'node:test'
import { gunzipSync } from 'node:zlib'
import sharp from 'sharp'
import type { NewElement } from '../../gateway/dicom/part10-writer.ts'
import { openCorpus } from '../support/corpus.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { imageApp } from './image-app.ts'
import type { StoreApp } from './store-app.ts'

interface Answer {
  readonly status: number
  readonly type: unknown
  readonly bytes: Buffer
}

async function call({ app }: StoreApp, url: string, accept?: string): Promise<Answer> {
  const answer = await app.inject({ url, headers: { host: 'localhost', ...(accept !== undefined && { accept }) } })
  return { status: answer.statusCode, type: answer.headers['content-type'], bytes: answer.rawPayload }
}

async function stored(store: StoreApp, bytes: Uint8Array): Promise<string> {
  return String((await store.upload(bytes)).body['ID'])
}

/** A grey image of two rows and two columns, with what is given in place. */
function tiny(samples: readonly number[], extra: readonly NewElement[] = [], seed = 1): Uint8Array {
  const pixels = { tag: 0x7fe00010, vr: 'OW', value: new Uint8Array(Uint16Array.from(samples).buffer) } as const
  return buildInstance({ rows: 2, cols: 2, seed, extra: [pixels, ...extra] }).bytes
}

/** The samples of a map. */
async function map(store: StoreApp, url: string): Promise<number[]> {
  const { bytes, status } = await call(store, url, 'image/x-portable-arbitrarymap')
  assert.equal(status, 200)
  return [...bytes.subarray(bytes.indexOf('ENDHDR\n') + 7)]
}

test('PNG, JPEG and PAM hold the same picture; Accept chooses among them', async t => {
  const store = await imageApp(t)
  const url = `/instances/${await stored(store, buildInstance().bytes)}/preview`

  const png = await call(store, url)
  const jpeg = await call(store, `${url}?quality=95`, 'text/html;q=0.9, image/jpeg, */*;q=0.1')
  const none = await call(store, url, 'image/webp')
  const expected = Buffer.from(await map(store, url))

  assert.deepEqual([png.type, jpeg.type, none.status], ['image/png', 'image/jpeg', 406])
  assert.ok((await sharp(png.bytes).toColourspace('b-w').raw().toBuffer()).equals(expected))
  const decoded = await sharp(jpeg.bytes).toColourspace('b-w').raw().toBuffer()
  const errors = decoded.map((value, i) => Math.abs(value - (expected[i] ?? 0)))
  assert.ok(errors.reduce((sum, error) => sum + error, 0) / errors.length < 4)
})

test('a preview stretches what is there, and MONOCHROME1 turns it round', async t => {
  const store = await imageApp(t)
  const first = await stored(store, tiny([100, 200, 300, 400]))
  const inverse = await stored(store, tiny([100, 200, 300, 400], [{ tag: 0x00280004, value: 'MONOCHROME1' }], 2))

  assert.deepEqual(await map(store, `/instances/${first}/preview`), [0, 85, 170, 255])
  assert.deepEqual(await map(store, `/instances/${inverse}/preview`), [255, 170, 85, 0])
  assert.deepEqual(await map(store, `/instances/${first}/image-uint8`), [100, 200, 255, 255])
  assert.deepEqual(await map(store, `/instances/${first}/image-uint16`), [0, 100, 0, 200, 1, 44, 1, 144])
})

test('a rendered frame follows rescaling and window, or tables, and what the caller asks for', async t => {
  const store = await imageApp(t)
  const window: NewElement[] = [
    { tag: 0x00281050, value: ['0', '50'] },
    { tag: 0x00281051, value: ['200', '10'] },
    { tag: 0x00281052, value: '-200' },
    { tag: 0x00281053, value: '1' },
  ]
  const windowed = await stored(store, tiny([100, 200, 300, 400], window))
  const table: NewElement = {
    tag: 0x00283010,
    items: [
      [
        { tag: 0x00283002, vr: 'US', value: [4, 100, 8] },
        { tag: 0x00283006, vr: 'US', value: [0, 10, 20, 30] },
      ],
    ],
  }
  const byTable = await stored(store, tiny([100, 101, 102, 400], [table], 2))

  assert.deepEqual(await map(store, `/instances/${windowed}/rendered`), [0, 127, 255, 255])
  assert.deepEqual(
    await map(store, `/instances/${windowed}/rendered?window-center=200&window-width=1`),
    [0, 0, 0, 127].map((value, i) => (i === 3 ? 127 : value)),
  )
  assert.deepEqual(await map(store, `/instances/${byTable}/rendered`), [0, 10, 20, 30])
})

test('a rendered frame fits into the size that is asked for', async t => {
  const store = await imageApp(t)
  const url = `/instances/${await stored(store, buildInstance({ rows: 40, cols: 80 }).bytes)}/rendered`
  const size = async (query: string): Promise<(number | undefined)[]> => {
    const { width, height } = await sharp((await call(store, `${url}?${query}`)).bytes).metadata()
    return [width, height]
  }

  assert.deepEqual(await size('width=40'), [40, 20])
  assert.deepEqual(await size('width=40&height=10&smooth=1'), [20, 10])
  assert.deepEqual(await size('height=80'), [160, 80])
  assert.equal((await call(store, `${url}?width=1000000`)).status, 400)
  assert.equal((await call(store, `${url}?window-width=-1`)).status, 400)
})

test('frames are told, read as they are stored, and as numbers', async t => {
  const store = await imageApp(t)
  const built = buildInstance({ rows: 4, cols: 4, frames: 3 })
  const url = `/instances/${await stored(store, built.bytes)}`
  const pixels = built.bytes.subarray(built.bytes.length - 96)

  const raw = await call(store, `${url}/frames/2/raw`)
  const gz = await call(store, `${url}/frames/1/raw.gz`)
  const numpy = await call(store, `${url}/numpy?rescale=0`)
  const matlab = await call(store, `${url}/frames/0/matlab`)

  assert.deepEqual(JSON.parse((await call(store, `${url}/frames`)).bytes.toString()), [0, 1, 2])
  assert.ok(raw.bytes.equals(pixels.subarray(64)))
  assert.ok(gunzipSync(gz.bytes).equals(pixels.subarray(32, 64)))
  assert.match(numpy.bytes.toString('latin1'), /^\x93NUMPY.*'<u2'.*\(3, 4,4,1\)/s)
  assert.ok(numpy.bytes.subarray(128).equals(pixels))
  assert.match(matlab.bytes.toString(), /^double\(\[ \d+( \d+){3} ; /)
  assert.equal((await call(store, `${url}/frames/3/preview`)).status, 404)
  assert.equal((await call(store, `${url}/frames/-1/preview`)).status, 400)
})

test('what is no image is refused, or a blank one where that is asked for', async t => {
  const store = await imageApp(t)
  const pdf = Buffer.from('%PDF-1.4 TEST')
  const extra: NewElement[] = [
    { tag: 0x00280010, value: 0 },
    { tag: 0x00280011, value: 0 },
    { tag: 0x7fe00010, vr: 'OW', value: new Uint8Array(0) },
    { tag: 0x00420011, vr: 'OB', value: pdf },
    { tag: 0x00420012, value: 'application/pdf' },
  ]
  const url = `/instances/${await stored(store, buildInstance({ extra }).bytes)}`
  const image = `/instances/${await stored(store, buildInstance({ seed: 2 }).bytes)}`

  assert.equal((await call(store, `${url}/preview`)).status, 415)
  assert.equal((await call(store, `${url}/preview?returnUnsupportedImage`)).type, 'image/png')
  assert.equal((await call(store, '/instances/nope/preview')).status, 404)
  assert.equal((await call(store, `${url}/pdf`)).bytes.toString(), pdf.toString())
  assert.equal((await call(store, `${image}/pdf`)).status, 404)
})

test('sizes that the pixel data does not bear out cost nothing', async t => {
  const store = await imageApp(t)
  const huge: NewElement[] = [
    { tag: 0x00280010, value: 65_535 },
    { tag: 0x00280011, value: 65_535 },
  ]
  const url = `/instances/${await stored(store, tiny([1, 2, 3, 4], huge))}`

  const answer = await call(store, `${url}/preview`)

  assert.ok([413, 415].includes(answer.status), `${answer.status}`)
})

test('every image of the collection that can be decoded can be shown', async t => {
  const corpus = openCorpus(t)
  if (corpus === undefined) return
  const store = await imageApp(t)
  const seen = new Set<string>()
  const refused: string[] = []
  for (const file of corpus) {
    const kind = `${file.transferSyntax} ${file.photometric}`
    if (!file.name.startsWith('transfer-syntaxes/') || seen.has(kind)) continue
    const bytes = await file.bytes()
    if (bytes.length > 400_000) continue
    const { status, body } = await store.upload(bytes)
    if (status !== 200) continue
    seen.add(kind)
    const answer = await call(store, `/instances/${body['ID']}/preview`)
    if (answer.status !== 200) refused.push(`${file.name} ${answer.status}`)
    else assert.equal((await sharp(answer.bytes).metadata()).width, Number(file.cols), file.name)
  }

  assert.ok(seen.size > 20, `${seen.size}`)
  assert.deepEqual(refused, [])
})
