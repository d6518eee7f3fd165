import assert from 'node:assert/strict'
import { generateKeyPairSync, sign } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import { checkpointText, isSigned, namedType, noteKey, noteSigner, parseCheckpoint } from '../../gateway/audit/note.ts'
import { isGatewayError } from '../../gateway/errors.ts'

// The example of the C2SP tlog-checkpoint specification.
const example = `example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
`
// The example of the reference implementation's documentation, golang.org/x/mod/sumdb/note.
const peter = {
  name: 'PeterNeumann',
  publicKey: Buffer.from('ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW', 'base64').subarray(1),
  note:
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n" +
    '— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n',
}

function keys(name: string, type?: Uint8Array) {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  const raw = Buffer.from(publicKey.export({ format: 'jwk' }).x ?? '', 'base64url')
  const options = { name, publicKey: raw, ...(type && { type }) }
  return { signer: noteSigner({ ...options, sign: text => sign(null, text, privateKey) }), key: noteKey(options) }
}

test('the specification example reads as origin, size and root', () => {
  const { origin, size, root, text } = parseCheckpoint(example)

  assert.deepEqual([origin, size, root.length], ['example.com/behind-the-sofa', 20_852_163, 32])
  assert.equal(text, checkpointText({ origin, size, root }))
})

test('a note signed by the reference implementation verifies, and not with one letter changed', () => {
  const key = noteKey(peter)

  assert.equal(isSigned(peter.note, [key]), true)
  assert.equal(isSigned(peter.note.replace('answer', 'Answer'), [key]), false)
})

test('what a signer signs verifies with its key and no other', async () => {
  const text = checkpointText({ origin: 'hanse/a', size: 3, root: Buffer.alloc(32, 7) })
  const [own, other, renamed] = [keys('hanse/a'), keys('hanse/a'), keys('hanse/b')]
  const ours = keys('hanse/a', namedType('hanse.test'))

  const note = `${text}\n${await own.signer.sign(text)}`
  const both = `${note}${await ours.signer.sign(text)}`

  assert.equal(isSigned(note, [own.key]), true)
  assert.equal(isSigned(note, [other.key, renamed.key, ours.key]), false)
  assert.equal(isSigned(both, [ours.key]), true)
  assert.equal(isSigned(note.replace('\n3\n', '\n4\n'), [own.key]), false)
})

test('anything that is not a checkpoint is refused with its own code', () => {
  const { key } = keys('hanse/a')
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.constant(example).map(note => note.slice(3, -9)),
      ),
      note => {
        assert.equal(isSigned(note, [key]), false)
        try {
          parseCheckpoint(note)
        } catch (error) {
          assert.ok(isGatewayError(error, 'AUDIT_BROKEN'))
        }
      },
    ),
  )
  for (const size of ['-1', '01', '1e3', '', '99999999999999999']) {
    const note = example.replace('20852163', size)
    assert.throws(() => parseCheckpoint(note), { code: 'AUDIT_BROKEN' })
  }
})
