import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { type ErrorCode, GatewayError, isGatewayError } from '../../gateway/errors.ts'
import { signEnvelope } from '../../peers/envelope.ts'
import { leafBytes } from '../../peers/leaves.ts'
import { encodeManifest, joinOffer, type Manifest, manifestType, maxObjects } from '../../peers/manifest.ts'
import { checkOffer, openOffer, signOffer } from '../../peers/offer.ts'
import { digestOf, testManifest, testObject, testSite } from '../support/offers.ts'

const a = testSite(1)
const b = testSite(2)
const peer = { siteId: a.siteId, signingKeys: [a.signingKey] }
const manifest = testManifest(a.siteId, b.siteId)

const refusedAs = (code: ErrorCode) => (error: unknown) => isGatewayError(error, code)

/** Signs a payload that was changed after it was written. */
function signChanged(change: (payload: Record<string, unknown>) => void): Uint8Array {
  const payload = JSON.parse(Buffer.from(encodeManifest(manifest).payload).toString())
  change(payload)
  return signEnvelope(manifestType, Buffer.from(JSON.stringify(payload)), a)
}

test('a manifest is read as it was written, and signing it again gives the same bytes', () => {
  const full: Manifest = {
    ...manifest,
    deadline: new Date('2026-05-05T00:00:00.000Z'),
    agreement: { id: 'a-b', sha256: digestOf('agreement') },
    consent: 'consent 17',
    deidentification: digestOf('certificate'),
    amends: digestOf('earlier'),
    sealed: Buffer.from('sealed').toString('base64'),
    objects: [
      testObject(0, { segments: [[digestOf('object 0'), 1000]] }),
      testObject(1, {
        sizeBytes: leafBytes + 7,
        segments: [
          [digestOf('head'), 6],
          [digestOf('body'), leafBytes + 1, Buffer.alloc(64, 1).toString('base64')],
        ],
      }),
    ],
  }

  const offer = signOffer(full, a)

  assert.deepEqual(openOffer(offer.bytes, peer).manifest, full)
  assert.deepEqual(signOffer(full, a), offer)
})

test('more than 5,000 objects travel in pages that the manifest names by hash', () => {
  const count = 5_003
  const paged = testManifest(a.siteId, b.siteId, count)

  const offer = signOffer(paged, a)
  const opened = openOffer(offer.bytes, peer)

  assert.equal(opened.manifest.objects.length, count)
  assert.deepEqual(opened.manifest.objects, paged.objects)
  const changed = Uint8Array.from(offer.bytes)
  changed[changed.length - 30] = (changed[changed.length - 30] ?? 0) ^ 1
  assert.throws(() => openOffer(changed, peer), refusedAs('MANIFEST_MALFORMED'))
  const { envelope } = { envelope: offer.bytes.subarray(0, offer.bytes.indexOf(0x0a)) }
  assert.throws(() => openOffer(envelope, peer), refusedAs('MANIFEST_MALFORMED'))
})

test('more objects than any transfer may have are refused by the sender', () => {
  const many = testManifest(a.siteId, b.siteId, maxObjects + 1)

  assert.throws(() => signOffer(many, a), refusedAs('MANIFEST_LIMIT'))
})

test('one flipped bit anywhere in an offer refuses it', () => {
  const { bytes } = signOffer(manifest, a)
  fc.assert(
    fc.property(fc.integer({ min: 0, max: bytes.length * 8 - 1 }), bit => {
      const changed = Uint8Array.from(bytes)
      changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      assert.throws(
        () => openOffer(changed, peer),
        error => error instanceof GatewayError && error.code.startsWith('MANIFEST_'),
      )
    }),
    { numRuns: 500 },
  )
})

test("another site's manifest is refused as that, not as a bad signature", () => {
  const foreign = testSite(3)

  assert.throws(
    () => openOffer(signOffer(testManifest(foreign.siteId, b.siteId), foreign).bytes, peer),
    refusedAs('MANIFEST_SENDER'),
  )
  assert.throws(
    () => openOffer(signOffer(testManifest(foreign.siteId, b.siteId), a).bytes, peer),
    refusedAs('MANIFEST_SENDER'),
  )
})

