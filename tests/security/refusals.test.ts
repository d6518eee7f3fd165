import assert from 'node:assert/strict'
import { randomInt } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import type { Agent } from 'node:https'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { connect } from 'node:tls'
import { at, field, items } from '../../gateway/cli/answer.ts'
import type { ErrorCode } from '../../gateway/errors.ts'
import { offeredId } from '../../gateway/services/inbound.ts'
import { signCancellation } from '../../peers/cancel.ts'
import { signEnvelope } from '../../peers/envelope.ts'
import type { SiteKeys } from '../../peers/keys.ts'
import { encodeManifest, joinOffer, type Manifest, manifestType } from '../../peers/manifest.ts'
import { type Offer, signOffer } from '../../peers/offer.ts'
import { receiptType } from '../../peers/receipt.ts'
import { type BuiltInstance, buildInstance, seededUid } from '../support/dicom-builder.ts'
import { buildStudy } from '../support/federation.ts'
import { type ProcessGateway, prepareProcessGateway } from '../support/process-gateway.ts'
import { pair } from '../support/process-pair.ts'
import { until } from '../support/until.ts'
import {
  agentOf,
  ask,
  contentDigest,
  flipped,
  type HostileAnswer,
  makeKeys,
  manifestOf,
  objectOf,
  pairWith,
  refusalIn,
  trusting,
  untilClosed,
  type Victim,
} from './hostile.ts'

/** A hostile site, paired and active at B like honest A. */
interface Scene {
  readonly a: ProcessGateway
  readonly b: ProcessGateway
  readonly victim: Victim
  readonly mallory: SiteKeys
  readonly agent: Agent
  /** The same as another site, paired too. */
  readonly other: SiteKeys
  readonly otherAgent: Agent
}

async function openScene(t: TestContext): Promise<Scene> {
  const a = await prepareProcessGateway(t, 'site-a')
  const b = await prepareProcessGateway(t, 'site-b')
  const [mallory, other] = await Promise.all([makeKeys(t, 'mallory'), makeKeys(t, 'other'), a.start(), b.start()])
  await pair(a, b)
  const { victim } = await admit(b, mallory, 'mallory')
  await admit(b, other, 'other')
  return {
    a,
    b,
    victim,
    mallory,
    other,
    agent: agentOf(t, victim, mallory.tls()),
    otherAgent: agentOf(t, victim, other.tls()),
  }
}

async function admit(b: ProcessGateway, keys: SiteKeys, name: string) {
  const paired = await pairWith(b, keys, name)
  await b.api('POST', `/api/v1/peers/${paired.peerId}/confirm`, { sas: paired.sas })
  return paired
}

const offers = (body: Uint8Array) => ({ method: 'POST', path: '/x/1/offers', body })
const leaves = (
  id: string,
  range: string,
  body: Uint8Array,
  headers: Record<string, string> = contentDigest(body),
) => ({
  method: 'PUT',
  path: `/x/1/offers/${id}/leaves/${range}`,
  body,
  headers,
})
const commit = (id: string) => ({ method: 'POST', path: `/x/1/offers/${id}/commit` })
const stateOf = (id: string) => ({ method: 'GET', path: `/x/1/offers/${id}` })
const state = (answer: HostileAnswer): Record<string, unknown> => JSON.parse(answer.body.toString())
const lineOf = (study: readonly BuiltInstance[]): Buffer => Buffer.concat(study.map(({ bytes }) => bytes))

/** The newest audit events, newest first; reading them is an event too. */
async function auditOf(b: ProcessGateway): Promise<{ id: number; reason: string; outcome: string; site: string }[]> {
  const events = items(await b.api('GET', '/api/v1/audit/events?limit=1000'), 'events')
  return events.map(event => ({
    id: Number(at(event, 'id')),
    reason: field(event, 'event', 'reason'),
    outcome: field(event, 'event', 'outcome'),
    site: field(items(event, 'event', 'participants')[0], 'userId'),
  }))
}

