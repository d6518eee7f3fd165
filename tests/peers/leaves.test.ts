import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isGatewayError } from '../../gateway/errors.ts'
import { leafBytes, mapLeaves, maxRangeLeaves, parseRun } from '../../peers/leaves.ts'

test('a leaf holds many small objects and a large object spans leaves', () => {
  const map = mapLeaves([10, leafBytes, 5])

  assert.equal(map.leafCount, 2)
  assert.deepEqual(map.pieces({ from: 0, to: 0 }), [
    { ordinal: 0, offset: 0, length: 10, at: 0 },
    { ordinal: 1, offset: 0, length: leafBytes - 10, at: 10 },
  ])
  assert.deepEqual(map.pieces({ from: 1, to: 1 }), [
    { ordinal: 1, offset: leafBytes - 10, length: 10, at: 0 },
    { ordinal: 2, offset: 0, length: 5, at: 10 },
  ])
  assert.deepEqual(map.runOf(1), { from: 0, to: 1 })
})

test('the pieces of any cut of the line cover every byte of every object once', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 3 * leafBytes }), { minLength: 1, maxLength: 20 }),
      fc.integer({ min: 1, max: maxRangeLeaves }),
      (sizes, step) => {
        const map = mapLeaves(sizes)
        const covered = new Map<number, number>()
        for (let from = 0; from < map.leafCount; from += step) {
          const run = { from, to: Math.min(from + step, map.leafCount) - 1 }
          let at = 0
          for (const piece of map.pieces(run)) {
            assert.equal(piece.at, at)
            assert.equal(piece.offset, covered.get(piece.ordinal) ?? 0)
            covered.set(piece.ordinal, piece.offset + piece.length)
            at += piece.length
          }
          assert.equal(at, map.runBytes(run))
        }
        assert.deepEqual(
          sizes.map((_, ordinal) => covered.get(ordinal)),
          sizes,
        )
      },
    ),
  )
})

test('a range outside the transfer, reversed, too long or not in plain digits is refused', () => {
  assert.deepEqual(parseRun('3-10', 11), { from: 3, to: 10 })
  for (const text of ['3-11', '4-3', '0-8', '03-4', '-1-2', '1', '1-2-3', '1e1-12', '']) {
    assert.throws(
      () => parseRun(text, 11),
      error => isGatewayError(error, 'CHUNK_RANGE'),
      text,
    )
  }
})
