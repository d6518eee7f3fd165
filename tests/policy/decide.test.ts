import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { GatewayError } from '../../gateway/errors.ts'
import { evaluate, type Facts, matches } from '../../policy/conditions.ts'
import { decide } from '../../policy/decide.ts'
import { canonicalJson, decodePolicy } from '../../policy/document.ts'

const send = (...to: string[]) => ({ to, purpose: 'treatment', profile: 'as-is' })

function policy(...rules: object[]) {
  return decodePolicy({
    format: 'hanse-policy-1',
    destinations: { b: { peer: 'Hospital B' }, c: { peer: 'Hospital C' } },
    rules: rules.map((rule, index) => ({ id: `r${index}`, ...rule })),
  })
}

const ct: Facts = {
  Modality: ['CT', 'SR'],
  StudyDescription: ['CT Chest with contrast'],
  StudyDate: ['20260314'],
  InstanceCount: ['42'],
  OriginKind: ['dimse'],
  CallingAETitle: ['CT_1'],
}

test('without a matching rule nothing is sent anywhere', () => {
  const decided = decide(ct, policy({ when: { attribute: 'Modality', equals: 'MR' }, send: send('b') }))

  assert.deepEqual(decided.decisions, [])
  assert.deepEqual(decided.undecided, ['b', 'c'])
  assert.deepEqual(decided.trace, [{ rule: 'r0', matched: false, why: 'Modality is not one of MR' }])
})

test('the first rule that matches decides for each destination', () => {
  const decided = decide(
    ct,
    policy(
      { when: { attribute: 'StudyDescription', matches: '*CHEST*' }, deny: { to: ['b'], reason: 'no' } },
      { when: { always: true }, send: send('b', 'c') },
    ),
  )

  assert.deepEqual(
    decided.decisions.map(({ destination, rule, effect }) => [destination, rule, effect.kind]),
    [
      ['b', 'r0', 'deny'],
      ['c', 'r1', 'send'],
    ],
  )
})

test('what came from a peer triggers nothing unless the rule names that origin', () => {
  const imported = { ...ct, OriginKind: ['peer'] }
  const silent = decide(imported, policy({ when: { always: true }, send: send('b') }))
  const named = decide(imported, policy({ when: { attribute: 'OriginKind', equals: 'peer' }, send: send('b') }))

  assert.equal(silent.decisions.length, 0)
  assert.equal(named.decisions.length, 1)
})

test('comparisons are by number, by text, by wildcard, and by presence', () => {
  const holds = (condition: object) => decide(ct, policy({ when: condition, send: send('b') })).decisions.length === 1

  assert.equal(holds({ attribute: 'InstanceCount', between: ['5', '100'] }), true)
  assert.equal(holds({ attribute: 'InstanceCount', between: ['100', '500'] }), false)
  assert.equal(holds({ attribute: 'StudyDate', between: ['20260101', '20261231'] }), true)
  assert.equal(holds({ attribute: 'CallingAETitle', in: ['ct_1', 'ct_2'] }), true)
  assert.equal(holds({ attribute: 'AccessionNumber', present: false }), true)
  assert.equal(holds({ attribute: 'AccessionNumber', equals: '' }), false)
  assert.equal(holds({ not: { attribute: 'Modality', equals: 'SR' } }), false)
  assert.equal(
    holds({
      any: [
        { attribute: 'Modality', equals: 'US' },
        { attribute: 'StudyDescription', matches: 'ct?chest*' },
      ],
    }),
    true,
  )
})

test('all problems of a document are reported at once, with their paths', () => {
  const bad = {
    format: 'hanse-policy-1',
    destinations: { b: { peer: 'B' } },
    rules: [
      { id: 'x', when: { attribute: 'NoSuchKeyword', equals: 'y' }, send: send('b') },
      { id: 'y', when: { always: true }, send: { ...send('b'), profile: 'basic' } },
      { id: 'z', when: { always: true, extra: 1 }, deny: { to: [], reason: '' } },
    ],
  }

  assert.throws(
    () => decodePolicy(bad),
    (error: unknown) =>
      error instanceof GatewayError &&
      error.code === 'POLICY_INVALID' &&
      ['rules[0].when.attribute', 'rules[1].send.profile', 'rules[2].when', 'rules[2].deny.to'].every(path =>
        error.message.includes(path),
      ),
  )
  assert.throws(() => policy({ when: { always: true } }), /exactly one of send, hold, deny/)
  assert.throws(() => policy({ when: { always: true }, send: send('nowhere') }), /unknown destination nowhere/)
})

test('the wildcard matcher agrees with a regular expression, in time that a hostile pattern cannot blow up', () => {
  const letters = fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 12 })
  const patterns = fc.string({ unit: fc.constantFrom('a', 'b', '*', '?'), maxLength: 10 })
  fc.assert(
    fc.property(patterns, letters, (pattern, value) => {
      const expression = new RegExp(`^${pattern.replaceAll('*', '.*').replaceAll('?', '.')}$`)
      assert.equal(matches(pattern, value), expression.test(value))
    }),
    { numRuns: 2000 },
  )
  assert.equal(matches(`${'*a'.repeat(400)}*b`, 'a'.repeat(1024)), false)
})

test('decoding and deciding are total: arbitrary input gives a decision or POLICY_INVALID', () => {
  const leaf = fc.oneof(
    fc.record({ attribute: fc.constantFrom('Modality', 'StudyDate', '__proto__', 'constructor'), equals: fc.string() }),
    fc.record({ attribute: fc.constant('InstanceCount'), between: fc.tuple(fc.string(), fc.string()) }),
    fc.constant({ always: true }),
    fc.anything(),
  )
  const condition = fc.letrec(tie => ({
    node: fc.oneof(
      { maxDepth: 5 },
      leaf,
      fc.record({ all: fc.array(tie('node'), { maxLength: 3 }) }),
      fc.record({ any: fc.array(tie('node'), { maxLength: 3 }) }),
      fc.record({ not: tie('node') }),
    ),
  })).node
  const facts = fc.dictionary(fc.string(), fc.array(fc.string(), { maxLength: 3 }))
  fc.assert(
    fc.property(condition, facts, (when, known) => {
      try {
        const document = policy({ when, send: send('b') })
        assert.deepEqual(decide(known, document), decide(known, document))
        for (const rule of document.rules) evaluate(rule.when, known)
      } catch (error) {
        assert.ok(error instanceof GatewayError && error.code === 'POLICY_INVALID', String(error))
      }
    }),
    { numRuns: 1000 },
  )
})

test('the canonical form does not depend on the order of keys', () => {
  assert.equal(canonicalJson({ b: [1, { d: 1, c: 2 }], a: 'x' }), '{"a":"x","b":[1,{"c":2,"d":1}]}')
})
