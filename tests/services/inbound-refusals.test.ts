import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import type { ErrorCode } from '../../gateway/errors.ts'
import { offeredId } from '../../gateway/services/inbound.ts'
import type { LeafRun } from '../../peers/bitmap.ts'
import { signEnvelope } from '../../peers/envelope.ts'
import {
  type Answer,
  commitRequest,
  offerRequest,
  type PeerConnection,
  processRange,
  processState,
  rangeRequest,
  stateRequest,
} from '../../peers/https-client.ts'
import { mapLeaves } from '../../peers/leaves.ts'
import { encodeManifest, type Manifest, manifestType } from '../../peers/manifest.ts'
import { type Offer, signOffer } from '../../peers/offer.ts'
import { formatDigestField, rangeDigest } from '../../peers/range-digest.ts'
import { openReceipt } from '../../peers/receipt.ts'
import { onEnd } from '../support/cleanup.ts'
import type { BuiltInstance } from '../support/dicom-builder.ts'
import {
  auditOf,
  buildStudy,
  connectionTo,
  type FederationSite,
  makePeers,
  startFederationSite,
  visibleAt,
} from '../support/federation.ts'
import { until } from '../support/until.ts'

interface Pair {
  readonly a: FederationSite
  readonly b: FederationSite
  readonly wire: PeerConnection
}

const signal = AbortSignal.timeout(120_000)

async function startPair(t: TestContext): Promise<Pair> {
  const [a, b] = await Promise.all([startFederationSite(t, { name: 'A' }), startFederationSite(t, { name: 'B' })])
  const { ofA } = await makePeers(a, b)
  const wire = connectionTo(a, ofA)
  onEnd(t, () => wire.pool.destroy())
  return { a, b, wire }
}

/** A manifest of these instances, valid unless changed. */
function manifestOf({ a, b }: Pair, instances: readonly BuiltInstance[], change: Partial<Manifest> = {}): Manifest {
  return {
    from: a.keys.siteId,
    to: b.keys.siteId,
    created: new Date(),
    expires: new Date(Date.now() + 3_600_000),
    priority: 'normal',
    purpose: 'treatment',
    policy: { version: 1, sha256: 'ab'.repeat(32) },
    rule: 'all',
    profile: 'as-is',
    studies: [{ studyInstanceUid: instances[0]?.studyInstanceUid ?? '', instances: instances.length, basis: 'timer' }],
    objects: instances.map(item => ({
      sopInstanceUid: item.sopInstanceUid,
      sopClassUid: item.sopClassUid,
      transferSyntaxUid: item.transferSyntaxUid,
      study: 0,
      sizeBytes: item.bytes.length,
      sha256: sha256(item.bytes).toString('hex'),
    })),
    attachments: [],
    nonce: Buffer.alloc(32, 1).toString('base64'),
    ...change,
  }
}

const sha256 = (bytes: Uint8Array): Buffer => createHash('sha256').update(bytes).digest()
const digestFor = (study: readonly BuiltInstance[], run: LeafRun, bytes: Uint8Array): Uint8Array => {
  const pieces = mapLeaves(study.map(item => item.bytes.length)).pieces(run)
  return rangeDigest(pieces.map(piece => sha256(bytes.subarray(piece.at, piece.at + piece.length))))
}
const leavesOf = (bytes: number): number => Math.ceil(bytes / 1048576)

function problem(answer: Answer): { code: ErrorCode; receipt?: string } {
  return JSON.parse(Buffer.from(answer.body).toString())
}

/** The refusal has this code, is signed by the receiver, is in its audit log, and left nothing behind. */
async function assertRefused(
  { a, b }: Pair,
  answer: Answer,
  expected: { code: ErrorCode; manifest: string; kind?: 'range-refused' },
) {
  const { code, receipt } = problem(answer)
  assert.equal(code, expected.code)
  assert.ok(receipt, 'a signed refusal')
  const signed = openReceipt(Buffer.from(receipt), {
    manifest: expected.manifest,
    from: b.keys.siteId,
    to: a.keys.siteId,
    keys: [b.keys.signingKey],
  })
  assert.equal(signed.receipt.kind, expected.kind ?? 'refused')
  assert.equal(signed.receipt.code, code)
  assert.ok((await auditOf(b)).some(event => event.reason === code && event.outcome === 'serious-failure'))
  assert.deepEqual(await visibleAt(b), [])
}

