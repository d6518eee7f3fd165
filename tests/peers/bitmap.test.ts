import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isGatewayError } from '../../gateway/errors.ts'
import { Bitmap } from '../../peers/bitmap.ts'

test('bit n is bit n & 7 of byte n >> 3, least significant first', () => {
  const map = new Bitmap(10)

  map.add({ from: 0, to: 0 })
  map.add({ from: 8, to: 9 })

  assert.equal(map.toBase64(), Buffer.from([0b0000_0001, 0b0000_0011]).toString('base64'))
  assert.deepEqual([map.has(0), map.has(1), map.has(8), map.count()], [true, false, true, 3])
})

test('a bitmap of the wrong length, with stray bits or in another encoding is refused', () => {
  for (const text of ['AA==', 'AAAA', 'AAQ=', 'AA E=', 'AAE']) {
    assert.throws(
      () => Bitmap.fromBase64(text, 10),
      error => isGatewayError(error, 'PEER_PROTOCOL'),
      text,
    )
  }
})

test('runs cover exactly the leaves in the set, each once and none longer than asked', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 90 }).chain(n => fc.tuple(fc.array(fc.boolean(), { minLength: n, maxLength: n }))),
      fc.integer({ min: 1, max: 9 }),
      ([bits], most) => {
        const map = new Bitmap(bits.length)
        bits.forEach((bit, leaf) => {
          if (bit) map.add({ from: leaf, to: leaf })
        })
        const seen = new Array<boolean>(bits.length).fill(false)
        for (let run = map.nextRun(0, most); run; run = map.nextRun(run.to + 1, most)) {
          assert.ok(run.to - run.from < most)
          for (let leaf = run.from; leaf <= run.to; leaf++) seen[leaf] = true
        }
        assert.deepEqual(seen, bits)
        assert.equal(map.count() + map.complement().count(), bits.length)
        assert.deepEqual(Bitmap.fromBase64(map.toBase64(), bits.length), map)
        assert.deepEqual(map.complement().complement(), map)
      },
    ),
  )
})