/** Everything that B keeps of what others send. */
async function keptAt(b: ProcessGateway): Promise<object> {
  const admin = await b.admin()
  try {
    const { rows } = await admin.query<Record<string, string>>(`
      select (select count(*) from instances) as instances, (select count(*) from studies) as studies,
             (select count(*) from patients) as patients, (select count(*) from conflicts) as conflicts,
             (select count(*) from quarantine) as quarantine, (select count(*) from inbound_transfers) as transfers,
             (select coalesce(sum(bytes_received), 0) from inbound_transfers) as received`)
    return { ...rows[0], staged: (await readdir(join(b.data, 'inbound'))).sort() }
  } finally {
    await admin.end()
  }
}

/**
 * What is asked is refused with this code, and the audit log tells; with `signed`, the answer carries a
 * refusal that B signed. Nothing is kept of it.
 */
async function assertRefused(
  { b, victim, mallory }: Scene,
  what: string,
  question: () => Promise<HostileAnswer>,
  expected: { code: ErrorCode; manifest?: string; kind?: 'range-refused'; signed?: false; audited?: false },
): Promise<void> {
  const before = await keptAt(b)
  const [newest] = await auditOf(b)
  const answer = await question()
  assert.equal(answer.code, expected.code, `${what}: ${answer.body.toString().slice(0, 300)}`)
  if (expected.signed === false) assert.equal(answer.receipt, undefined, what)
  else {
    const receipt = refusalIn(answer, victim, mallory, expected.manifest ?? '')
    assert.equal(receipt.kind, expected.kind ?? 'refused', what)
    assert.equal(receipt.code, expected.code, what)
  }
  if (expected.audited !== false) {
    const events = (await auditOf(b)).filter(({ id }) => id > (newest?.id ?? 0))
    const found = events.find(({ reason, site }) => reason === expected.code && site === mallory.siteId)
    assert.equal(found?.outcome, 'serious-failure', `${what}: audited`)
  }
  assert.deepEqual(await keptAt(b), before, `${what}: nothing is kept`)
}

