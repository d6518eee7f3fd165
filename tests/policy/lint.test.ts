import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { decide } from '../../policy/decide.ts'
import { diffPolicies } from '../../policy/diff.ts'
import { decodePolicy, type PolicyDocument } from '../../policy/document.ts'
import { type LintContext, lintPolicy } from '../../policy/lint.ts'

const siteId = 'ab'.repeat(16)
const now = new Date('2026-06-15T10:00:00Z')
const context: LintContext = {
  peers: [{ siteId, name: 'Hospital B' }],
  findModality: name =>
    name === 'PACS' ? { name, zone: 'inside' } : name === 'FAR' ? { name, zone: 'outside' } : undefined,
  endpoints: new Set(['CRO']),
  now,
}
const agreement = { parties: ['b'], purposes: ['treatment'], basis: 'treatment', from: '2026-01-01' }
const send = { to: ['b'], purpose: 'treatment', profile: 'as-is', agreement: 'a' }
const base = {
  format: 'hanse-policy-2',
  destinations: { b: { peer: 'Hospital B' } },
  agreements: { a: agreement },
  incoming: [{ id: 'in', when: { always: true }, accept: { from: ['b'] } }],
}
const ct = { attribute: 'Modality', equals: 'CT' }

function codes(change: object, about: Partial<LintContext> = {}): string[] {
  const document = decodePolicy({ ...base, rules: [{ id: 'r', when: ct, send }], ...change })
  return lintPolicy(document, { ...context, ...about }).map(({ severity, code, path }) => `${severity} ${code} ${path}`)
}

test('a sound document has no findings', () => {
  assert.deepEqual(codes({}), [])
})

test('an endpoint that nobody has set up is found, and what `*` accepts is not what arrives at endpoints', () => {
  const destinations = { ...base.destinations, cro: { endpoint: 'CRO' }, lab: { endpoint: 'LAB' } }
  const everything = { id: 'all', when: { always: true }, accept: { from: ['*'] } }
  const arriving = { id: 'cro', when: { always: true }, hold: { from: ['cro', 'lab'], reason: 'a person looks' } }
  assert.deepEqual(codes({ destinations, incoming: [everything, arriving] }), [
    'warning unknown-destination destinations.lab',
  ])
})

test('a rule that others decide before it is found, however its condition is written', () => {
  const rules = (first: object, second: object) => ({
    rules: [
      { id: 'first', when: first, send },
      { id: 'second', when: second, send },
    ],
  })
  const hit = ['error unreachable-rule rules.second']

  assert.deepEqual(codes(rules({ always: true }, ct)), hit)
  assert.deepEqual(codes(rules(ct, { all: [ct, { attribute: 'BodyPartExamined', equals: 'CHEST' }] })), hit)
  assert.deepEqual(codes(rules({ attribute: 'Modality', in: ['ct', 'MR'] }, ct)), hit)
  assert.deepEqual(codes(rules({ any: [ct, { attribute: 'Modality', equals: 'US' }] }, ct)), hit)
  assert.deepEqual(codes(rules(ct, { attribute: 'Modality', in: ['CT', 'MR'] })), [])
  // What came from a peer passes over the first rule, because that does not name an origin.
  assert.deepEqual(codes(rules({ always: true }, { attribute: 'OriginKind', equals: 'peer' })), [])
})

test('unknown and unprotected destinations are found', () => {
  const to = (destination: object) => ({
    destinations: { b: destination },
    agreements: {},
    rules: [{ id: 'r', when: ct, send: { ...send, agreement: undefined } }],
    incoming: [],
  })

  assert.deepEqual(codes(to({ peer: 'Nobody' }), { peers: [] }), [
    'error unknown-destination destinations.b',
    'error outside-unprotected rules.r',
  ])
  assert.deepEqual(codes(to({ peer: 'cd'.repeat(16) }), { peers: [] }), [
    'warning unknown-destination destinations.b',
    'error outside-unprotected rules.r',
  ])
  assert.deepEqual(codes(to({ modality: 'PACS' }), { peers: [] }), [])
  assert.deepEqual(codes(to({ modality: 'FAR' }), { peers: [] }), ['error outside-unprotected rules.r'])
  assert.deepEqual(codes(to({ modality: 'FAR', zone: 'inside' }), { peers: [] }), ['error wrong-zone destinations.b'])
  assert.deepEqual(codes(to({ peer: siteId }), { peers: [], isVersion1: true }), [
    'warning unknown-destination destinations.b',
    'warning outside-unprotected rules.r',
  ])
})

