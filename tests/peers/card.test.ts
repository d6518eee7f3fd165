import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { GatewayError, isGatewayError } from '../../gateway/errors.ts'
import { cardContext, openCard, signCard } from '../../peers/card.ts'
import { encodePayload, signEnvelope } from '../../peers/envelope.ts'
import { testKeys } from '../support/site.ts'

const now = Date.now()
const content = { name: 'Hospital A', urls: ['https://a.example:8443'], created: now }

test('a card says what its site says, and survives being read and written', async t => {
  const keys = await testKeys(t, 'A')

  const { card, bytes } = signCard(keys, { ...content, limits: { rangeBytes: 8_388_608 } })

  assert.equal(card.siteId, keys.siteId)
  assert.equal(card.name, 'Hospital A')
  assert.deepEqual(card.urls, content.urls)
  assert.equal(card.caCertificate, keys.caCertificate)
  assert.deepEqual(card.limits.rangeBytes, 8_388_608)
  assert.deepEqual(signCard(keys, { ...content, limits: { rangeBytes: 8_388_608 } }).bytes, bytes)
})

test('a site cannot sign a card that its peers would refuse', async t => {
  const keys = await testKeys(t, 'A')

  for (const changes of [
    { name: ' A' },
    { name: 'A\u0000' },
    { name: 'ab'.repeat(16) },
    { urls: ['https://a.example/'] },
    { urls: ['http://a'] },
  ]) {
    assert.throws(
      () => signCard(keys, { ...content, ...changes }),
      error => isGatewayError(error, 'PEER_CARD_INVALID'),
    )
  }
})

test('names of all scripts are names', async t => {
  const keys = await testKeys(t, 'A')

  for (const name of ['Hôpital Saint-Éloi', '東京大学病院', 'بیمارستان می‌لاد', 'Klinik „Süd“ (Haus 3)', '🏥']) {
    assert.equal(signCard(keys, { ...content, name }).card.name, name)
  }
})

test('no flipped bit of a card is accepted as another card', async t => {
  const keys = await testKeys(t, 'A')
  const { bytes, payloadSha256 } = signCard(keys, content)

  fc.assert(
    fc.property(fc.nat({ max: bytes.length * 8 - 1 }), bit => {
      const changed = Buffer.from(bytes)
      changed.writeUInt8(changed.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3)
      try {
        assert.equal(openCard(changed, now).payloadSha256, payloadSha256)
      } catch (error) {
        if (!(error instanceof GatewayError)) throw error
      }
    }),
    { numRuns: 1000 },
  )
})

test('whatever a site signs as its card, reading it fails with a card error only', async t => {
  const keys = await testKeys(t, 'A')
  const valid = JSON.parse(
    Buffer.from(JSON.parse(Buffer.from(signCard(keys, content).bytes).toString()).payload, 'base64').toString(),
  )
  const anyField = fc.oneof(fc.jsonValue(), fc.constant(undefined), fc.base64String(), fc.webUrl())

  fc.assert(
    fc.property(fc.constantFrom(...Object.keys(valid)), anyField, (field, value) => {
      const bytes = signEnvelope(cardContext, encodePayload({ ...valid, [field]: value }), keys)
      try {
        openCard(bytes, now)
      } catch (error) {
        if (!isGatewayError(error, 'PEER_CARD_INVALID')) throw error
      }
    }),
    { numRuns: 500 },
  )
})
