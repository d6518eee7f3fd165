import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { isGatewayError } from '../../gateway/errors.ts'
import { Bitmap } from '../../peers/bitmap.ts'
import { keyId, type Signer, signWith } from '../../peers/envelope.ts'
import { mapLeaves, parseRun } from '../../peers/leaves.ts'
import { checkOffer, openOffer, signOffer } from '../../peers/offer.ts'
import { rangeDigest, sha256Of } from '../../peers/range-digest.ts'
import { verifyChain } from '../../peers/receipt.ts'
import { signingKeyPair } from '../../peers/sodium.ts'

const load = async (name: string) => JSON.parse(await readFile(new URL(`../vectors/${name}`, import.meta.url), 'utf8'))

function site({ seed, siteId }: { seed: string; siteId: string }): Signer & { siteId: string } {
  const { publicKey, privateKey } = signingKeyPair(Buffer.from(seed, 'base64'))
  assert.equal(keyId(publicKey), siteId)
  return { siteId, signingKey: publicKey, sign: (context, bytes) => signWith(privateKey, context, bytes) }
}

test('manifest vectors: signing gives these bytes and this name, and each case opens or is refused as it says', async () => {
  const vectors = await load('manifest.json')
  const a = site(vectors.keys.A)
  const peer = { siteId: a.siteId, signingKeys: [a.signingKey] }
  const offer = Buffer.from(vectors.sign.offer)

  const { manifest, id } = openOffer(offer, peer)
  assert.equal(id, vectors.sign.name)
  assert.deepEqual(Buffer.from(signOffer(manifest, a).bytes), offer)
  for (const { name, offer: text } of vectors.open) {
    assert.deepEqual(openOffer(Buffer.from(text), peer).manifest, manifest, name)
  }
  for (const { name, offer: text, code } of vectors.refuse) {
    assert.throws(
      () => openOffer(Buffer.from(text), peer),
      error => isGatewayError(error, code),
      name,
    )
  }
  for (const { now, at = 'B', code } of vectors.check) {
    const check = () => checkOffer(manifest, { siteId: vectors.keys[at].siteId, now: new Date(now) })
    if (code === undefined) check()
    else assert.throws(check, error => isGatewayError(error, code), now)
  }
})

test('leaf vectors: ranges have these pieces and digests, bitmaps this spelling', async () => {
  const vectors = await load('leaves.json')
  const map = mapLeaves(vectors.sizes)

  assert.equal(map.leafCount, vectors.leaves)
  for (const { range, bytes, pieces, digest } of vectors.ranges) {
    const run = parseRun(range, vectors.leaves)
    const found = map.pieces(run)
    assert.equal(map.runBytes(run), bytes)
    assert.deepEqual(
      found.map(piece => [piece.ordinal, piece.offset, piece.length]),
      pieces,
    )
    const digests = found.map(({ ordinal, offset, length }) =>
      sha256Of(Uint8Array.from({ length }, (_, index) => (ordinal * 31 + (offset + index) * 7) & 255)),
    )
    assert.equal(rangeDigest(digests).toString('hex'), digest)
  }
  for (const range of vectors.refuseRanges) assert.throws(() => parseRun(range, vectors.leaves), range)
  for (const { leaves, set, base64 } of vectors.bitmaps) {
    const map = Bitmap.fromBase64(base64, leaves)
    assert.deepEqual(
      Array.from({ length: leaves }, (_, leaf) => leaf).filter(leaf => map.has(leaf)),
      set,
    )
    assert.equal(map.toBase64(), base64)
  }
  for (const { leaves, base64 } of vectors.refuseBitmaps) assert.throws(() => Bitmap.fromBase64(base64, leaves), base64)
})

test('receipt vectors: each chain verifies or is refused as it says', async () => {
  const vectors = await load('receipt.json')
  const expected = { ...vectors.expected, keys: [site(vectors.keys.B).signingKey] }
  const chainOf = (receipts: string[]) =>
    verifyChain(
      receipts.map(text => Buffer.from(text)),
      expected,
    )

  for (const { name, receipts, kinds, last } of vectors.chains) {
    const chain = chainOf(receipts)
    assert.deepEqual(
      chain.map(link => link.receipt.kind),
      kinds,
      name,
    )
    assert.equal(chain.at(-1)?.sha256, last)
  }
  for (const { name, receipts } of vectors.refuse) {
    assert.throws(
      () => chainOf(receipts),
      error => isGatewayError(error, 'RECEIPT_INVALID'),
      name,
    )
  }
})