test('agreements that are over or do not cover a rule are found', () => {
  const under = (change: object) => codes({ agreements: { a: { ...agreement, ...change } } })

  assert.deepEqual(under({ until: '2026-05-31' }), ['error expired-agreement agreements.a'])
  assert.deepEqual(under({ from: '2026-07-01' }), ['warning expired-agreement agreements.a'])
  assert.deepEqual(under({ purposes: ['trial'] }), ['error uncovered-by-agreement rules.r'])
  assert.deepEqual(under({ data: { deidentified: true } }), ['error uncovered-by-agreement rules.r'])
})

test('conditions that cannot hold, and what nothing uses, are found', () => {
  assert.deepEqual(codes({ rules: [{ id: 'r', when: { attribute: 'OfferPurpose', equals: 'x' }, send }] }), [
    'warning attribute-without-value rules.r',
  ])
  assert.deepEqual(codes({ rules: [{ id: 'r', when: { attribute: 'StudyDate', between: ['2026', '2025'] }, send }] }), [
    'warning empty-range rules.r',
  ])
  assert.deepEqual(codes({ incoming: [] }), ['warning nothing-accepted incoming'])
  assert.deepEqual(codes({ rules: [] }), ['warning unused agreements.a'])
})

test('a rule that lint calls unreachable never decides', () => {
  const atom = fc.constantFrom<object>(
    { always: true },
    ct,
    { attribute: 'Modality', in: ['CT', 'MR'] },
    { attribute: 'OriginKind', equals: 'peer' },
    { attribute: 'OriginKind', in: ['peer', 'dimse'] },
  )
  const condition = fc.oneof(
    atom,
    fc.array(atom, { minLength: 1, maxLength: 2 }).map(all => ({ all })),
    fc.array(atom, { minLength: 1, maxLength: 2 }).map(any => ({ any })),
    atom.map(not => ({ not })),
  )
  const facts = fc.record({
    Modality: fc.constantFrom([], ['CT'], ['MR'], ['US', 'CT']),
    OriginKind: fc.constantFrom(['peer'], ['dimse']),
  })
  fc.assert(
    fc.property(fc.array(condition, { minLength: 2, maxLength: 4 }), facts, (conditions, known) => {
      const rules = conditions.map((when, index) => ({ id: `r${index}`, when, send }))
      const document = decodePolicy({ ...base, rules })
      const dead = lintPolicy(document, context).filter(({ code }) => code === 'unreachable-rule')
      const deciding = decide(known, document, now).decisions.map(({ rule }) => `rules.${rule}`)
      for (const { path } of dead) assert.ok(!deciding.includes(path), `${path} decided`)
    }),
    { numRuns: 2000 },
  )
})

test('a difference names rules by id, and what stands elsewhere in the order', () => {
  const policy = (ids: readonly string[], change: object = {}): PolicyDocument =>
    decodePolicy({ ...base, rules: ids.map(id => ({ id, when: ct, send, ...(id === 'b' ? change : {}) })) })
  const diff = (before: PolicyDocument, after: PolicyDocument): string[] =>
    diffPolicies(before, after).map(({ kind, path }) => `${kind} ${path}`)

  assert.deepEqual(diff(policy(['a', 'b', 'c']), policy(['a', 'b', 'c'])), [])
  assert.deepEqual(diff(policy(['a', 'b', 'c']), policy(['c', 'a', 'b'])), ['moved rules.c'])
  assert.deepEqual(diff(policy(['a', 'b']), policy(['b', 'd'], { description: 'x' })), [
    'removed rules.a',
    'changed rules.b',
    'added rules.d',
  ])
  assert.deepEqual(diff(policy([]), { ...policy([]), agreements: {} }), ['removed agreements.a'])
})
