import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { type Dataset, findElement, stringOf } from '../../gateway/dicom/dataset.ts'
import { fromJson, toJson } from '../../gateway/dicom/json.ts'
import { type Part10, readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { type Edit, spliceEdits } from '../../gateway/dicom/part10-splice.ts'
import { encodeDataset, fileMeta } from '../../gateway/dicom/part10-writer.ts'
import { explicitVrLittleEndian } from '../../gateway/dicom/uid.ts'
import { gather } from '../support/bytes.ts'
import { type CorpusFile, openCorpus } from '../support/corpus.ts'

/** Not malformed, and not a directory whose last item claims to be longer than the file. */
const isSound = ({ isMalformed, name }: CorpusFile): boolean => !isMalformed && !name.endsWith('DICOMDIR-nooffset')

test('a splice without edits is the identity on bytes', async t => {
  const files = openCorpus(t)
  if (files === undefined) return

  for (const file of files) {
    const bytes = await file.bytes()
    assert.ok(bytes.equals(await gather(spliceEdits(bufferSource(bytes), []))), file.name)
  }
})

test('an inserted private element can be removed again, and everything else keeps its bytes', async t => {
  const files = openCorpus(t)
  if (files === undefined) return

  for (const file of files.filter(isSound)) {
    const bytes = await file.bytes()
    const { isDeflated, dataset } = await readPart10(bufferSource(bytes))
    const tag = 0x00091001
    if (isDeflated || findElement(dataset, tag) !== undefined) continue

    const edited = await gather(spliceEdits(bufferSource(bytes), [{ set: { tag, vr: 'LO', value: 'HANSE' } }]))
    const undone = await gather(spliceEdits(bufferSource(edited), [{ remove: tag }]))

    const reread = await readPart10(bufferSource(edited))
    assert.equal(reread.dataset.elements.length, dataset.elements.length + 1, file.name)
    assert.ok(undone.equals(bytes), file.name)
  }
})

test('an edit inside every first item of every sequence changes nothing else', async t => {
  const files = openCorpus(t)
  if (files === undefined) return
  let nested = 0

  for (const file of files.filter(isSound)) {
    const bytes = await file.bytes()
    const original = await readPart10(bufferSource(bytes))
    const tag = 0x00091001
    const edits = nestedPlaces(original.dataset, [], tag).map(
      (within): Edit => ({ within, set: { tag, vr: 'LO', value: 'HANSE' } }),
    )
    if (edits.length === 0) continue
    nested += edits.length

    const edited = await gather(spliceEdits(bufferSource(bytes), edits))
    const removals = edits.map((edit): Edit => ({ within: edit.within ?? [], remove: tag }))
    const undone = await gather(spliceEdits(bufferSource(edited), removals))

    const [before, after] = [count(original.dataset), count((await readPart10(bufferSource(edited))).dataset)]
    assert.equal(after, before + edits.length, file.name)
    if (original.isDeflated) {
      assert.deepEqual(toJson((await readPart10(bufferSource(undone))).dataset), toJson(original.dataset), file.name)
    } else assert.ok(undone.equals(bytes), file.name)
  }
  assert.ok(nested > 1000, `${nested} nested edits`)
})

test('a replaced Patient ID is read back, in file meta and data set alike', async t => {
  const files = openCorpus(t)
  if (files === undefined) return

  for (const file of files.filter(isSound)) {
    const bytes = await file.bytes()
    const edits: Edit[] = [{ set: { tag: 0x00100020, value: 'TEST-REPLACED' } }, { remove: 0x00020016 }]
    const original = await readPart10(bufferSource(bytes))

    const read = await readPart10(bufferSource(await gather(spliceEdits(bufferSource(bytes), edits))))

    assert.equal(stringOf(read.dataset, 0x00100020), 'TEST-REPLACED', file.name)
    assert.equal(stringOf(read.meta, 0x00020016), undefined, file.name)
    assert.deepEqual(without(read, 0x00100020), without(original, 0x00100020), file.name)
  }
})

test('DICOM JSON survives text, JSON, a written data set and the way back', async t => {
  const files = openCorpus(t)
  if (files === undefined) return

  for (const file of files.filter(isSound)) {
    const { dataset } = await readPart10(bufferSource(await file.bytes()), { maxValueBytes: 4096 })
    const json = toJson(dataset, { decimals: 'text' })
    const utf8 = { ...json, '00080005': { vr: 'CS', Value: ['ISO_IR 192'] } }

    const text = JSON.stringify(utf8)
    const meta = fileMeta({ sopClassUid: '1.2', sopInstanceUid: '1.3', transferSyntaxUid: explicitVrLittleEndian })
    const written = Buffer.concat([meta, encodeDataset(fromJson(JSON.parse(text)), explicitVrLittleEndian)])
    const again = toJson((await readPart10(bufferSource(written))).dataset, { decimals: 'text' })

    assert.deepEqual(normal(again), normal(JSON.parse(text)), file.name)
  }
})

function count(dataset: Dataset): number {
  let total = 0
  for (const { items } of dataset.elements) total += 1 + (items ?? []).reduce((sum, item) => sum + count(item), 0)
  return total
}

/** The first item of each sequence that does not hold the tag. */
function nestedPlaces(dataset: Dataset, within: readonly number[], tag: number): number[][] {
  return dataset.elements.flatMap(({ tag: sequence, items }) => {
    const [item] = items ?? []
    if (item === undefined || findElement(item, tag) !== undefined) return []
    const place = [...within, sequence, 0]
    return [place, ...nestedPlaces(item, place, tag)]
  })
}

function without({ dataset }: Part10, tag: number): unknown {
  const json: Record<string, unknown> = { ...toJson(dataset) }
  delete json[tag.toString(16).toUpperCase().padStart(8, '0')]
  return json
}

/** Ascending keys, and values of odd length padded as they are when written. */
function normal(json: unknown): unknown {
  if (Array.isArray(json)) return json.map(normal)
  if (typeof json !== 'object' || json === null) return json
  return Object.fromEntries(
    Object.entries(json)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, value]) => [key, key === 'InlineBinary' ? evenBase64(value) : normal(value)]),
  )
}

function evenBase64(text: string): string {
  const bytes = Buffer.from(text, 'base64')
  return (bytes.length % 2 === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(1)])).toString('base64')
}
