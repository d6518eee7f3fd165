import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { isIso9660, isoFileSource, isoFiles } from '../../gateway/dicom/iso9660.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { isoImage } from '../support/iso-image.ts'

const files = Object.fromEntries(
  Array.from({ length: 150 }, (_, i) => [`DICOM/ST${i % 3}/IM${i}`, Buffer.from(`TEST ${i} `.repeat(i * 7))]),
)

for (const names of ['plain', 'joliet', 'rock-ridge'] as const) {
  test(`files and folders of a disc are read (${names})`, async () => {
    const source = bufferSource(isoImage(files, names))
    const found = new Map<string, Buffer>()

    for await (const file of isoFiles(source)) {
      found.set(file.path, Buffer.from(await isoFileSource(source, file).read(0, file.sizeBytes + 10)))
    }

    assert.equal(await isIso9660(source), true)
    assert.deepEqual([...found.keys()].sort(), Object.keys(files).sort())
    for (const [path, bytes] of Object.entries(files)) assert.ok(found.get(path)?.equals(bytes), path)
  })
}

test('a disc that is damaged or leads in circles comes to an end', async () => {
  const image = isoImage(files)
  for (let seed = 1; seed < 300; seed++) {
    const broken = Buffer.from(image.subarray(0, image.length - (seed % 5) * 4000))
    let state = seed
    for (let i = 0; i < 40; i++) {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      broken[state % broken.length] = state >>> 24
    }
    const source = bufferSource(broken)
    try {
      for await (const file of isoFiles(source)) assert.doesNotMatch(file.path, /(^|\/)\.\.(\/|$)/)
    } catch (error) {
      assert.ok(isGatewayError(error), String(error))
    }
  }
})
