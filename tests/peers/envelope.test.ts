import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { GatewayError, isGatewayError } from '../../gateway/errors.ts'
import {
  encodePayload,
  openEnvelope,
  preAuthEncoding,
  type SignatureContext,
  type Signer,
  signEnvelope,
  signWith,
} from '../../peers/envelope.ts'
import { signingKeyPair } from '../../peers/sodium.ts'

const context: SignatureContext = 'application/vnd.hanse.test.v1+json'
const otherContext: SignatureContext = 'application/vnd.hanse.other.v1+json'
const rules = { context, maxBytes: 10_000, malformed: 'MANIFEST_MALFORMED', untrusted: 'MANIFEST_SIGNATURE' } as const

function signer(fill: number): Signer {
  const { publicKey, privateKey } = signingKeyPair(new Uint8Array(32).fill(fill))
  return { signingKey: publicKey, sign: (at, bytes) => signWith(privateKey, at, bytes) }
}
const alice = signer(1)
const bob = signer(2)
const payload = encodePayload({ hello: 'world' })

test('the pre-authentication encoding is that of the DSSE specification', () => {
  assert.equal(
    Buffer.from(preAuthEncoding('http://example.com/HelloWorld', Buffer.from('hello world'))).toString(),
    'DSSEv1 29 http://example.com/HelloWorld 11 hello world',
  )
  assert.equal(Buffer.from(preAuthEncoding('ä', new Uint8Array())).toString(), 'DSSEv1 2 ä 0 ')
})

test('an envelope opens for its signer and gives back the exact bytes', () => {
  const spaced = Buffer.from('{ "hello":\t"world" }\n')

  const opened = openEnvelope(signEnvelope(context, spaced, alice), {
    ...rules,
    keys: [bob.signingKey, alice.signingKey],
  })

  assert.deepEqual(Buffer.from(opened.payload), spaced)
  assert.deepEqual(opened.value, { hello: 'world' })
  assert.deepEqual(opened.signedBy, [alice.signingKey])
})

test('the same message signed again is the same bytes', () => {
  assert.deepEqual(signEnvelope(context, payload, alice), signEnvelope(context, payload, alice))
})

test('an envelope signed by two keys opens for either', () => {
  const bytes = signEnvelope(context, payload, alice, bob)

  for (const key of [alice.signingKey, bob.signingKey]) {
    assert.deepEqual(openEnvelope(bytes, { ...rules, keys: [key] }).signedBy, [key])
  }
})

test('a signature by another key or for another context is not trusted', () => {
  const bytes = signEnvelope(context, payload, alice)
  const relabelled = Buffer.from(Buffer.from(bytes).toString().replace('hanse.test', 'hanse.other'))

  assert.throws(() => openEnvelope(bytes, { ...rules, keys: [bob.signingKey] }), code('MANIFEST_SIGNATURE'))
  assert.throws(() => openEnvelope(bytes, { ...rules, keys: [] }), code('MANIFEST_SIGNATURE'))
  assert.throws(
    () => openEnvelope(bytes, { ...rules, context: otherContext, keys: [alice.signingKey] }),
    code('MANIFEST_MALFORMED'),
  )
  assert.throws(
    () => openEnvelope(relabelled, { ...rules, context: otherContext, keys: [alice.signingKey] }),
    code('MANIFEST_SIGNATURE'),
  )
})

test('both base64 alphabets are read, other spellings are not', () => {
  const bytes = signEnvelope(context, Buffer.from('{"a":"ÿÿ?>~ûï"}'), alice)
  const text = Buffer.from(bytes).toString()
  const { payload: encoded } = JSON.parse(text)
  const open = (changed: string) =>
    openEnvelope(Buffer.from(text.replace(encoded, changed)), { ...rules, keys: [alice.signingKey] })

  assert.deepEqual(open(encoded.replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')).value, { a: 'ÿÿ?>~ûï' })
  assert.throws(() => open(`${encoded}!`), code('MANIFEST_MALFORMED'))
  assert.throws(() => open(` ${encoded}`), code('MANIFEST_MALFORMED'))
})

test('a signed payload with a duplicate key is refused', () => {
  const bytes = signEnvelope(context, Buffer.from('{"to":"a","\\u0074o":"b"}'), alice)

  assert.throws(() => openEnvelope(bytes, { ...rules, keys: [alice.signingKey] }), code('MANIFEST_MALFORMED'))
})

test('an envelope above the limit is refused before it is parsed', () => {
  const bytes = signEnvelope(context, payload, alice)

  assert.throws(
    () => openEnvelope(bytes, { ...rules, maxBytes: bytes.length - 1, keys: [alice.signingKey] }),
    code('MANIFEST_MALFORMED'),
  )
})

test('no flipped bit in the payload, the signature or the type ever verifies', () => {
  const bytes = Buffer.from(signEnvelope(context, payload, alice))
  const opened = openEnvelope(bytes, { ...rules, keys: [alice.signingKey] })

  fc.assert(
    fc.property(fc.nat({ max: bytes.length * 8 - 1 }), bit => {
      const changed = Buffer.from(bytes)
      changed.writeUInt8(changed.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3)
      try {
        // What still opens (a bit of the key id hint, an ignored field name) says exactly the same.
        assert.deepEqual(openEnvelope(changed, { ...rules, keys: [alice.signingKey] }).payload, opened.payload)
        assert.equal(isOutsideSignature(bytes, bit >> 3), true)
      } catch (error) {
        if (!(error instanceof GatewayError)) throw error
      }
    }),
    { numRuns: 2000 },
  )
})

test('whatever the bytes, opening fails with a gateway error only', () => {
  const anything = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc.json().map(text => Buffer.from(text)),
    fc
      .record({ payloadType: fc.constantFrom(context, ''), payload: fc.string(), signatures: fc.jsonValue() })
      .map(value => Buffer.from(JSON.stringify(value))),
  )
  fc.assert(
    fc.property(anything, bytes => {
      assert.throws(() => openEnvelope(bytes, { ...rules, keys: [alice.signingKey] }), GatewayError)
    }),
  )
})

const code = (expected: string) => (error: unknown) => isGatewayError(error) && error.code === expected

/** True for the key id and its field's name: hints that DSSE leaves unauthenticated. */
function isOutsideSignature(bytes: Buffer, at: number): boolean {
  const text = bytes.toString('latin1')
  const start = text.indexOf('"keyid"')
  return at > start && at < text.indexOf(',"sig"')
}
