/** Arbitrary data sets as DICOM JSON in the form that `toJson` gives, for properties. */
import fc from 'fast-check'

type Json = Record<string, unknown>

const text = fc.stringMatching(/^[A-Za-z0-9éß山][A-Za-z0-9éß山 ]{0,14}[A-Za-z0-9é]$/)
const code = fc.stringMatching(/^[A-Z][A-Z0-9_]{0,14}$/)

const element = (vr: string, value: fc.Arbitrary<unknown>, max = 3): fc.Arbitrary<Json> =>
  fc.array(value, { maxLength: max }).map(values => (values.length === 0 ? { vr } : { vr, Value: values }))

const binary = (vr: string): fc.Arbitrary<Json> =>
  fc
    .uint8Array({ maxLength: 40 })
    .map(bytes => Buffer.from(bytes.subarray(0, bytes.length & ~7)))
    .map(bytes => (bytes.length === 0 ? { vr } : { vr, InlineBinary: bytes.toString('base64') }))

/** Some attributes of each kind of VR; tags are real, so that implicit VR finds them in the dictionary. */
const attributes: Readonly<Record<string, fc.Arbitrary<Json>>> = {
  '00080008': element('CS', code),
  '00080018': element('UI', fc.constantFrom('1.2.3', '1.2.840.10008.1.2', '2.25.1'), 1),
  '00080020': element('DA', fc.constantFrom('20260102', '19700101'), 1),
  '00080050': element('SH', text, 1),
  '00081030': element('LO', text),
  '00100010': element(
    'PN',
    fc.record({ Alphabetic: text, Ideographic: text }, { requiredKeys: ['Alphabetic'], noNullPrototype: true }),
    1,
  ),
  '00101010': element('AS', fc.constantFrom('045Y', '003M'), 1),
  '00180050': element('DS', fc.integer({ min: -99_999, max: 99_999 })),
  '00186060': element('FL', fc.float({ noNaN: true, noDefaultInfinity: true }).map(noMinusZero)),
  '00187024': element('CS', code, 1),
  '00189073': element('FD', fc.double({ noNaN: true, noDefaultInfinity: true }).map(noMinusZero)),
  '00200013': element('IS', fc.integer({ min: -2_147_483_648, max: 2_147_483_647 }), 1),
  '00204000': element('LT', text, 1),
  '00280009': element('AT', fc.constantFrom('00181063', '0008103E')),
  '00280010': element('US', fc.integer({ min: 0, max: 65_535 }), 1),
  '00281201': binary('OW'),
  '00189219': element('SS', fc.integer({ min: -32_768, max: 32_767 })),
  '00420011': binary('OB'),
  '00660022': binary('OD'),
  '00660016': binary('OF'),
  '00660040': binary('OL'),
  '00041200': element('UL', fc.integer({ min: 0, max: 4_294_967_295 })),
  '00720082': element('SV', fc.integer()),
  '0008040C': element('UV', fc.maxSafeNat()),
}

function noMinusZero(number: number): number {
  return number === 0 ? 0 : number
}

/** Data sets of up to three levels, with UTF-8 at the top. */
export function datasets(): fc.Arbitrary<Json> {
  return level(2).map(json => sorted({ '00080005': { vr: 'CS', Value: ['ISO_IR 192'] }, ...json }))
}

function level(depth: number): fc.Arbitrary<Json> {
  const flat = fc.record(attributes, { requiredKeys: [] })
  if (depth === 0) return flat.map(sorted)
  const sequence = fc
    .array(level(depth - 1), { maxLength: 2 })
    .map(items => (items.length === 0 ? { vr: 'SQ' } : { vr: 'SQ', Value: items }))
  const nested = fc.record({ '00081140': sequence, '00321064': sequence }, { requiredKeys: [] })
  return fc.tuple(flat, nested).map(([own, sequences]) => sorted({ ...own, ...sequences }))
}

function sorted(json: object): Json {
  return Object.fromEntries(Object.entries(json).sort(([a], [b]) => (a < b ? -1 : 1)))
}
