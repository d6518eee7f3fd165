import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import fc from 'fast-check'
import { emptyRoot, leafHash, MerkleTree, nodeHash } from '../../gateway/audit/merkle.ts'

const vectors: { leavesHex: string[]; rootsHex: string[] } = JSON.parse(
  readFileSync(new URL('../vectors/rfc6962-tree.json', import.meta.url), 'utf8'),
)

/** RFC 6962 §2.1 word for word: split at the largest power of two below n. */
function naiveRoot(entries: readonly Uint8Array[]): Buffer {
  if (entries.length === 0) return emptyRoot
  const [first] = entries
  if (first && entries.length === 1) return leafHash(first)
  let k = 1
  while (k * 2 < entries.length) k *= 2
  return nodeHash(naiveRoot(entries.slice(0, k)), naiveRoot(entries.slice(k)))
}

test('the tree gives the roots of the Certificate Transparency vectors', () => {
  const tree = new MerkleTree()
  const roots = [tree.root().toString('hex')]

  for (const leaf of vectors.leavesHex) {
    tree.append(Buffer.from(leaf, 'hex'))
    roots.push(tree.root().toString('hex'))
  }

  assert.deepEqual(roots, vectors.rootsHex)
})

test('the frontier gives the same root as the recursive definition, also when it was stored in between', () => {
  const entries = fc.array(fc.uint8Array({ maxLength: 8 }), { maxLength: 70 })
  fc.assert(
    fc.property(entries, fc.nat(70), (all, cut) => {
      const before = new MerkleTree()
      for (const entry of all.slice(0, cut)) before.append(entry)
      const after = new MerkleTree(before.size, before.frontier)
      for (const entry of all.slice(cut)) after.append(entry)

      assert.equal(after.size, all.length)
      assert.deepEqual(after.root(), naiveRoot(all))
    }),
    { numRuns: 60 },
  )
})