test('a wrong recipient, an expired manifest and a clock ahead of ours have codes of their own', () => {
  const at = (iso: string, siteId = b.siteId) => ({ siteId, now: new Date(iso) })

  checkOffer(manifest, at('2026-05-04T09:56:00.000Z'))
  checkOffer(manifest, at('2026-05-11T10:04:00.000Z'))
  assert.throws(() => checkOffer(manifest, at('2026-05-04T10:00:00.000Z', a.siteId)), refusedAs('MANIFEST_RECIPIENT'))
  assert.throws(() => checkOffer(manifest, at('2026-05-11T10:06:00.000Z')), refusedAs('MANIFEST_EXPIRED'))
  assert.throws(
    () => checkOffer(manifest, at('2026-05-04T09:50:00.000Z')),
    (error: unknown) =>
      isGatewayError(error, 'PEER_CLOCK_DRIFT') && /sender's clock is 600 s ahead/.test(error.message),
  )
})

test('a correctly signed lie about sizes, counts or places is refused', () => {
  const lies: Record<string, (payload: Record<string, unknown>) => void> = {
    total: payload => Object.assign(payload, { totals: { objects: 2, bytes: 2002 } }),
    count: payload => Object.assign(payload, { totals: { objects: 3, bytes: 2001 } }),
    study: payload =>
      Object.assign(payload, { studies: [{ studyInstanceUid: '1.2.3', instances: 1, basis: 'timer' }] }),
    place: payload => Object.assign(payload, { objects: [testObject(0), testObject(1, { study: 1 })] }),
    zero: payload => Object.assign(payload, { objects: [testObject(0), testObject(1, { sizeBytes: 0 })] }),
    unsafe: payload => Object.assign(payload, { objects: [testObject(0), testObject(1, { sizeBytes: 2 ** 53 })] }),
    twice: payload =>
      Object.assign(payload, {
        objects: [testObject(0), testObject(1, { sopInstanceUid: testObject(0).sopInstanceUid })],
      }),
    uid: payload =>
      Object.assign(payload, { objects: [testObject(0), testObject(1, { sopInstanceUid: '../etc/passwd' })] }),
    segments: payload =>
      Object.assign(payload, { objects: [testObject(0), testObject(1, { segments: [[digestOf('x'), 1001]] })] }),
    chunks: payload =>
      Object.assign(payload, {
        objects: [testObject(0), testObject(1, { segments: [[digestOf('object 1'), 1001, '']] })],
      }),
    lifetime: payload => Object.assign(payload, { expires: '2026-05-04T10:00:00.000Z' }),
    time: payload => Object.assign(payload, { created: '2026-05-04 10:00' }),
    none: payload => Object.assign(payload, { objects: [] }),
    both: payload => Object.assign(payload, { pages: [] }),
  }
  for (const [name, lie] of Object.entries(lies)) {
    assert.throws(() => openOffer(signChanged(lie), peer), refusedAs('MANIFEST_MALFORMED'), name)
  }
  assert.throws(
    () =>
      openOffer(
        signChanged(p => Object.assign(p, { version: 2 })),
        peer,
      ),
    refusedAs('MANIFEST_VERSION'),
  )
  assert.throws(
    () =>
      openOffer(
        signChanged(p => Object.assign(p, { expires: '2028-05-04T10:00:00.000Z' })),
        peer,
      ),
    refusedAs('MANIFEST_LIMIT'),
  )
})

test('a field that a newer sender adds is left alone', () => {
  const offer = signChanged(payload => Object.assign(payload, { transport: { hint: 1 } }))

  assert.deepEqual(openOffer(offer, peer).manifest, manifest)
})

test('a repeated key is refused although it is signed', () => {
  const payload = Buffer.from(encodeManifest(manifest).payload).toString().replace('{', '{"rule":"other",')

  assert.throws(
    () => openOffer(signEnvelope(manifestType, Buffer.from(payload), a), peer),
    refusedAs('MANIFEST_MALFORMED'),
  )
})

test('whatever bytes are offered, only our own errors come out', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), bytes => {
      assert.throws(
        () => openOffer(bytes, peer),
        error => error instanceof GatewayError,
      )
    }),
  )
  assert.throws(
    () => openOffer(joinOffer(signOffer(manifest, a).bytes, new Array(11).fill(new Uint8Array())), peer),
    refusedAs('MANIFEST_LIMIT'),
  )
})