async function assertNothingStored({ b }: Pair): Promise<void> {
  assert.equal((await b.db.kysely.selectFrom('inbound_transfers').select('id').execute()).length, 0)
  assert.deepEqual(await readdir(join(b.dataDir, 'inbound')), [])
}

test('an offer that is not right is refused with its own code, signed, audited, and stores nothing', async t => {
  const pair = await startPair(t)
  const { a, b, wire } = pair
  const study = buildStudy(2)
  const c = await startFederationSite(t, { name: 'C' })
  const good = signOffer(manifestOf(pair, study), a.keys)
  const offers: [string, ErrorCode, Uint8Array][] = [
    ['a flipped bit in the signed payload', 'MANIFEST_SIGNATURE', flipInPayload(good.bytes)],
    [
      'a wrong recipient',
      'MANIFEST_RECIPIENT',
      signOffer(manifestOf(pair, study, { to: c.keys.siteId }), a.keys).bytes,
    ],
    [
      'an expired manifest',
      'MANIFEST_EXPIRED',
      signOffer(manifestOf(pair, study, { created: ago(90), expires: ago(60) }), a.keys).bytes,
    ],
    [
      "another site's manifest",
      'MANIFEST_SENDER',
      signOffer(manifestOf(pair, study, { from: c.keys.siteId }), c.keys).bytes,
    ],
    ['a lie about the sizes', 'MANIFEST_MALFORMED', signLie(pair, study)],
    ['no manifest at all', 'MANIFEST_MALFORMED', Buffer.from('{}')],
  ]

  for (const [what, code, bytes] of offers) {
    await t.test(what, async () => {
      const answer = await offerRequest(wire, bytes, signal)

      await assertRefused(pair, answer, { code, manifest: offeredId(bytes) })
    })
  }

  await assertNothingStored(pair)
  assert.ok(b)
})

