/** Real files through the codecs: samples against the digests of the manifest, data sets against the originals. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Element } from '../../gateway/dicom/dataset.ts'
import { isPrivateTag, type Tag } from '../../gateway/dicom/tag.ts'
import {
  deflatedExplicitVrLittleEndian,
  explicitVrBigEndian,
  explicitVrLittleEndian,
  implicitVrLittleEndian,
} from '../../gateway/dicom/uid.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import type { Pixels } from '../../gateway/pixels/pixels.ts'
import { canTranscode } from '../../gateway/pixels/syntaxes.ts'
import { type CorpusFile, openCorpus, transferSyntaxUids } from '../support/corpus.ts'
import { flatElements, isSoak, manifestDigest, nativePixels, testPixels, transcoded } from './support.ts'

const uidOf = (file: CorpusFile): string => transferSyntaxUids[file.transferSyntax] ?? ''

/** A fixed share of the files, all of them in the long runs; of the rarer syntaxes always some. */
function shareOf(files: readonly CorpusFile[], every: number): CorpusFile[] {
  const seen = new Map<string, number>()
  return files.filter(({ isMalformed, transferSyntax }) => {
    if (isMalformed) return false
    const count = seen.get(transferSyntax) ?? 0
    seen.set(transferSyntax, count + 1)
    return isSoak || count % every === 0
  })
}

/** The file in Explicit VR Little Endian; undefined where that is refused as not supported. */
async function explicit(pixels: Pixels, file: CorpusFile): Promise<Buffer | undefined> {
  const bytes = await file.bytes()
  if (uidOf(file) === explicitVrLittleEndian) return bytes
  if (!canTranscode(uidOf(file), explicitVrLittleEndian)) return undefined
  return transcoded(pixels, bytes, uidOf(file), explicitVrLittleEndian)
}

/**
 * Two versions of one file whose 8-bit samples have VR OW in big endian: the first was written without the swap of
 * PS3.5 §6.2, and the reader behind the manifest did not swap either.
 */
const swappedBytes: ReadonlyMap<string, string> = new Map([
  ['transfer-syntaxes/ExplicitBE/dicom-test-files__OBXXXX1A_expb.dcm', 'db744ef15b51bd34:uint8'],
  ['transfer-syntaxes/ExplicitBE/pydicom-data__OBXXXX1A_expb.dcm', '48abdc16b5064b61:uint8'],
])

test('every file has the samples of the manifest after transcoding to Explicit VR Little Endian', async t => {
  const files = openCorpus(t)
  if (files === undefined) return
  const pixels = await testPixels(t)
  let compared = 0

  for (const file of shareOf(files, 8)) {
    if (!file.pixelSha256.includes(':')) continue
    const bytes = await explicit(pixels, file)
    const samples = bytes && (await nativePixels(bytes))
    if (bytes === undefined || samples === undefined) continue

    const expected = swappedBytes.get(file.name) ?? file.pixelSha256
    assert.equal(manifestDigest(samples, file), expected, file.name)
    compared++
  }

  assert.ok(compared > 40, `${compared} compared`)
})

test('from one native syntax to another and back every element keeps its value', async t => {
  const files = openCorpus(t)
  if (files === undefined) return
  const pixels = await testPixels(t)
  const native = [implicitVrLittleEndian, explicitVrLittleEndian, explicitVrBigEndian, deflatedExplicitVrLittleEndian]

  for (const file of shareOf(files, 12)) {
    if (!native.includes(uidOf(file))) continue
    const bytes = await explicit(pixels, file)
    assert.ok(bytes, file.name)
    for (const to of [implicitVrLittleEndian, explicitVrBigEndian]) {
      // Implicit VR does not tell private sequences from other private values.
      const isLeftOut = ({ tag, items }: Element): boolean =>
        to === implicitVrLittleEndian && (items !== undefined ? isPrivateTag(tag) : privates.has(tag))
      const privates = await privateSequences(bytes)
      const elements = await flatElements(bytes, isLeftOut)
      const there: Buffer | undefined = await transcoded(pixels, bytes, explicitVrLittleEndian, to).catch(refused)
      if (there === undefined) continue
      const back = await transcoded(pixels, there, to, explicitVrLittleEndian)
      assert.deepEqual(await flatElements(there, isLeftOut), elements, `${file.name} in ${to}`)
      assert.deepEqual(await flatElements(back, isLeftOut), elements, `${file.name} by ${to}`)
    }
  }
})

/** The tags of private sequences. */
async function privateSequences(bytes: Uint8Array): Promise<Set<Tag>> {
  const found = new Set<Tag>()
  await flatElements(bytes, ({ tag, items }) => {
    if (items !== undefined && isPrivateTag(tag)) found.add(tag)
    return false
  })
  return found
}

function refused(error: unknown): undefined {
  if (!isGatewayError(error, 'TRANSCODE_UNSUPPORTED')) throw error
}
