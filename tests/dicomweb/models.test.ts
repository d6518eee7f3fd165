/** DICOM JSON and the Native DICOM Model in XML, there and back. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { type DicomJson, fromJson, toJson } from '../../gateway/dicom/json.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { encodeDataset } from '../../gateway/dicom/part10-writer.ts'
import { explicitVrLittleEndian } from '../../gateway/dicom/uid.ts'
import { toXml } from '../../gateway/dicom/xml.ts'
import { fromXml } from '../../gateway/dicom/xml-read.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { openCorpus } from '../support/corpus.ts'

/** What is written from a data set, read again as JSON; text in UTF-8. */
async function rewritten(raw: unknown): Promise<DicomJson> {
  const elements = fromJson(raw).filter(({ tag }) => tag !== 0x00080005)
  const bytes = encodeDataset([...elements, { tag: 0x00080005, value: 'ISO_IR 192' }], explicitVrLittleEndian)
  const { dataset } = await readPart10(bufferSource(bytes))
  return toJson(dataset, { decimals: 'text' })
}

test('the data sets of the collection survive JSON and XML, values and all', async t => {
  const files = openCorpus(t)
  if (!files) return
  let count = 0
  for (const file of files) {
    const bytes = await file.bytes()
    if (file.isMalformed || bytes.length > 2_000_000) continue
    const limits = { maxValueBytes: 65_536, stopBefore: 0x7fe00001 }
    const { dataset } = await readPart10(bufferSource(bytes), limits)
    const json: DicomJson = {
      ...toJson(dataset, { decimals: 'text' }),
      '00080005': { vr: 'CS', Value: ['ISO_IR 192'] },
    }
    const own = await rewritten(json).catch((error: unknown) => {
      // Some files have values that their VR does not allow, or begin with group 1.
      assert.ok(isGatewayError(error), `${file.name}: ${String(error)}`)
      return undefined
    })
    if (!own) continue
    count += 1
    const { '00080005': _, ...kept } = own
    assert.deepEqual(normal(kept), normal(without(json)), file.name)
    assert.deepEqual(await rewritten(fromXml(toXml(json))), own, file.name)
  }
  t.diagnostic(`${count} data sets`)
  assert.ok(count > 300, `${count}`)
})

function without({ '00080005': _, ...rest }: DicomJson): DicomJson {
  return rest
}

/** Elements in the order of their tags; a number is what its text says. */
function normal(raw: unknown): unknown {
  return JSON.parse(
    JSON.stringify(raw, (_key, value: unknown) =>
      typeof value === 'object' && value !== null && !Array.isArray(value)
        ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
        : value,
    ),
  )
}

const text = fc.string({ unit: 'binary', maxLength: 30 }).map(value => value.replace(/[\\\0]/g, ' '))

test('any text survives XML, but for characters that XML has not', () => {
  fc.assert(
    fc.property(fc.array(text, { minLength: 1, maxLength: 4 }), values => {
      const json = { '00104000': { vr: 'UC' as const, Value: values.map(value => value || null) } }
      const kept = (value: string) => [...value.toWellFormed()].map(inXml).join('')
      assert.deepEqual(fromXml(toXml(json)), {
        '00104000': { vr: 'UC', Value: values.map(value => (value === '' ? null : kept(value))) },
      })
    }),
    { numRuns: 500 },
  )
})

/** XML 1.0 §2.2. */
function inXml(character: string): string {
  const code = character.charCodeAt(0)
  const isControl = code < 0x20 && code !== 9 && code !== 10 && code !== 13
  return isControl || code === 0xfffe || code === 0xffff ? '\ufffd' : character
}

test('no document makes the reader hang, crash or grow', () => {
  const token = fc.constantFrom(
    '<NativeDicomModel>',
    '</NativeDicomModel>',
    '<DicomAttribute tag="00100010" vr="PN">',
    '</DicomAttribute>',
    '<PersonName number="1">',
    '</PersonName>',
    '<Value number="2000000000">',
    '</Value>',
    '<Item number="1">',
    '</Item>',
    '<!-- -->',
    '<![CDATA[',
    ']]>',
    '&amp;',
    '&#0;',
    '&#x110000;',
    '<?x?>',
    '<!DOCTYPE a>',
    'text',
    '__proto__',
    '<__proto__ a="b"/>',
  )
  fc.assert(
    fc.property(fc.array(token, { maxLength: 30 }), tokens => {
      try {
        fromXml(tokens.join(''))
      } catch (error) {
        assert.ok(isGatewayError(error, 'BAD_REQUEST'), String(error))
      }
    }),
    { numRuns: 1000 },
  )
  const deep = '<DicomAttribute tag="00081140" vr="SQ"><Item number="1">'.repeat(5000)
  assert.throws(
    () => fromXml(`<NativeDicomModel>${deep}`),
    error => isGatewayError(error, 'BAD_REQUEST'),
  )
})
