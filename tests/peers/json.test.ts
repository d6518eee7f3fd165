import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { GatewayError, isGatewayError } from '../../gateway/errors.ts'
import { parseJson } from '../../peers/json.ts'

const limits = { maxBytes: 100_000, code: 'MANIFEST_MALFORMED' } as const
const parse = (text: string): unknown => parseJson(Buffer.from(text), limits)

test('what JSON.parse reads is read alike when no key repeats', () => {
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 8 }), value => {
      const text = JSON.stringify(value)
      if (text.includes('"__proto__"')) return
      assert.deepEqual(parse(text), JSON.parse(text))
      assert.deepEqual(parse(JSON.stringify(value, null, 2)), JSON.parse(text))
    }),
  )
})

test('a repeated key is refused at any depth and in any spelling', () => {
  for (const text of [
    '{"a":1,"a":1}',
    '{"a":1,"\\u0061":2}',
    '[{"x":{"b":[],"c":{},"b":[]}}]',
    '{"a":{"a":1},"b":"a","a":2}',
    '{"":1,"":2}',
    '{"a":{},"a":{}}',
  ]) {
    assert.throws(() => parse(text), isGatewayError, text)
  }
})

test('the same key in different objects, and as a value, is no repetition', () => {
  const text = '{"a":{"a":["a","a",{"a":"a"},{"a":"}"}]},"b":"a","c":"{\\"b\\":"}'

  assert.deepEqual(parse(text), JSON.parse(text))
})

test('text that parsers read differently is refused', () => {
  const refused = (bytes: Uint8Array) => assert.throws(() => parseJson(bytes, limits), isGatewayError)

  refused(Buffer.from('\ufeff{}'))
  refused(Buffer.from([0x22, 0xff, 0x22]))
  refused(Buffer.from('"\\ud800"'))
  refused(Buffer.from('{"__proto__":{}}'))
  refused(Buffer.from('{"a":1,}'))
  refused(Buffer.from(''))
})

test('size and depth are bounded, and a deep text costs no stack', () => {
  const deep = (levels: number): string => '['.repeat(levels) + ']'.repeat(levels)

  assert.doesNotThrow(() => parse(deep(32)))
  assert.throws(() => parse(deep(33)), isGatewayError)
  assert.throws(() => parse(deep(49_000)), isGatewayError)
  assert.throws(() => parse(' '.repeat(100_001)), isGatewayError)
})

test('an error never quotes the text', () => {
  for (const text of ['{"name":"TEST^SECRET"', '{"TEST^SECRET":1,"TEST^SECRET":2}']) {
    try {
      parse(text)
      assert.fail('expected a refusal')
    } catch (error) {
      assert.ok(error instanceof GatewayError)
      assert.doesNotMatch(`${error.message} ${error.cause}`, /SECRET/)
    }
  }
})
