import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import fc from 'fast-check'
import Fastify from 'fastify'
import { isGatewayError } from '../../gateway/errors.ts'
import { decodeProfile, profileDigest } from '../../policy/deid/profile.ts'

const read = (path: string): string => readFileSync(new URL(`../../policy/${path}`, import.meta.url), 'utf8')

async function schemaAccepts(): Promise<(value: unknown) => Promise<boolean>> {
  const app = Fastify({
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false, strictTuples: false } },
  })
  app.post('/', { schema: { body: JSON.parse(read('deid/profile.schema.json')) } }, async () => 'ok')
  await app.ready()
  return async value => {
    const headers = { 'content-type': 'application/json' }
    return (await app.inject({ method: 'POST', url: '/', headers, payload: JSON.stringify(value) })).statusCode === 200
  }
}

function decoderAccepts(value: unknown): boolean {
  try {
    decodeProfile(value)
    return true
  } catch (error) {
    assert.ok(isGatewayError(error, 'POLICY_INVALID'))
    return false
  }
}

const odd = fc.constantFrom<unknown>(null, true, 0, -1, '', ' x', 'a\\b', [], {}, ['x'], 'v'.repeat(1001), 1.5)
/** Mostly valid, so that whole documents are valid now and then. */
const mostly = <T>(good: T, ...bad: T[]) =>
  fc.oneof({ weight: 9, arbitrary: fc.constant(good) }, { weight: 1, arbitrary: fc.constantFrom(...bad) })
const reason = mostly('asked for by the board', 'short')
const optional = (field: fc.Arbitrary<unknown>) =>
  fc.oneof({ weight: 40, arbitrary: field }, { weight: 1, arbitrary: odd })
const uid = mostly('1.2.840.10008.5.1.4.1.1.2', '1.02', 'x')

const profile = fc
  .record(
    {
      title: optional(fc.constant('T')),
      options: optional(fc.subarray(['cleanGraphics', 'cleanDescriptors', 'retainUIDs'])),
      overrides: optional(
        fc.array(
          fc.oneof(
            fc.record({
              attribute: fc.constantFrom('StudyDescription', '00081030'),
              action: fc.constantFrom('keep', 'empty'),
              justification: reason,
            }),
            fc.record({
              attribute: fc.constant('InstitutionName'),
              action: fc.constantFrom('replace', 'remove'),
              value: mostly('CENTRE 1', ' x'),
              justification: reason,
            }),
          ),
          { maxLength: 1 },
        ),
      ),
      privateAttributes: optional(
        fc.array(
          fc.record({
            creator: mostly('ACME', ''),
            element: mostly('0019,xx1e', '0018,xx1E', '19,xx'),
            vr: mostly('DS', 'UN'),
            justification: reason,
          }),
          { maxLength: 1 },
        ),
      ),
      scopes: optional(mostly<object>({ uids: 'study-7' }, {}, { uids: ' ' })),
      dates: optional(mostly<object>({ maxDays: 30 }, { minDays: 0, maxDays: 30 }, {})),
      pseudonym: optional(mostly<object>({ kind: 'none', prefix: 'X' }, { kind: 'keyed' }, { kind: 'random' })),
      pixels: optional(
        fc.record(
          {
            trustDeclaredNo: mostly<unknown>(true, 'yes'),
            release: fc.array(fc.record({ sopClassUid: uid, justification: reason }), { maxLength: 1 }),
          },
          { requiredKeys: [] },
        ),
      ),
      sopClasses: optional(fc.record({ only: fc.array(uid, { maxLength: 1 }) }, { requiredKeys: [] })),
      trial: optional(fc.record({ sponsor: mostly('S', 'é'), subject: mostly('id', 'no') }, { requiredKeys: [] })),
      more: mostly<unknown>(1, null),
    },
    { requiredKeys: [] },
  )
  .map(({ more, ...fields }) => ({
    format: 'hanse-deid-1',
    name: 'p',
    basis: 'consent',
    ...fields,
    ...(more === null && { more }),
  }))

test('the published schema and the decoder accept the same profiles', async () => {
  const accepts = await schemaAccepts()
  let accepted = 0
  await fc.assert(
    fc.asyncProperty(profile, async document => {
      const decoded = decoderAccepts(document)
      if (decoded) accepted += 1
      assert.equal(await accepts(document), decoded, JSON.stringify(document))
    }),
    { numRuns: 400 },
  )
  assert.ok(accepted > 20, `only ${accepted} profiles of the sample were valid`)
})

test('the example of PROFILES.md is valid in both', async () => {
  const blocks = [...read('PROFILES.md').matchAll(/```json\n([^`]*)```/g)].map(([, text = '']) => JSON.parse(text))
  const example = blocks.find(block => block.format === 'hanse-deid-1')

  assert.equal(decoderAccepts(example), true)
  assert.equal(await (await schemaAccepts())(example), true)
})

test('a profile has one digest, however it is written', () => {
  const a = decodeProfile({ format: 'hanse-deid-1', name: 'p', basis: 'consent', options: [] })
  const b = decodeProfile({ basis: 'consent', name: 'p', format: 'hanse-deid-1' })
  const c = decodeProfile({ basis: 'consent', name: 'q', format: 'hanse-deid-1' })

  assert.equal(profileDigest(a), profileDigest(b))
  assert.notEqual(profileDigest(a), profileDigest(c))
})
