import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import fc from 'fast-check'
import Fastify from 'fastify'
import { isGatewayError } from '../../gateway/errors.ts'
import { decodePolicy } from '../../policy/document.ts'

const read = (path: string): string => readFileSync(new URL(`../../policy/${path}`, import.meta.url), 'utf8')

/** Compiles the published schema with the validator that Fastify brings. */
async function schemaAccepts(): Promise<(value: unknown) => Promise<boolean>> {
  const app = Fastify({ ajv: { customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false } } })
  app.post('/', { schema: { body: JSON.parse(read('policy.schema.json')) } }, async () => 'ok')
  await app.ready()
  return async value => {
    const headers = { 'content-type': 'application/json' }
    return (await app.inject({ method: 'POST', url: '/', headers, payload: JSON.stringify(value) })).statusCode === 200
  }
}

function decoderAccepts(value: unknown): boolean {
  try {
    decodePolicy(value)
    return true
  } catch (error) {
    assert.ok(isGatewayError(error, 'POLICY_INVALID'))
    return false
  }
}

const value = fc.constantFrom('CT', '*chest*', '', '20240101')
const odd = fc.constantFrom<unknown>(null, true, 0, '', 'x y', [], {}, ['a', 'b', 'c'], 'v'.repeat(1025))
const comparison = fc
  .oneof(
    fc.record({ equals: value }),
    fc.record({ in: fc.array(value, { maxLength: 2 }) }),
    fc.record({ matches: value }),
    fc.record({ between: fc.array(value, { minLength: 1, maxLength: 3 }) }),
    fc.record({ present: fc.boolean() }),
    fc.record({ equals: odd }),
    fc.record({}),
  )
  .map(rest => ({ attribute: 'Modality', ...rest }))
const condition = fc.letrec<{ node: unknown }>(tie => ({
  node: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    comparison,
    fc.constant({ always: true }),
    fc.record({ all: fc.array(tie('node'), { maxLength: 2 }) }),
    fc.record({ any: fc.array(tie('node'), { maxLength: 2 }) }),
    fc.record({ not: tie('node') }),
    comparison.map(part => ({ ...part, all: [part] })),
  ),
})).node
const to = fc.constantFrom(['b'], ['b', 'b'], [])
const archive = fc.oneof(
  fc.record({ commitment: fc.oneof(fc.boolean(), odd) }),
  fc.record({
    identifiers: fc.oneof(fc.constantFrom({ linked: true }, { prefix: 'X-', issuer: 'A\\B' }, { issuer: 'ä' }), odd),
  }),
)
const effect = fc.oneof(
  fc.record({
    send: fc.record({ to: fc.constant(['pacs']), purpose: fc.constant('x'), profile: fc.constant('as-is'), archive }),
  }),
  fc.record({ send: fc.record({ to, purpose: fc.constantFrom('treatment', 'Bad'), profile: fc.constant('as-is') }) }),
  fc.record({ send: fc.record({ to, purpose: fc.constant('x'), profile: fc.constant('as-is'), priority: odd }) }),
  fc.record({ deny: fc.record({ to, reason: fc.constant('no') }) }),
  fc.record({ hold: fc.record({ to, reason: odd }), deny: fc.constant({ to: ['b'], reason: '' }) }),
  fc.record({}),
)
const parties = fc.constantFrom(['b'], ['*'], [], 'b')
const reception = fc.oneof(
  fc.record({ accept: fc.record({ from: parties }) }),
  fc.record({ accept: fc.record({ from: parties, purposes: fc.constantFrom(['x'], [], ['X']) }) }),
  fc.record({ hold: fc.record({ from: parties, reason: fc.constant('') }) }),
  fc.record({ deny: fc.record({ from: parties }) }),
  fc.record({}),
)
const agreement = fc.record(
  {
    parties,
    purposes: fc.constantFrom(['treatment'], []),
    basis: fc.constantFrom('consent', 'treatment', 'whim'),
    from: fc.constantFrom('2026-01-01', '2026-1-1'),
    until: fc.constantFrom('2027-01-01', 7),
    direction: fc.constantFrom('both', 'incoming', ''),
    data: fc.oneof(fc.constantFrom({}, { modalities: ['CT'], deidentified: true }, { sopClasses: ['1.2'] }), odd),
  },
  { requiredKeys: ['parties', 'purposes', 'basis', 'from'] },
)
const policy = fc
  .record({
    version: fc.constantFrom(1, 2),
    rules: fc.array(fc.tuple(condition, effect), { maxLength: 2 }),
    incoming: fc.option(fc.array(fc.tuple(condition, reception), { maxLength: 2 }), { freq: 2 }),
    agreements: fc.option(fc.record({ a: agreement }), { freq: 2 }),
    profiles: fc.option(fc.constantFrom([], [{ format: 'hanse-deid-1', name: 'p', basis: 'consent' }], [{}]), {
      freq: 2,
    }),
    extra: fc.option(odd, { freq: 8 }),
  })
  .map(({ version, rules, incoming, agreements, profiles, extra }) => ({
    format: `hanse-policy-${version}`,
    destinations: { b: { peer: 'B' }, pacs: { modality: 'PACS' } },
    rules: rules.map(([when, does], index) => ({ id: `rule-${index}`, when, ...does })),
    ...(incoming && { incoming: incoming.map(([when, does], index) => ({ id: `in-${index}`, when, ...does })) }),
    ...(agreements && { agreements }),
    ...(profiles && { profiles }),
    ...(extra !== null && { title: extra }),
  }))

test('the published schema and the decoder accept the same documents', async () => {
  const accepts = await schemaAccepts()
  let accepted = 0
  await fc.assert(
    fc.asyncProperty(policy, async document => {
      const decoded = decoderAccepts(document)
      if (decoded) accepted += 1
      assert.equal(await accepts(document), decoded)
    }),
    { numRuns: 1000 },
  )
  assert.ok(accepted > 20, `only ${accepted} documents of the sample were valid`)
})

test('the examples of PROFILES.md are valid in both', async () => {
  const accepts = await schemaAccepts()
  const examples = [...read('PROFILES.md').matchAll(/```json\n([^`]*)```/g)]
    .map(match => JSON.parse(match[1] ?? 'null'))
    .filter(example => String(example.format).startsWith('hanse-policy-'))

  assert.equal(examples.length, 2)
  for (const example of examples) {
    assert.equal(decoderAccepts(example), true)
    assert.equal(await accepts(example), true)
  }
})

test('a destination is a peer or a modality, and archive terms are for modalities alone', async () => {
  const accepts = await schemaAccepts()
  const document = (destination: object, archive?: object): unknown => ({
    format: 'hanse-policy-1',
    destinations: { d: destination },
    rules: [
      {
        id: 'r',
        when: { always: true },
        send: { to: ['d'], purpose: 'x', profile: 'as-is', ...(archive && { archive }) },
      },
    ],
  })

  for (const destination of [{}, { peer: 'B', modality: 'PACS' }]) {
    assert.equal(decoderAccepts(document(destination)), false)
    assert.equal(await accepts(document(destination)), false)
  }
  assert.equal(decoderAccepts(document({ modality: 'PACS' }, { commitment: true })), true)
  assert.equal(decoderAccepts(document({ peer: 'B' }, { commitment: true })), false)
  assert.equal(decoderAccepts(document({ modality: 'PACS' }, { identifiers: { linked: true, prefix: 'X' } })), false)
})