test('a clock that is ahead is named with drift and side, and is no refusal for good', async t => {
  const pair = await startPair(t)
  const early = signOffer(manifestOf(pair, buildStudy(1), { created: ago(-20), expires: ago(-60) }), pair.a.keys)

  const answer = await offerRequest(pair.wire, early.bytes, signal)

  const { code, receipt } = problem(answer)
  assert.deepEqual([code, receipt], ['PEER_CLOCK_DRIFT', undefined])
  assert.match(Buffer.from(answer.body).toString(), /sender's clock is 1200 s ahead/)
  await assertNothingStored(pair)
})

test('ranges that are damaged, out of place or of another length are refused and change nothing', async t => {
  const pair = await startPair(t)
  const { a, wire } = pair
  const study = buildStudy(4, { rows: 512 }) // 2 MiB in 3 leaves
  const line = Buffer.concat(study.map(item => item.bytes))
  const offer = signOffer(manifestOf(pair, study), a.keys)
  await offerRequest(wire, offer.bytes, signal)
  const first = line.subarray(0, 1048576)
  const flipped = Uint8Array.from(first)
  flipped[1000] = (flipped[1000] ?? 0) ^ 1
  const run = { from: 0, to: 0 }
  const expected = { manifest: offer.id, kind: 'range-refused' } as const

  const damaged = await rangeRequest(
    wire,
    offer.id,
    { run, bytes: flipped, digest: digestFor(study, run, first) },
    signal,
  )
  await assertRefused(pair, damaged, { ...expected, code: 'CHUNK_DIGEST' })
  const short = first.subarray(0, 1000)
  const lied = await rangeRequest(wire, offer.id, { run, bytes: short, digest: sha256(short) }, signal)
  await assertRefused(pair, lied, { ...expected, code: 'CHUNK_RANGE' })
  const beyond = { run: { from: 3, to: 3 }, bytes: first, digest: sha256(first) }
  await assertRefused(pair, await rangeRequest(wire, offer.id, beyond, signal), { ...expected, code: 'CHUNK_RANGE' })
  assert.equal(await wanted(pair, offer, line.length), 3)

  const range = { run, bytes: first, digest: digestFor(study, run, first) }
  assert.equal(processRange(await rangeRequest(wire, offer.id, range, signal)).kind, 'durable')
  const other = { run, bytes: flipped, digest: digestFor(study, run, flipped) }
  await assertRefused(pair, await rangeRequest(wire, offer.id, other, signal), { ...expected, code: 'CHUNK_CONFLICT' })
  assert.equal(processRange(await rangeRequest(wire, offer.id, range, signal)).kind, 'durable')
  assert.equal(await wanted(pair, offer, line.length), 2)
  const early = problem(await commitRequest(wire, offer.id, signal))
  assert.equal(early.code, 'OFFER_INCOMPLETE')
})

test('the same offer, range and commit again return the state that was reached', async t => {
  const pair = await startPair(t)
  const { a, b, wire } = pair
  const study = buildStudy(3)
  const line = Buffer.concat(study.map(item => item.bytes))
  const offer = signOffer(manifestOf(pair, study), a.keys)
  const run = { from: 0, to: 0 }
  const range = { run, bytes: line, digest: digestFor(study, run, line) }
  const stateOf = (answer: Answer) => {
    const result = processState(answer, { id: offer.id, leafCount: 1 })
    assert.equal(result.kind, 'state')
    return result.kind === 'state' ? result.state.state : undefined
  }

  const states = [
    stateOf(await offerRequest(wire, offer.bytes, signal)),
    stateOf(await offerRequest(wire, offer.bytes, signal)),
  ]
  await Promise.all([rangeRequest(wire, offer.id, range, signal), rangeRequest(wire, offer.id, range, signal)])
  await commitRequest(wire, offer.id, signal)
  await until('imported', 20_000, async () => stateOf(await stateRequest(wire, offer.id, signal)) === 'imported')
  states.push(stateOf(await commitRequest(wire, offer.id, signal)))
  states.push(stateOf(await offerRequest(wire, offer.bytes, signal)))

  assert.deepEqual(states, ['receiving', 'receiving', 'imported', 'imported'])
  assert.equal((await visibleAt(b)).length, 3)
  assert.equal((await b.db.kysely.selectFrom('inbound_transfers').select('id').execute()).length, 1)
  assert.deepEqual(await readdir(join(b.dataDir, 'inbound')), [])
  const late = problem(await rangeRequest(wire, offer.id, range, signal))
  assert.equal(late.code, 'STATE_CONFLICT')
})

test('a sender may give a plain Content-Digest instead, and must give one of the two', async t => {
  const pair = await startPair(t)
  const study = buildStudy(2)
  const line = Buffer.concat(study.map(item => item.bytes))
  const offer = signOffer(manifestOf(pair, study), pair.a.keys)
  await offerRequest(pair.wire, offer.bytes, signal)
  const put = async (headers: Record<string, string>): Promise<number> => {
    const path = `/x/1/offers/${offer.id}/leaves/0-0`
    const type = { 'content-type': 'application/octet-stream' }
    const response = await pair.wire.pool.request({ method: 'PUT', path, body: line, headers: { ...type, ...headers } })
    await response.body.dump()
    return response.statusCode
  }

  assert.equal(await put({}), 400)
  assert.equal(await put({ 'content-digest': formatDigestField(sha256(Buffer.from('other'))) }), 400)
  assert.equal(await put({ 'content-digest': `md5=:eA==:, ${formatDigestField(sha256(line))}` }), 204)
})

test("another peer's transfer is not found", async t => {
  const pair = await startPair(t)
  const { a, b, wire } = pair
  const c = await startFederationSite(t, { name: 'C' })
  const { ofA } = await makePeers(c, b)
  const other = connectionTo(c, ofA)
  onEnd(t, () => other.pool.destroy())
  const study = buildStudy(1)
  const offer = signOffer(manifestOf(pair, study), a.keys)
  await offerRequest(wire, offer.bytes, signal)
  const bytes = study[0]?.bytes ?? new Uint8Array()

  const run = { from: 0, to: 0 }
  const range = { run, bytes, digest: digestFor(study, run, bytes) }
  assert.equal(problem(await rangeRequest(other, offer.id, range, signal)).code, 'NOT_FOUND')
  assert.equal(problem(await stateRequest(other, offer.id, signal)).code, 'NOT_FOUND')
  assert.equal(problem(await commitRequest(other, offer.id, signal)).code, 'NOT_FOUND')
  assert.equal(problem(await offerRequest(other, offer.bytes, signal)).code, 'MANIFEST_SENDER')
})

test('a full disk refuses the offer for now, not for good', async t => {
  const a = await startFederationSite(t, { name: 'A' })
  const space = { freeBytes: 10 * 2 ** 30, totalBytes: 100 * 2 ** 30 }
  const b = await startFederationSite(t, {
    name: 'B',
    freeSpace: {
      lowWatermarkBytes: 9 * 2 ** 30,
      resumeBytes: 9 * 2 ** 30,
      measure: () => Promise.resolve({ ...space }),
    },
  })
  const { ofA } = await makePeers(a, b)
  const wire = connectionTo(a, ofA)
  onEnd(t, () => wire.pool.destroy())
  const study = buildStudy(1)
  const offer = signOffer(manifestOf({ a, b, wire }, study), a.keys)

  space.freeBytes = 2 ** 30
  await until('the watermark is noticed', 10_000, async () => {
    const answer = await offerRequest(wire, offer.bytes, signal)
    return answer.status === 507 && answer.retryAfterMs === 60_000 && problem(answer).receipt === undefined
  })
  space.freeBytes = 20 * 2 ** 30
  await until('it is taken again', 10_000, async () => (await offerRequest(wire, offer.bytes, signal)).status === 200)
})

test('nothing is served beside the protocol', async t => {
  const { wire } = await startPair(t)
  for (const path of ['/', '/x/1/', '/x/1/offers', '/x/1/offers/zz', '/x/2/site', '/system', '/x/1/site/..%2f..']) {
    const { statusCode, body } = await wire.pool.request({ method: 'GET', path })
    await body.dump()
    assert.equal(statusCode, 404, path)
  }
  const { statusCode, body } = await wire.pool.request({ method: 'GET', path: '/x/1/site' })
  await body.dump()
  assert.equal(statusCode, 200)
})

const ago = (minutes: number): Date => new Date(Date.now() - minutes * 60_000)

function flipInPayload(offer: Uint8Array): Uint8Array {
  const envelope = JSON.parse(Buffer.from(offer).toString())
  const payload = Buffer.from(envelope.payload, 'base64')
  const at = payload.indexOf('"purpose":"') + 12
  payload[at] = (payload[at] ?? 0) ^ 1
  return Buffer.from(JSON.stringify({ ...envelope, payload: payload.toString('base64') }))
}

function signLie(pair: Pair, study: readonly BuiltInstance[]): Uint8Array {
  const payload = JSON.parse(Buffer.from(encodeManifest(manifestOf(pair, study)).payload).toString())
  payload.totals.bytes += 1
  return signEnvelope(manifestType, Buffer.from(JSON.stringify(payload)), pair.a.keys)
}

async function wanted({ wire }: Pair, offer: Offer, bytes: number): Promise<number> {
  const answer = processState(await stateRequest(wire, offer.id, signal), {
    id: offer.id,
    leafCount: leavesOf(bytes),
  })
  return answer.kind === 'state' ? answer.state.want.count() : -1
}
