import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decode } from '../../gateway/decode.ts'
import { HostAddresses } from '../../gateway/services/host-addresses.ts'
import { type Modality, type ModalityInput, modalityInput, storedModality } from '../../gateway/services/modality.ts'
import { type Caller, identifyCaller } from '../../gateway/services/modality-caller.ts'
import { targetOf } from '../../gateway/services/modality-target.ts'

const pin = 'ab'.repeat(32)

function entry(input: ModalityInput): Modality {
  const result = decode(modalityInput, input)
  if (!result.ok) assert.fail(JSON.stringify(result.problems))
  return result.value
}

/** The name of the registration, or why there is none. */
async function who(caller: Omit<Caller, 'remoteAddress'> & { remoteAddress?: string }, known: readonly Modality[]) {
  const identity = await identifyCaller({ remoteAddress: '10.0.0.9', ...caller }, known, new HostAddresses())
  if (identity.kind === 'registered') return identity.modality.name
  return identity.kind === 'impostor' ? `needs ${identity.needs}` : 'unknown'
}

test('registrations of one AE title are told apart by host; one from anywhere is the last resort', async () => {
  const known = [
    entry({ name: 'any', aeTitle: 'CT' }),
    entry({ name: 'first', aeTitle: 'CT', host: '10.0.0.1' }),
    entry({ name: 'second', aeTitle: ' CT ', host: '10.0.0.2' }),
    entry({ name: 'six', aeTitle: 'CT', host: '2001:db8:0::1' }),
    entry({ name: 'here', aeTitle: 'CT', host: 'localhost' }),
  ]

  assert.equal(await who({ callingAe: 'CT', remoteAddress: '10.0.0.1' }, known), 'first')
  assert.equal(await who({ callingAe: 'CT', remoteAddress: '10.0.0.2' }, known), 'second')
  assert.equal(await who({ callingAe: 'CT', remoteAddress: '2001:DB8::1' }, known), 'six')
  assert.equal(await who({ callingAe: 'CT', remoteAddress: '127.0.0.1' }, known), 'here')
  assert.equal(await who({ callingAe: 'CT', remoteAddress: '10.0.0.3' }, known), 'any')
  assert.equal(await who({ callingAe: 'MR', remoteAddress: '10.0.0.1' }, known), 'unknown')
  assert.equal(await who({ callingAe: 'CT', remoteAddress: '10.0.0.3' }, known.slice(1)), 'unknown')
})

test('a host name that does not resolve is nobody’s', async () => {
  const known = [entry({ aeTitle: 'CT', host: 'no-such-host.invalid' })]

  assert.equal(await who({ callingAe: 'CT' }, known), 'unknown')
})

test('a registered certificate is needed for its AE title, and good for no other', async () => {
  const known = [
    entry({ name: 'pinned', aeTitle: 'CT', certificateFingerprint: pin.toUpperCase() }),
    entry({ name: 'named', aeTitle: 'MR', certificateName: 'mr.example' }),
    entry({ name: 'both', aeTitle: 'US', host: '10.0.0.9', certificateName: 'us.example' }),
    entry({ name: 'plain', aeTitle: 'XA' }),
  ]
  const named = (commonName: string) => ({ fingerprint: 'cd'.repeat(32), commonName })

  assert.equal(await who({ callingAe: 'CT', certificate: { fingerprint: pin } }, known), 'pinned')
  assert.equal(await who({ callingAe: 'CT' }, known), 'needs certificate')
  assert.equal(await who({ callingAe: 'CT', certificate: named('other') }, known), 'needs certificate')
  assert.equal(await who({ callingAe: 'XA', certificate: { fingerprint: pin } }, known), 'needs title')
  assert.equal(await who({ callingAe: 'NEW', certificate: { fingerprint: pin } }, known), 'needs title')
  assert.equal(await who({ callingAe: 'XA', certificate: named('other') }, known), 'plain')
  assert.equal(await who({ callingAe: 'MR', certificate: named('mr.example') }, known), 'named')
  assert.equal(await who({ callingAe: 'US', certificate: named('us.example') }, known), 'both')
  assert.equal(
    await who({ callingAe: 'US', remoteAddress: '10.0.0.8', certificate: named('us.example') }, known),
    'unknown',
  )
})

test('what is not permitted explicitly depends on how well a caller is known', () => {
  const basic = ['echo', 'store']

  assert.deepEqual(entry({ aeTitle: 'CT' }).permissions, basic)
  assert.ok(entry({ aeTitle: 'CT', host: 'ct.example' }).permissions.includes('find'))
  assert.ok(entry({ aeTitle: 'CT', certificateFingerprint: pin }).permissions.includes('move'))
  assert.deepEqual(entry({ aeTitle: 'CT', host: 'ct.example', permissions: [] }).permissions, [])
  // From before there were permissions and names.
  const stored = decode(storedModality, { aeTitle: 'CT', host: '10.0.0.1' })
  assert.deepEqual(stored.ok && [stored.value.name, stored.value.permissions, stored.value.zone], [
    'CT',
    basic,
    'inside',
  ])
})

test('a modality is called with what is registered for it', () => {
  const own = { certificate: 'OUR CERTIFICATE', key: 'OUR KEY', ca: 'OUR AUTHORITIES' }
  const plain = entry({
    name: 'pacs',
    aeTitle: ' PACS',
    host: 'pacs.example',
    port: 104,
    limits: { timeoutSeconds: 5 },
  })

  assert.deepEqual(targetOf(plain, 'HANSE', own), {
    name: 'pacs',
    host: 'pacs.example',
    port: 104,
    callingAe: 'HANSE',
    calledAe: 'PACS',
    timeoutMs: 5000,
  })
  const secured = entry({ ...plain, tls: { servername: 'inner' }, certificateFingerprint: pin })
  assert.deepEqual(targetOf(secured, 'HANSE', own).tls, {
    verify: true,
    servername: 'inner',
    ca: 'OUR AUTHORITIES',
    cert: 'OUR CERTIFICATE',
    key: 'OUR KEY',
    fingerprint: pin,
  })
  assert.throws(() => targetOf(entry({ aeTitle: 'CT' }), 'HANSE', own), /without host or port/)
})
