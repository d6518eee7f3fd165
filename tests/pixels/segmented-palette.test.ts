import assert from 'node:assert/strict'
import { test } from 'node:test'
import { expandSegments } from '../../gateway/pixels/segmented-palette.ts'

test('values one by one, lines from the value before, and repeats of earlier segments', () => {
  // 3 values; a line of 4 to 140; both again, by their offset in bytes.
  const sixteen = [0, 3, 10, 20, 100, 1, 4, 140, 2, 2, 0, 0]
  assert.deepEqual(
    [...(expandSegments(sixteen, 16, 14) ?? [])],
    [10, 20, 100, 110, 120, 130, 140, 10, 20, 100, 110, 120, 130, 140],
  )
  const eight = [0, 1, 7, 1, 3, 1, 2, 1, 3, 0, 0, 0]
  assert.deepEqual([...(expandSegments(eight, 8, 7) ?? [])], [7, 5, 3, 1, 1, 1, 1])
})

test('what makes too few or too many entries, repeats repeats, leads out or never ends is no palette', () => {
  for (const units of [
    [],
    [0],
    [0, 5, 1],
    [0, 2, 1, 2],
    [0, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    [3, 4, 1],
    [2, 1, 0, 0],
    [0, 1, 5, 2, 1, 6, 0],
    [0, 1, 5, 2, 60_000, 65_535, 65_535],
    [0, 0, 2, 65_535, 0, 0, 0, 0, 2, 65_535, 0, 0],
  ])
    assert.equal(expandSegments(units, 16, 4), undefined, JSON.stringify(units))
})
