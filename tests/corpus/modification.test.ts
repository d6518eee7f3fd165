import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { toJson } from '../../gateway/dicom/json.ts'
import { type Modification, planModification } from '../../gateway/dicom/modification.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { spliceEdits } from '../../gateway/dicom/part10-splice.ts'
import { readTagPath } from '../../gateway/dicom/tag-path.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { type CorpusFile, openCorpus } from '../support/corpus.ts'

/** Not malformed, and not a directory whose last item claims to be longer than the file. */
const isSound = ({ isMalformed, name }: CorpusFile): boolean => !isMalformed && !name.endsWith('DICOMDIR-nooffset')

const nothing: Modification = { remove: [], replace: [], removePrivateTags: false }
const modify = async (bytes: Uint8Array, wanted: Modification): Promise<Buffer> => {
  const { edits, isRecoded } = await planModification(bufferSource(bytes), wanted)
  const chunks = []
  for await (const chunk of spliceEdits(bufferSource(bytes), edits, isRecoded ? 'recoded' : 'kept')) chunks.push(chunk)
  return Buffer.concat(chunks)
}
const json = async (bytes: Uint8Array) => toJson((await readPart10(bufferSource(bytes))).dataset, { decimals: 'text' })

type Json = Awaited<ReturnType<typeof json>>
/** JSON is UTF-8 whatever the file is; items say their character set only where it is another. */
const withoutCharset = (dataset: Json): Json =>
  Object.fromEntries(
    Object.entries(dataset)
      .filter(([tag]) => tag !== '00080005')
      .map(([tag, element]) => [
        tag,
        element.vr === 'SQ' && element.Value
          ? { ...element, Value: element.Value.map(item => withoutCharset(Object(item))) }
          : element,
      ]),
  )

test('a name that the character set lacks changes no other value of any file of the collection', async t => {
  const files = openCorpus(t)
  if (!files) return
  const name = 'TEST^山田=Ünï=çж'
  const wanted = { ...nothing, replace: [{ path: readTagPath('PatientName'), value: name }] }
  let compared = 0

  for (const file of files) {
    const bytes = await file.bytes()
    const before = await json(bytes).catch(() => undefined)
    // What cannot be read is not stored, and what its declared character set does not define has no UTF-8.
    if (!before || !isSound(file)) continue
    const after = await modify(bytes, wanted).then(json, (error: unknown) => {
      assert.ok(isGatewayError(error, 'BAD_REQUEST') || isGatewayError(error, 'DICOM_LIMIT'), `${file.name}: ${error}`)
      return undefined
    })
    if (!after) continue
    compared++
    const rest = ({ '00100010': _, ...other }: Json) => withoutCharset(other)
    assert.deepEqual(rest(after), rest(before), file.name)
    assert.deepEqual(
      after['00100010']?.Value,
      [{ Alphabetic: 'TEST^山田', Ideographic: 'Ünï', Phonetic: 'çж' }],
      file.name,
    )
  }
  assert.ok(compared > files.length * 0.9, `${compared} of ${files.length}`)
})

test('private elements are removed at every depth of every file, and nothing else', async t => {
  const files = openCorpus(t)
  if (!files) return
  const publicOnly = (dataset: Json): Json =>
    Object.fromEntries(
      Object.entries(dataset)
        .filter(([tag]) => Number.parseInt(tag.slice(0, 4), 16) % 2 === 0)
        .map(([tag, element]) => [
          tag,
          element.vr === 'SQ' && element.Value
            ? { ...element, Value: element.Value.map(item => publicOnly(Object(item))) }
            : element,
        ]),
    )

  for (const file of files) {
    const bytes = await file.bytes()
    const before = await json(bytes).catch(() => undefined)
    if (!before || !isSound(file)) continue
    assert.deepEqual(
      await json(await modify(bytes, { ...nothing, removePrivateTags: true })),
      publicOnly(before),
      file.name,
    )
  }
})
