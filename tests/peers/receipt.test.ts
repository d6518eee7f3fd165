import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isGatewayError } from '../../gateway/errors.ts'
import {
  openReceipt,
  type Receipt,
  type ReceiptKind,
  type SignedReceipt,
  signReceipt,
  verifyChain,
} from '../../peers/receipt.ts'
import { digestOf, testSite } from '../support/offers.ts'

const a = testSite(1)
const b = testSite(2)
const expected = { manifest: digestOf('manifest'), from: b.siteId, to: a.siteId, keys: [b.signingKey] }
const invalid = (error: unknown) => isGatewayError(error, 'RECEIPT_INVALID')

const receipt = (kind: ReceiptKind, previous?: SignedReceipt, change: Partial<Receipt> = {}): Receipt => ({
  kind,
  manifest: expected.manifest,
  from: b.siteId,
  to: a.siteId,
  ...(previous && { previous: previous.sha256 }),
  time: new Date('2026-05-04T10:00:00.000Z'),
  checkpoint: 'hanse.example/log\n7\nqqqq\n\n— b sig\n',
  ...change,
})

/** A chain of these kinds, each naming the one before. */
function chainOf(...kinds: ReceiptKind[]): SignedReceipt[] {
  const chain: SignedReceipt[] = []
  for (const kind of kinds) chain.push(signReceipt(receipt(kind, chain.at(-1)), b))
  return chain
}

test('a receipt is read as it was written', () => {
  const full = receipt('held', chainOf('accepted')[0], {
    counts: { objects: 300, stored: 0, duplicates: 0, variants: 0, refused: 2 },
    refusals: [{ object: 7, sopInstanceUid: '1.2.3', code: 'OBJECT_DIGEST' }],
    code: 'OBJECT_DIGEST',
  })

  const signed = signReceipt(full, b)

  assert.deepEqual(openReceipt(signed.envelope, expected), signed)
})

test('a chain holds from the offer to the deletion', () => {
  const chain = chainOf('accepted', 'custody', 'held', 'imported', 'archived', 'deleted')

  assert.deepEqual(
    verifyChain(
      chain.map(link => link.envelope),
      expected,
    ),
    chain,
  )
})

test('a missing, exchanged or impossible link breaks the chain', () => {
  const [accepted, custody, imported] = chainOf('accepted', 'custody', 'imported')
  assert.ok(accepted && custody && imported)
  const broken = [
    [custody],
    [accepted, imported],
    [custody, accepted],
    [accepted, accepted],
    [accepted, signReceipt(receipt('imported', accepted), b)],
    [...chainOf('accepted', 'cancelled'), signReceipt(receipt('imported', chainOf('accepted', 'cancelled')[1]), b)],
    [signReceipt(receipt('range-refused'), b)],
  ]
  for (const chain of broken) {
    assert.throws(
      () =>
        verifyChain(
          chain.map(link => link.envelope),
          expected,
        ),
      invalid,
    )
  }
})

test('a receipt by another key, for another manifest or between other sites is refused', () => {
  const foreign = [
    signReceipt(receipt('accepted'), a),
    signReceipt(receipt('accepted', undefined, { manifest: digestOf('other') }), b),
    signReceipt(receipt('accepted', undefined, { from: a.siteId }), b),
    signReceipt(receipt('accepted', undefined, { to: b.siteId }), b),
  ]
  for (const { envelope } of foreign) assert.throws(() => openReceipt(envelope, expected), invalid)
})

test('one flipped bit in what is signed refuses a receipt', () => {
  const { envelope } = signReceipt(receipt('accepted'), b)
  const start = Buffer.from(envelope).indexOf('"payload":"') + 11
  const end = Buffer.from(envelope).indexOf('"', start)
  fc.assert(
    fc.property(fc.integer({ min: start * 8, max: end * 8 - 1 }), bit => {
      const changed = Uint8Array.from(envelope)
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      assert.throws(() => openReceipt(changed, expected), invalid)
    }),
    { numRuns: 200 },
  )
})