test('what is wrong with a transfer is refused with its own code, signed and audited, and leaves nothing', async t => {
  const scene = await openScene(t)
  const { a, b, victim, mallory, agent, other, otherAgent } = scene
  const study = buildStudy(2, { seed: 7 })
  const signed = (change: Partial<Manifest> = {}, keys = mallory): Offer =>
    signOffer(manifestOf(keys, victim, study, change), keys)
  /** A payload that our own encoder would not write, signed as it is. */
  const rewritten = (edit: (payload: string) => string): Uint8Array => {
    const { payload } = encodeManifest(manifestOf(mallory, victim, study))
    return signEnvelope(manifestType, Buffer.from(edit(Buffer.from(payload).toString())), mallory)
  }
  const offerRefused = (what: string, body: Uint8Array, code: ErrorCode, more: { signed?: false } = {}) =>
    assertRefused(scene, what, () => ask(victim, agent, offers(body)), { code, manifest: offeredId(body), ...more })

  await t.test('a manifest with one bit flipped, at any place', async () => {
    const { bytes } = signed()
    const seed = randomInt(2 ** 31)
    let random = seed
    const next = (below: number): number => {
      random = (Math.imul(random, 1_664_525) + 1_013_904_223) >>> 0
      return random % below
    }
    const before = await keptAt(b)
    const seen = new Map<string, number>()
    for (let count = 0; count < 120; count++) {
      const bit = next(bytes.length * 8)
      const altered = flipped(bytes, bit)
      const answer = await ask(victim, agent, offers(altered))
      const place = `bit ${bit}, seed ${seed}`
      assert.match(answer.code, /^MANIFEST_(SIGNATURE|MALFORMED|SENDER)$/, place)
      assert.equal(refusalIn(answer, victim, mallory, offeredId(altered)).code, answer.code, place)
      seen.set(answer.code, (seen.get(answer.code) ?? 0) + 1)
    }
    assert.deepEqual(await keptAt(b), before)
    const audited = (await auditOf(b)).filter(({ reason }) => reason.startsWith('MANIFEST_'))
    for (const [code, times] of seen) assert.ok(audited.filter(({ reason }) => reason === code).length >= times, code)
  })

  await t.test('a manifest that is not for this, by the wrong one, at the wrong time', async () => {
    const minute = 60_000
    const now = Date.now()
    await offerRefused('another recipient', signed({ to: mallory.siteId }).bytes, 'MANIFEST_RECIPIENT')
    await offerRefused(
      'expired',
      signed({ created: new Date(now - 90 * minute), expires: new Date(now - 60 * minute) }).bytes,
      'MANIFEST_EXPIRED',
    )
    await offerRefused(
      'from the future',
      signed({ created: new Date(now + 30 * minute), expires: new Date(now + 90 * minute) }).bytes,
      'PEER_CLOCK_DRIFT',
      { signed: false },
    )
    await offerRefused("another peer's name in our signature", signed({ from: other.siteId }).bytes, 'MANIFEST_SENDER')
    await offerRefused(
      "another peer's signature under our name",
      signEnvelope(manifestType, encodeManifest(manifestOf(mallory, victim, study)).payload, other),
      'MANIFEST_SENDER',
    )
    await offerRefused('a manifest that another peer signed', signed({}, other).bytes, 'MANIFEST_SENDER')
    await offerRefused(
      'a receipt for a manifest',
      signEnvelope(receiptType, encodeManifest(manifestOf(mallory, victim, study)).payload, mallory),
      'MANIFEST_MALFORMED',
    )
    const { payload } = encodeManifest(manifestOf(mallory, victim, study))
    const envelope = JSON.parse(Buffer.from(signEnvelope(receiptType, payload, mallory)).toString())
    await offerRefused(
      'a signature that was made for a receipt',
      Buffer.from(JSON.stringify({ ...envelope, payloadType: manifestType })),
      'MANIFEST_SIGNATURE',
    )
  })

  await t.test('a manifest of another form', async () => {
    const good = Buffer.from(signed().bytes).toString()
    await offerRefused('no JSON', Buffer.from('hello'), 'MANIFEST_MALFORMED')
    await offerRefused('nothing', new Uint8Array(), 'MANIFEST_MALFORMED')
    await offerRefused(
      'a key twice in the envelope',
      Buffer.from(good.replace('{"payloadType"', '{"payload":"e30=","payloadType"')),
      'MANIFEST_MALFORMED',
    )
    await offerRefused(
      'a key twice in the payload',
      rewritten(text => text.replace('{', '{"to":"x",')),
      'MANIFEST_MALFORMED',
    )
    await offerRefused(
      'a key twice, written in two ways',
      rewritten(text => text.replace('{', '{"t\\u006f":"x",')),
      'MANIFEST_MALFORMED',
    )
    await offerRefused(
      'a prototype',
      rewritten(text => text.replace('{', '{"__proto__":{"to":"x"},')),
      'MANIFEST_MALFORMED',
    )
    await offerRefused(
      'another version',
      rewritten(text => text.replace('"version":1', '"version":2')),
      'MANIFEST_VERSION',
    )
    await offerRefused(
      'a name where a word belongs',
      rewritten(text => text.replace('"treatment"', '"TEST^SECRET^NAME"')),
      'MANIFEST_MALFORMED',
    )
    await offerRefused(
      'a nest',
      rewritten(() => `${'['.repeat(5000)}${']'.repeat(5000)}`),
      'MANIFEST_MALFORMED',
    )
    await offerRefused(
      'a size beyond all limits',
      rewritten(text => text.replace(/"sizeBytes":\d+/g, '"sizeBytes":1e15')),
      'MANIFEST_MALFORMED',
    )
    await offerRefused(
      'sizes that do not add up',
      rewritten(text => text.replace(/"bytes":\d+/, '"bytes":1')),
      'MANIFEST_MALFORMED',
    )
    await offerRefused(
      'a path for a UID',
      rewritten(text => text.replace(/"sopInstanceUid":"[^"]+"/, '"sopInstanceUid":"../../etc"')),
      'MANIFEST_MALFORMED',
    )
    await offerRefused(
      'one instance twice',
      signed({ objects: [study[0], study[0]].map(item => objectOf(item ?? buildInstance())) }).bytes,
      'MANIFEST_MALFORMED',
    )
    const page = Buffer.from('{"objects":[]}')
    await offerRefused('pages that nobody named', joinOffer(signed().bytes, [page, page]), 'MANIFEST_MALFORMED')
    await offerRefused('too many pages', joinOffer(signed().bytes, Array(30).fill(page)), 'MANIFEST_LIMIT')
    await offerRefused(
      'for longer than a year',
      signed({ expires: new Date(Date.now() + 400 * 86_400_000) }).bytes,
      'MANIFEST_LIMIT',
    )
    const attachment = { kind: 'report', mediaType: 'text/plain', sizeBytes: 1, sha256: 'ab'.repeat(32) }
    await offerRefused('attachments', signed({ attachments: [attachment] }).bytes, 'OFFER_REFUSED')
  })

  await t.test('an offer that is larger than any may be, before a byte of it is read', async () => {
    const socket = connect({ host: '127.0.0.1', port: b.ports.federation, ...trusting(victim, mallory.tls()) })
    const closed = untilClosed(socket)
    const [newest] = await auditOf(b)
    socket.write(`POST /x/1/offers HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 34603008\r\n\r\n`)
    const answer = await new Promise<string>(resolve => socket.once('data', chunk => resolve(chunk.toString())))
    socket.destroy()
    await closed

    assert.match(answer, /^HTTP\/1\.1 413 /)
    assert.match(answer, /"code":"MANIFEST_LIMIT"/)
    const events = (await auditOf(b)).filter(({ id }) => id > (newest?.id ?? 0))
    assert.ok(events.some(({ reason, site }) => reason === 'MANIFEST_LIMIT' && site === mallory.siteId))
  })

  await t.test('a body without a length', async () => {
    const socket = connect({ host: '127.0.0.1', port: b.ports.federation, ...trusting(victim, mallory.tls()) })
    const answer = new Promise<string>(resolve => socket.once('data', chunk => resolve(chunk.toString())))
    socket.write('POST /x/1/offers HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n')
    assert.match(await answer, /"code":"BAD_REQUEST"/)
    socket.destroy()
  })

  const good = signed()
  const line = lineOf(study)

  await t.test('an offer repeated, also at the same moment, is one transfer and tells its state', async () => {
    const answers = await Promise.all(Array.from({ length: 8 }, () => ask(victim, agent, offers(good.bytes))))
    for (const answer of answers) {
      assert.equal(answer.status, 200)
      assert.equal(state(answer)['state'], 'receiving')
      assert.equal(state(answer)['id'], good.id)
    }
    const admin = await b.admin()
    const { rows } = await admin.query('select 1 from inbound_transfers')
    await admin.end()
    assert.equal(rows.length, 1)
    const began = (await auditOf(b)).filter(({ outcome, site }) => outcome === 'success' && site === mallory.siteId)
    assert.equal(began.length, 1)
  })

  await t.test('another peer cannot see, feed, end or replay it', async () => {
    const before = await keptAt(b)
    const cancellation = (from: SiteKeys, signer: SiteKeys): Uint8Array =>
      signCancellation(
        { manifest: good.id, from: from.siteId, to: victim.siteId, time: new Date(), reason: 'person' },
        signer,
      )
    for (const question of [
      stateOf(good.id),
      leaves(good.id, '0-0', line),
      commit(good.id),
      { method: 'POST', path: `/x/1/offers/${good.id}/cancel`, body: cancellation(other, other) },
      { method: 'GET', path: `/x/1/offers/${good.id}/receipts` },
    ]) {
      assert.equal((await ask(victim, otherAgent, question)).code, 'NOT_FOUND', `${question.method} ${question.path}`)
    }
    assert.equal((await ask(victim, otherAgent, offers(good.bytes))).code, 'MANIFEST_SENDER')
    assert.deepEqual(await keptAt(b), before)
    const cancel = (body: Uint8Array) => ({ method: 'POST', path: `/x/1/offers/${good.id}/cancel`, body })
    await assertRefused(
      scene,
      'a forged cancellation',
      () => ask(victim, agent, cancel(cancellation(mallory, other))),
      {
        code: 'MANIFEST_SIGNATURE',
        signed: false,
      },
    )
    await assertRefused(
      scene,
      "another site's cancellation",
      () => ask(victim, agent, cancel(cancellation(other, mallory))),
      { code: 'MANIFEST_SENDER', signed: false },
    )
    assert.equal(state(await ask(victim, agent, stateOf(good.id)))['state'], 'receiving')
  })

  await t.test('a chunk that is not what it says', async () => {
    const refused = (what: string, question: ReturnType<typeof leaves>, code: ErrorCode) =>
      assertRefused(scene, what, () => ask(victim, agent, question), {
        code,
        manifest: good.id,
        kind: 'range-refused',
      })
    await refused('a flipped bit', leaves(good.id, '0-0', flipped(line, 4711), contentDigest(line)), 'CHUNK_DIGEST')
    await refused('no digest', leaves(good.id, '0-0', line, {}), 'CHUNK_DIGEST')
    await refused(
      'a digest of another kind',
      leaves(good.id, '0-0', line, { 'content-digest': 'md5=:1B2M2Y8AsgTpgAmY7PhCfg==:' }),
      'CHUNK_DIGEST',
    )
    await refused(
      'a wrong digest of the range beside a right one of the content',
      leaves(good.id, '0-0', line, {
        ...contentDigest(line),
        'hanse-range-digest': contentDigest(Buffer.from('x'))['content-digest'] ?? '',
      }),
      'CHUNK_DIGEST',
    )
    await refused('a byte too few', leaves(good.id, '0-0', line.subarray(1)), 'CHUNK_RANGE')
    await refused('a byte too many', leaves(good.id, '0-0', Buffer.concat([line, Buffer.alloc(1)])), 'CHUNK_RANGE')
    await refused('nothing', leaves(good.id, '0-0', new Uint8Array()), 'CHUNK_RANGE')
    for (const range of [
      '1-1',
      '0-1',
      '1-0',
      '0-4294967296',
      '00-0',
      '-1-0',
      '0-0x',
      '9007199254740993-9007199254740993',
    ]) {
      await refused(`the range ${range}`, leaves(good.id, range, line), 'CHUNK_RANGE')
    }
  })

  await t.test('a chunk whose sender goes away in the middle', async () => {
    const before = await keptAt(b)
    const socket = connect({ host: '127.0.0.1', port: b.ports.federation, ...trusting(victim, mallory.tls()) })
    const closed = untilClosed(socket)
    const digest = contentDigest(line)['content-digest'] ?? ''
    socket.write(
      `PUT /x/1/offers/${good.id}/leaves/0-0 HTTP/1.1\r\nhost: x\r\ncontent-digest: ${digest}\r\ncontent-length: ${line.length}\r\n\r\n`,
    )
    await new Promise<void>(resolve => socket.write(line.subarray(0, 1000), () => resolve()))
    socket.destroy()
    await closed
    assert.equal((await ask(victim, agent, stateOf(good.id))).status, 200)
    assert.deepEqual(await keptAt(b), before)
  })

  await t.test('a commit before everything is there', async () => {
    await assertRefused(scene, 'commit', () => ask(victim, agent, commit(good.id)), {
      code: 'OFFER_INCOMPLETE',
      signed: false,
      audited: false,
    })
  })

  await t.test(
    'a chunk repeated, also at the same moment, is acknowledged; another one in its place is refused',
    async () => {
      const answers = await Promise.all(
        Array.from({ length: 6 }, () => ask(victim, agent, leaves(good.id, '0-0', line))),
      )
      assert.deepEqual(
        answers.map(({ status }) => status),
        Array(6).fill(204),
      )
      assert.equal((await ask(victim, agent, leaves(good.id, '0-0', line))).status, 204)
      await assertRefused(
        scene,
        'other bytes for an acknowledged leaf',
        () => ask(victim, agent, leaves(good.id, '0-0', flipped(line, 99_999))),
        { code: 'CHUNK_CONFLICT', manifest: good.id, kind: 'range-refused' },
      )
    },
  )

  await t.test('a commit repeated, also at the same moment, imports once', async () => {
    const answers = await Promise.all(Array.from({ length: 6 }, () => ask(victim, agent, commit(good.id))))
    for (const answer of answers) assert.equal(answer.status, 202)
    await untilState(scene, good.id, 'imported')
    assert.equal(state(await ask(victim, agent, commit(good.id)))['state'], 'imported')
    assert.equal(state(await ask(victim, agent, offers(good.bytes)))['state'], 'imported')
    assert.equal(Number(at(await b.api('GET', '/statistics'), 'CountInstances')), 2)
  })

  await t.test(
    'objects that are not what the manifest says are held: nothing is visible, no blob is named',
    async () => {
      const elsewhere = seededUid('study', 999)
      const built = buildInstance({ seed: 90, studyInstanceUid: elsewhere })
      const cases: [string, ErrorCode, BuiltInstance, Partial<Manifest['objects'][number]>][] = [
        ['other bytes', 'OBJECT_DIGEST', built, { sha256: 'cd'.repeat(32) }],
        ['another SOP Instance UID', 'OBJECT_MISMATCH', built, { sopInstanceUid: '1.2.3' }],
        ['another SOP Class UID', 'OBJECT_MISMATCH', built, { sopClassUid: '1.2.840.10008.5.1.4.1.1.4' }],
        ['another transfer syntax', 'OBJECT_MISMATCH', built, { transferSyntaxUid: '1.2.840.10008.1.2' }],
        ['no DICOM', 'DICOM_UNREADABLE', { ...built, bytes: Buffer.alloc(5000, 0x41) }, {}],
        ['half a file', 'DICOM_UNREADABLE', { ...built, bytes: built.bytes.subarray(0, 400) }, {}],
      ]
      for (const [what, code, instance, lie] of cases) {
        await assertHeld(scene, what, code, [instance], { objects: [{ ...objectOf(instance), ...lie }] })
      }
      const twoStudies = buildInstance({ seed: 91, studyInstanceUid: elsewhere })
      await assertHeld(scene, 'another study', 'OBJECT_MISMATCH', [twoStudies], {
        studies: [{ studyInstanceUid: '1.2.3.4', instances: 1, basis: 'timer' }],
      })
      const mixed = [buildInstance({ seed: 92, studyInstanceUid: elsewhere }), built]
      await assertHeld(scene, 'one good and one bad object', 'OBJECT_MISMATCH', mixed, {
        objects: mixed.map((item, index) => ({ ...objectOf(item), ...(index === 1 && { sopInstanceUid: '1.2.3' }) })),
      })
    },
  )

  await t.test('bytes that claim an instance which B has, with other content, change nothing of it', async () => {
    const [first] = study
    assert.ok(first)
    const impostor = buildInstance({
      seed: 7000,
      sopInstanceUid: first.sopInstanceUid,
      studyInstanceUid: first.studyInstanceUid,
      seriesInstanceUid: first.seriesInstanceUid,
      patientName: 'TEST^IMPOSTOR',
    })
    await assertHeld(scene, 'an impostor', 'STATE_CONFLICT', [impostor], {})
  })

  await t.test("a manifest that A really sent to B is worth nothing in another peer's hands", async () => {
    const honest = buildStudy(2, { seed: 8 })
    const ids = await Promise.all(
      honest.map(async ({ bytes }) => {
        const response = await fetch(`${a.url}/instances`, { method: 'POST', body: Buffer.from(bytes) })
        assert.equal(response.status, 200)
        return response.json()
      }),
    )
    assert.equal(ids.length, 2)
    const { id } = await a.api('POST', '/api/v1/transfers', {
      study: honest[0]?.studyInstanceUid,
      destination: 'site-b',
    })
    const transfer = await until('the transfer of A', 60_000, async () => {
      const found = await a.api('GET', `/api/v1/transfers/${id}`)
      return ['receipted', 'refused', 'held'].includes(field(found, 'state')) ? found : undefined
    })
    assert.equal(field(transfer, 'state'), 'receipted')
    const admin = await b.admin()
    const { rows } = await admin.query<{ manifest: Buffer }>(
      'select t.manifest from inbound_transfers t join peers p on p.id = t.peer where p.name = $1',
      ['site-a'],
    )
    await admin.end()
    const stolen = rows[0]?.manifest
    assert.ok(stolen)
    await offerRefused("A's manifest", stolen, 'MANIFEST_SENDER')
  })

  await t.test('what was refused is in no log in clear, and the audit log verifies', async () => {
    for (const gateway of [a, b]) {
      assert.doesNotMatch(gateway.output(), /TEST\^|TEST-\d/)
      const verdict = await gateway.api('POST', '/api/v1/audit/verify', {})
      assert.equal(at(verdict, 'ok'), true)
    }
  })
})

async function untilState({ victim, agent }: Scene, id: string, wanted: string): Promise<Record<string, unknown>> {
  return await until(`the transfer is ${wanted}`, 60_000, async () => {
    const now = state(await ask(victim, agent, stateOf(id)))
    return now['state'] === wanted ? now : undefined
  })
}

/** Sends everything as a peer would, and finds it held with this code: kept in staging only. */
async function assertHeld(
  scene: Scene,
  what: string,
  code: ErrorCode,
  instances: readonly BuiltInstance[],
  change: Partial<Manifest>,
): Promise<void> {
  const { b, victim, mallory, agent } = scene
  const visible = await visibleAt(b)
  const offer = signOffer(manifestOf(mallory, victim, instances, change), mallory)
  const line = lineOf(instances)
  assert.equal((await ask(victim, agent, offers(offer.bytes))).status, 200, what)
  assert.equal((await ask(victim, agent, leaves(offer.id, '0-0', line))).status, 204, what)
  assert.equal((await ask(victim, agent, commit(offer.id))).status, 202, what)
  const held = await untilState(scene, offer.id, 'held')
  assert.equal(held['needsPerson'], true, what)
  const last = items(held, 'receipts').at(-1)
  const receipt = refusalIn(
    { status: 0, body: Buffer.alloc(0), code, receipt: String(last) },
    victim,
    mallory,
    offer.id,
  )
  assert.equal(receipt.kind, 'held', what)
  assert.equal(receipt.code, code, what)
  assert.deepEqual(await visibleAt(b), visible, what)
  assert.ok(
    (await auditOf(b)).some(event => event.reason === code && event.outcome === 'serious-failure'),
    what,
  )
  const again = state(await ask(victim, agent, commit(offer.id)))
  assert.equal(again['state'], 'held', `${what}: a repeated commit`)
}

/** Rows that users or blobs depend on, as text. */
async function visibleAt(b: ProcessGateway): Promise<string> {
  const admin = await b.admin()
  try {
    const { rows } = await admin.query(`
      select sop_instance_uid as uid, encode(file_sha256, 'hex') as file from instances
      union all select sop_instance_uid, encode(file_sha256, 'hex') from conflicts
      union all select reason_code, encode(file_sha256, 'hex') from quarantine order by 1, 2`)
    return JSON.stringify(rows)
  } finally {
    await admin.end()
  }
}
