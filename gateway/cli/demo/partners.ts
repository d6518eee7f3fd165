/** What two administrators do once: pair their sites, and say what goes where. */
import { at, field, items } from '../answer.ts'
import { DemoFailure, type Hospital } from './hospital.ts'

const agreement = { purposes: ['second-opinion'], basis: 'treatment', from: '2026-01-01' }

/** A's policy. */
export const policyOfA = {
  format: 'hanse-policy-2',
  title: 'Demo: everything that arrives by DICOM goes to Hospital B',
  destinations: { 'hospital-b': { peer: 'Hospital B' } },
  agreements: { demo: { parties: ['hospital-b'], ...agreement } },
  rules: [
    {
      id: 'second-opinion',
      description: 'Studies from our own modalities, for a second opinion',
      when: { attribute: 'OriginKind', equals: 'dimse' },
      send: { to: ['hospital-b'], purpose: 'second-opinion', profile: 'as-is', agreement: 'demo' },
    },
  ],
}

/** B's policy. */
export const policyOfB = {
  format: 'hanse-policy-2',
  title: 'Demo: Hospital A may ask for second opinions',
  destinations: { 'hospital-a': { peer: 'Hospital A' } },
  agreements: { demo: { parties: ['hospital-a'], ...agreement } },
  rules: [],
  incoming: [
    {
      id: 'second-opinion',
      when: { attribute: 'OfferPurpose', equals: 'second-opinion' },
      accept: { from: ['hospital-a'], agreement: 'demo' },
    },
  ],
}

/**
 * Pairs online.
 *
 * @returns the short authentication string, the same at both
 * @throws DemoFailure when it is not
 */
export async function pair(a: Hospital, b: Hospital): Promise<string> {
  const { invitation } = Object(await a.call('POST', '/peers/invitations', { name: b.name }))
  const accepted = await b.call('POST', '/peers/accept', { invitation, name: a.name })
  const sas = field(accepted, 'peer', 'sas')
  const pending = await a.until('the pending peer', async () =>
    items(await a.call('GET', '/peers'), 'peers').find(peer => field(peer, 'state') === 'pending' && at(peer, 'sas')),
  )
  if (field(pending, 'sas') !== sas)
    throw new DemoFailure('the short authentication strings differ: somebody is in between')
  await a.call('POST', `/peers/${field(pending, 'id')}/confirm`, { sas })
  await b.call('POST', `/peers/${field(accepted, 'peer', 'id')}/confirm`, { sas })
  return sas
}
