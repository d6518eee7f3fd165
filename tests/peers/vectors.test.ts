import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { before, test } from 'node:test'
import { GatewayError, isGatewayError } from '../../gateway/errors.ts'
import { openCard, type SignedCard, signCard } from '../../peers/card.ts'
import {
  keyId,
  openEnvelope,
  preAuthEncoding,
  type SignatureContext,
  type Signer,
  signEnvelope,
  signWith,
} from '../../peers/envelope.ts'
import type { SiteKeys } from '../../peers/keys.ts'
import { openStep, signStep } from '../../peers/pairing-messages.ts'
import { commitment, pairingLabels, shortAuthenticationString } from '../../peers/sas.ts'
import { sealingKeyPair, signingKeyPair } from '../../peers/sodium.ts'

const load = async (name: string) => JSON.parse(await readFile(new URL(`../vectors/${name}`, import.meta.url), 'utf8'))
const bytes = (base64: string): Buffer => Buffer.from(base64, 'base64')
const text = (buffer: Uint8Array): string => Buffer.from(buffer).toString()

function signerOf(seed: string): Signer {
  const { publicKey, privateKey } = signingKeyPair(bytes(seed))
  return { signingKey: publicKey, sign: (context, message) => signWith(privateKey, context, message) }
}

test('envelope vectors: signing gives these bytes, and each case opens or is refused as it says', async () => {
  const vectors = await load('envelope.json')
  const context: SignatureContext = vectors.payloadType
  const signers: Record<string, Signer> = { A: signerOf(vectors.keys.A.seed), B: signerOf(vectors.keys.B.seed) }
  const keyOf = (name: string): Signer => signers[name] ?? assert.fail()

  for (const [name, key] of Object.entries<{ public: string; keyid: string }>(vectors.keys)) {
    assert.deepEqual(Buffer.from(keyOf(name).signingKey), bytes(key.public))
    assert.equal(keyId(keyOf(name).signingKey), key.keyid)
  }
  for (const { payload, by, pae, envelope } of vectors.sign) {
    const [first, ...rest] = by.map(keyOf)
    assert.equal(Buffer.from(preAuthEncoding(context, Buffer.from(payload))).toString('hex'), pae)
    assert.equal(text(signEnvelope(context, Buffer.from(payload), first, ...rest)), envelope)
  }
  for (const { name, envelope, open, refuse } of vectors.verify) {
    const run = () =>
      openEnvelope(Buffer.from(envelope), {
        context,
        maxBytes: 10_000,
        keys: [keyOf('A').signingKey],
        malformed: 'MANIFEST_MALFORMED',
        untrusted: 'MANIFEST_SIGNATURE',
      })
    if (open !== undefined) assert.equal(text(run().payload), open, name)
    else {
      const code = refuse === 'untrusted' ? 'MANIFEST_SIGNATURE' : 'MANIFEST_MALFORMED'
      assert.throws(run, error => isGatewayError(error, code), name)
    }
  }
})

interface Site {
  readonly keys: SiteKeys
  readonly card: SignedCard
}
const sites: Site[] = []

before(async () => {
  for (const vector of (await load('site-card.json')).sign) {
    const keys = siteKeys(vector)
    sites.push({ keys, card: openCard(Buffer.from(vector.envelope), Date.parse(vector.content.created)) })
  }
})

// Exactly what a card is made of; the methods that vectors have no use for fail.
function siteKeys(vector: { keys: Record<string, string>; keysValidFrom: string }): SiteKeys {
  const { signingSeed = '', sealingSeed = '', siteId = '', caCertificate = '' } = vector.keys
  const unused = () => assert.fail('not part of a vector')
  return {
    ...signerOf(signingSeed),
    siteId,
    sealingKey: sealingKeyPair(bytes(sealingSeed)).publicKey,
    validFrom: Date.parse(vector.keysValidFrom),
    formerKeys: [],
    caCertificate: new X509Certificate(bytes(caCertificate)).toString(),
    tls: unused,
    renewTls: unused,
    dicomTls: unused,
    issueInvitation: unused,
    openSealed: unused,
  }
}

test('site card vectors: keys and content give these bytes, and invalid cards are refused', async () => {
  const vectors = await load('site-card.json')
  const now = Date.parse(vectors.now)

  for (const vector of vectors.sign) {
    const signed = signCard(siteKeys(vector), { ...vector.content, created: Date.parse(vector.content.created) })
    assert.equal(text(signed.bytes), vector.envelope)
    assert.equal(signed.payloadSha256, vector.payloadSha256)
    assert.equal(signed.card.siteId, vector.keys.siteId)
    assert.deepEqual(Buffer.from(signed.card.sealingKey), bytes(vector.keys.sealingKey))
  }
  for (const { name, envelope } of vectors.open) {
    assert.doesNotThrow(() => openCard(Buffer.from(envelope), now), name)
  }
  for (const { name, envelope } of vectors.refuse) {
    assert.throws(
      () => openCard(Buffer.from(envelope), now),
      error => isGatewayError(error, 'PEER_CARD_INVALID'),
      name,
    )
  }
})

test('pairing vectors: commitment, both strings and every signed message are these', async () => {
  const vectors = await load('pairing.json')
  const [a, b] = sites
  assert.ok(a && b)
  const { invitation } = vectors
  const created = a.card.card.created
  const inviter = { cardSha256: a.card.payloadSha256, nonce: bytes(vectors.inviter.nonce) }
  const joiner = { cardSha256: b.card.payloadSha256, nonce: bytes(vectors.joiner.nonce) }
  const promise = commitment(invitation, joiner)

  assert.ok(
    vectors.commitmentInput.startsWith(Buffer.from(`DSSEv1 27 ${pairingLabels.commitment} 80 `).toString('hex')),
  )
  assert.equal(promise.toString('hex'), vectors.commitment)
  assert.equal(shortAuthenticationString('online', invitation, inviter, joiner), vectors.sasOnline)
  assert.equal(shortAuthenticationString('file', invitation, inviter, joiner), vectors.sasFile)
  const offer = { invitation, refersTo: vectors.commitment, card: a.card, nonce: inviter.nonce, created }
  assert.equal(text(signStep('offer', offer, a.keys)), vectors.offer)
  assert.equal(openStep('offer', Buffer.from(vectors.offer), created).payloadSha256, vectors.offerSha256)
  const reveal = { invitation, refersTo: vectors.offerSha256, card: b.card, nonce: joiner.nonce, created }
  assert.equal(text(signStep('reveal', reveal, b.keys)), vectors.reveal)
  const answer = { invitation, refersTo: a.card.payloadSha256, card: b.card, nonce: joiner.nonce, created }
  assert.equal(text(signStep('answer', answer, b.keys)), vectors.answer)
})

test('a signed step opens as its own kind only', async () => {
  const vectors = await load('pairing.json')
  const now = sites[0]?.card.card.created ?? 0

  for (const made of ['offer', 'reveal', 'answer'] as const) {
    for (const read of ['offer', 'reveal', 'answer'] as const) {
      const open = () => openStep(read, Buffer.from(vectors[made]), now)
      if (made === read) assert.doesNotThrow(open)
      else assert.throws(open, GatewayError)
    }
  }
})
