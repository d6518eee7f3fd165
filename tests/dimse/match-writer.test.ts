import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isObject } from '../../gateway/decode.ts'
import { fromJson, type JsonElement, tagOfName } from '../../gateway/dicom/json.ts'
import { encodeDataset } from '../../gateway/dicom/part10-writer.ts'
import { isVr } from '../../gateway/dicom/vr.ts'
import { identifierWriter } from '../../gateway/dimse/match-writer.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { datasets } from '../support/arbitrary-dataset.ts'
import { explicitLittleEndian, implicitLittleEndian } from './fixture.ts'

const level = { tag: 0x00080052, value: 'STUDY' }

function isElement(raw: unknown): raw is JsonElement {
  return isObject(raw) && typeof raw['vr'] === 'string' && isVr(raw['vr'])
}

test('an identifier has the bytes that the general writer gives it', () => {
  fc.assert(
    fc.property(
      datasets(),
      fc.constantFrom(explicitLittleEndian, implicitLittleEndian),
      fc.constantFrom<string[]>(['ISO_IR 192'], ['', 'ISO 2022 IR 87'], ['ISO_IR 13']),
      (raw, transferSyntaxUid, terms) => {
        const values: Record<string, JsonElement> = {}
        for (const [name, element] of Object.entries(raw)) {
          if (name !== '00080005' && isElement(element)) values[name] = element
        }
        const variable = Object.entries(values).map(([name, { vr }]) => ({ tag: tagOfName(name), vr }))
        const charset = { tag: 0x00080005, value: terms }
        const expected = attempt(() => encodeDataset([charset, level, ...fromJson(values)], transferSyntaxUid))

        const write = identifierWriter({ fixed: [level], variable, transferSyntaxUid }, terms)

        assert.deepEqual(
          attempt(() => write(values)),
          expected,
        )
      },
    ),
    { numRuns: 300, seed: 20_261_123 },
  )
})

test('what a match lacks is empty, and what cannot be written as well', () => {
  const variable = [
    { tag: 0x00081030, vr: 'LO' },
    { tag: 0x00280010, vr: 'US' },
  ] as const
  const write = identifierWriter({ fixed: [level], variable, transferSyntaxUid: explicitLittleEndian }, [])

  const bytes = write({ '00280010': { vr: 'US', Value: ['many'] } })

  const empty = [level, { tag: 0x00081030, value: '' }, { tag: 0x00280010, value: [] }]
  assert.deepEqual(Buffer.from(bytes), Buffer.from(encodeDataset(empty, explicitLittleEndian)))
})

/** The bytes, or that there are none. */
function attempt(write: () => Uint8Array): Buffer | 'refused' {
  try {
    return Buffer.from(write())
  } catch (error) {
    assert.ok(isGatewayError(error, 'BAD_REQUEST'))
    return 'refused'
  }
}
