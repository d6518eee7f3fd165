import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { GatewayError } from '../../gateway/errors.ts'
import { evaluate, type Facts, matches } from '../../policy/conditions.ts'
import { decide as decideAt, decideIncoming } from '../../policy/decide.ts'
import { canonicalJson, decodePolicy, profileOfDocument } from '../../policy/document.ts'

const now = new Date('2026-06-15T10:00:00Z')
const decide = (facts: Facts, document: Parameters<typeof decideAt>[1]) => decideAt(facts, document, now)
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
      { id: 'y', when: { always: true }, send: { ...send('b'), profile: 7 } },
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

const agreed = (agreement: object, rule: object = {}) =>
  decodePolicy({
    format: 'hanse-policy-2',
    destinations: { b: { peer: 'Hospital B' } },
    agreements: {
      a: { parties: ['b'], purposes: ['treatment'], basis: 'treatment', from: '2026-01-01', ...agreement },
    },
    rules: [{ id: 'r', when: { always: true }, send: { ...send('b'), agreement: 'a', ...rule } }],
  })

test('an agreement that does not cover what a rule sends holds it, in words', () => {
  const why = (agreement: object, rule?: object): string | undefined =>
    decide(ct, agreed(agreement, rule)).decisions[0]?.obstacle?.message

  assert.equal(why({}), undefined)
  assert.equal(why({ until: '2026-06-15' }), undefined)
  assert.equal(why({ until: '2026-06-14' }), 'agreement a ended on 2026-06-14')
  assert.equal(why({ from: '2026-06-16' }), 'agreement a begins on 2026-06-16')
  assert.equal(why({ direction: 'incoming' }), 'agreement a is for the incoming direction only')
  assert.equal(why({ purposes: ['teaching'] }), 'agreement a is not for the purpose treatment')
  assert.equal(why({ data: { modalities: ['CT'] } }), 'agreement a does not cover the modality SR')
  assert.equal(why({ data: { deidentified: true } }), 'agreement a is for de-identified data only')
  assert.equal(why({ data: { deidentified: true } }, { profile: 'basic' }), undefined)
  assert.equal(decide(ct, agreed({ basis: 'consent' })).decisions[0]?.needsConsent, true)
  assert.equal(decide(ct, agreed({})).decisions[0]?.needsConsent, false)
})

test('an offer is refused unless a rule accepts its site, purpose and agreement', () => {
  const siteId = 'ab'.repeat(16)
  const document = (incoming: readonly object[]) =>
    decodePolicy({
      format: 'hanse-policy-2',
      destinations: { b: { peer: siteId }, c: { peer: 'Hospital C' }, cro: { endpoint: 'CRO' } },
      agreements: { a: { parties: ['b'], purposes: ['treatment'], basis: 'treatment', from: '2026-01-01' } },
      rules: [],
      incoming: incoming.map((rule, index) => ({ id: `i${index}`, when: { always: true }, ...rule })),
    })
  const offer = (change: object = {}) => ({
    site: { siteId, name: 'Hospital B' },
    purpose: 'treatment',
    profile: 'as-is',
    facts: { SOPClassUID: ['1.2'], OfferPurpose: ['treatment'] },
    ...change,
  })
  const kind = (incoming: readonly object[], change?: object): string =>
    decideIncoming(offer(change), document(incoming), now).kind

  assert.equal(kind([]), 'deny')
  assert.equal(kind([{ accept: { from: ['b'] } }]), 'accept')
  assert.equal(kind([{ accept: { from: ['c'] } }]), 'deny')
  assert.equal(kind([{ accept: { from: ['*'] } }], { site: { siteId: 'cd'.repeat(16), name: 'X' } }), 'accept')
  // A site that calls itself by another's id is not that site.
  assert.equal(kind([{ accept: { from: ['b'] } }], { site: { siteId: 'cd'.repeat(16), name: siteId } }), 'deny')
  assert.equal(kind([{ accept: { from: ['b'], purposes: ['trial'] } }]), 'deny')
  assert.equal(kind([{ accept: { from: ['b'], agreement: 'a' } }]), 'accept')
  assert.equal(kind([{ accept: { from: ['b'], agreement: 'a' } }], { purpose: 'trial' }), 'deny')
  // An endpoint is meant by its name; whoever is meant by `*` is paired.
  assert.equal(kind([{ accept: { from: ['*', 'b'] } }], { site: { endpoint: 'CRO' } }), 'deny')
  assert.equal(kind([{ accept: { from: ['cro'] } }], { site: { endpoint: 'CRO' } }), 'accept')
  assert.equal(kind([{ accept: { from: ['cro'] } }], { site: { endpoint: 'cro' } }), 'deny')
  assert.equal(kind([{ accept: { from: ['cro'] } }]), 'deny')
  assert.equal(kind([{ hold: { from: ['b'], reason: '' } }, { accept: { from: ['b'] } }]), 'hold')
  assert.equal(kind([{ when: { attribute: 'OfferPurpose', equals: 'x' }, deny: { from: ['b'], reason: '' } }]), 'deny')
})

test('a document of version 1 becomes one of version 2 that says what version 1 did', () => {
  const upgraded = policy({ when: { always: true }, send: send('b') })

  assert.equal(upgraded.format, 'hanse-policy-2')
  assert.deepEqual(
    upgraded.incoming.map(({ accept }) => accept?.from),
    [['*']],
  )
  assert.throws(
    () => decodePolicy({ format: 'hanse-policy-1', destinations: {}, rules: [], agreements: {} }),
    /unknown field/,
  )
})

test('profiles are decoded with the document, and a rule names one of them or one that comes along', () => {
  const document = (profiles: readonly object[], profile: string): unknown => ({
    format: 'hanse-policy-2',
    destinations: { b: { peer: 'Hospital B' } },
    profiles,
    rules: [{ id: 'r', when: { always: true }, send: { ...send('b'), profile } }],
  })
  const lung = { format: 'hanse-deid-1', name: 'lung', basis: 'consent' }

  assert.equal(profileOfDocument(decodePolicy(document([lung], 'lung')), 'lung')?.basis, 'consent')
  assert.equal(profileOfDocument(decodePolicy(document([], 'trial')), 'trial')?.name, 'trial')
  assert.equal(profileOfDocument(decodePolicy(document([], 'as-is')), 'as-is'), undefined)
  assert.throws(() => decodePolicy(document([], 'lung')), /rules\[0\].send.profile: unknown profile lung/)
  assert.throws(() => decodePolicy(document([lung, lung], 'lung')), /used twice/)
  assert.throws(
    () => decodePolicy(document([{ ...lung, overrides: [{ attribute: 'StudyID', action: 'keep' }] }], 'lung')),
    /profiles\[0\].*justification/,
  )
})
