/** The vectors of PROTOCOL.md §§7 to 10: what is signed gives these bytes, and each case is refused as it says. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { Bitmap } from '../../peers/bitmap.ts'
import { signCancellation } from '../../peers/cancel.ts'
import { type Signer, signWith } from '../../peers/envelope.ts'
import { mapLeaves } from '../../peers/leaves.ts'
import { decodeManifest } from '../../peers/manifest-decoder.ts'
import { openOffer, signOffer } from '../../peers/offer.ts'
import { formatDigestField, rangeDigest, sha256Of } from '../../peers/range-digest.ts'
import { openReceipt, signReceipt, verifyChain } from '../../peers/receipt.ts'
import { signingKeyPair } from '../../peers/sodium.ts'

const vectors = JSON.parse(readFileSync(new URL('../vectors/transfer.json', import.meta.url), 'utf8'))
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString()
const bytes = (value: string): Buffer => Buffer.from(value)
const instant = (value: string): Date => new Date(value)

function signerOf(seed: string): Signer {
  const { publicKey, privateKey } = signingKeyPair(Buffer.from(seed, 'base64'))
  return { signingKey: publicKey, sign: (context, message) => signWith(privateKey, context, message) }
}
const [sender, receiver] = [signerOf(vectors.sender.seed), signerOf(vectors.receiver.seed)]
const peer = { siteId: vectors.sender.siteId, signingKeys: [sender.signingKey] }
const expectation = {
  manifest: vectors.manifestId,
  from: vectors.receiver.siteId,
  to: vectors.sender.siteId,
  keys: [receiver.signingKey],
}

/** Byte k of object n is (7 k + n) mod 256. */
function objectBytes(ordinal: number, sizeBytes: number): Buffer {
  const out = Buffer.alloc(sizeBytes)
  for (let k = 0; k < sizeBytes; k++) out[k] = (7 * k + ordinal) & 0xff
  return out
}
const objects = vectors.objects.map((size: number, ordinal: number) => objectBytes(ordinal, size))

test('offer vectors: a manifest gives these bytes and this id, and opens again', () => {
  const manifest = decodeManifest(JSON.parse(vectors.manifest), [])

  const offer = signOffer(manifest, sender)

  assert.equal(text(offer.bytes), vectors.offer)
  assert.equal(offer.id, vectors.manifestId)
  assert.deepEqual(openOffer(bytes(vectors.offer), peer).manifest, manifest)
  assert.deepEqual(
    manifest.objects.map(object => object.sha256),
    objects.map((object: Buffer) => sha256Of(object).toString('hex')),
  )
})

test('offer vectors: each bad offer is refused with its code', () => {
  for (const { name, offer, code } of vectors.refusedOffers) {
    assert.throws(
      () => openOffer(bytes(offer), peer),
      error => isGatewayError(error, code),
      name,
    )
  }
})

test('leaf vectors: objects lie on the byte line as written, and ranges have these digests', () => {
  const map = mapLeaves(vectors.objects)

  assert.equal(map.leafCount, vectors.leaves)
  for (const { run, pieces, rangeDigest: digest } of vectors.ranges) {
    const found = map.pieces(run)
    assert.deepEqual(
      found.map(({ ordinal, offset, length }) => ({ ordinal, offset, length })),
      pieces,
    )
    const digests = found.map(({ ordinal, offset, length }) =>
      sha256Of(objects[ordinal]?.subarray(offset, offset + length) ?? new Uint8Array()),
    )
    assert.equal(formatDigestField(rangeDigest(digests)), digest)
  }
})

test('bitmap vectors: leaves are these bits', () => {
  for (const { leaves, set, base64 } of vectors.bitmaps) {
    const map = new Bitmap(leaves)
    for (const leaf of set) map.add({ from: leaf, to: leaf })
    assert.equal(map.toBase64(), base64)
  }
})

test('receipt vectors: a chain has these bytes, verifies, and does not in another order', () => {
  const envelopes: string[] = vectors.receipts.map((receipt: { envelope: string }) => receipt.envelope)
  const chain = verifyChain(envelopes.map(bytes), expectation)

  for (const [place, { receipt, sha256 }] of chain.entries()) {
    assert.equal(sha256, vectors.receipts[place].sha256)
    assert.equal(text(signReceipt(receipt, receiver).envelope), envelopes[place])
  }
  assert.throws(
    () => verifyChain(envelopes.toReversed().map(bytes), expectation),
    error => isGatewayError(error, 'RECEIPT_INVALID'),
  )
  assert.equal(openReceipt(bytes(vectors.rangeRefusal), expectation).receipt.range, '0-1')
})

test('cancellation vector: it has these bytes', () => {
  const { manifest, from, to, time, reason } = vectors.cancellation

  assert.equal(
    text(signCancellation({ manifest, from, to, time: instant(time), reason }, sender)),
    vectors.cancellationEnvelope,
  )
})
