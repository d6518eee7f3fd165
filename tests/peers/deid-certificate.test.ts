import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  certificateType,
  type DeidCertificate,
  objectsDigest,
  openCertificate,
  signCertificate,
} from '../../peers/deid-certificate.ts'
import { encodePayload, type Signer, sha256Hex, signEnvelope, signWith } from '../../peers/envelope.ts'
import type { Manifest } from '../../peers/manifest.ts'
import { signingKeyPair } from '../../peers/sodium.ts'

const signer = (seed: number): Signer => {
  const { publicKey, privateKey } = signingKeyPair(new Uint8Array(32).fill(seed))
  return { signingKey: publicKey, sign: (context, bytes) => signWith(privateKey, context, bytes) }
}
const [ours, others] = [signer(1), signer(2)]
const created = new Date('2026-01-02T03:04:05.000Z')
const objects = ['1', '2'].map(digit => ({
  sopInstanceUid: `2.25.${digit}`,
  sopClassUid: '1.2.840.10008.5.1.4.1.1.2',
  transferSyntaxUid: '1.2.840.10008.1.2.1',
  study: 0,
  sizeBytes: 10,
  sha256: digit.repeat(64),
}))
const bare: Manifest = {
  from: 'a'.repeat(32),
  to: 'b'.repeat(32),
  created,
  expires: new Date('2026-01-03T03:04:05.000Z'),
  priority: 'normal',
  purpose: 'trial',
  policy: { version: 1, sha256: '0'.repeat(64) },
  rule: 'trial',
  profile: 'trial',
  studies: [{ studyInstanceUid: '2.25.9', instances: 2, basis: 'timer' }],
  objects,
  attachments: [],
  nonce: Buffer.alloc(32).toString('base64'),
}
const good: DeidCertificate = {
  from: bare.from,
  to: bare.to,
  created,
  profile: { name: 'trial', sha256: '3'.repeat(64), basis: 'consent', edition: '2026d' },
  dates: 'shifted',
  notDone: [],
  counts: { keep: 3 },
  groups: [{ instances: 2, sopClassUid: '1.2.840.10008.5.1.4.1.1.2', pixels: 'unchanged', methods: ['113100'] }],
  objects: { count: 2, sha256: objectsDigest(objects) },
}
const carrying = (envelope: Uint8Array, manifest: Manifest = bare): Manifest => ({
  ...manifest,
  deidentification: sha256Hex(envelope),
  certificate: Buffer.from(envelope).toString('base64'),
})
const signed = (change: Partial<DeidCertificate> = {}, by = ours): Uint8Array =>
  signCertificate({ ...good, ...change }, by).envelope

test('a certificate is opened as it was signed, and a manifest without one has none', () => {
  assert.deepEqual(openCertificate(carrying(signed()), [ours.signingKey])?.certificate.groups, good.groups)
  assert.equal(openCertificate(bare, [ours.signingKey]), undefined)
  assert.deepEqual(signed(), signed(), 'the same certificate has the same bytes')
})

test('the digest of objects depends on their order, UIDs and bytes', () => {
  const [first, second] = objects
  assert.ok(first && second)
  assert.equal(objectsDigest(objects), sha256Hex(Buffer.from(`2.25.1 ${'1'.repeat(64)}\n2.25.2 ${'2'.repeat(64)}\n`)))
  assert.notEqual(objectsDigest([second, first]), objectsDigest(objects))
})

const wrong: Readonly<Record<string, Manifest>> = {
  'another digest than the manifest names': { ...carrying(signed()), deidentification: '4'.repeat(64) },
  'no digest in the manifest': { ...bare, certificate: Buffer.from(signed()).toString('base64') },
  'the signature of another site': carrying(signed({}, others)),
  'another sender': carrying(signed({ from: 'c'.repeat(32) })),
  'another recipient': carrying(signed({ to: 'c'.repeat(32) })),
  'another profile': carrying(signed({ profile: { ...good.profile, name: 'basic' } })),
  'other objects': carrying(signed({ objects: { count: 2, sha256: '5'.repeat(64) } })),
  'another number of objects': carrying(signed({ objects: { ...good.objects, count: 3 } })),
  'groups that do not add up': carrying(signed({ groups: good.groups.map(group => ({ ...group, instances: 1 })) })),
  'something else that was signed': carrying(signEnvelope(certificateType, encodePayload({ version: 1 }), ours)),
  'no envelope': carrying(Buffer.from('hello')),
}
for (const [what, manifest] of Object.entries(wrong)) {
  test(`a certificate with ${what} is refused`, () => {
    assert.throws(() => openCertificate(manifest, [ours.signingKey]), { code: 'CERTIFICATE_INVALID' })
  })
}
