/** Two gateways in processes of their own, paired, with a policy at A that sends whole studies to B. */
import type { TestContext } from 'node:test'
import { at, field, items } from '../../gateway/cli/answer.ts'
import { acceptEverything, openWire, type Wire } from './federation.ts'
import { type ProcessGateway, prepareProcessGateway } from './process-gateway.ts'
import { until } from './until.ts'

export interface ProcessPair {
  readonly a: ProcessGateway
  readonly b: ProcessGateway
  /** What A reaches B through: it counts, and it stays when B is killed. */
  readonly wire: Wire
}

/**
 * Starts and pairs two gateways.
 *
 * @param wholeStudy  instances of a study; A's policy sends no study that has another number of them,
 *   however long its sender was interrupted
 */
export async function startPair(
  t: TestContext,
  options: { wholeStudy: number; environment?: Readonly<Record<string, string>> },
): Promise<ProcessPair> {
  const environment = { HANSE_STABLE_AGE_MS: '1000', ...options.environment }
  const a = await prepareProcessGateway(t, 'site-a', environment)
  // B advertises the wire as its own address.
  const wireEnvironment: Record<string, string> = { ...environment }
  const b = await prepareProcessGateway(t, 'site-b', wireEnvironment)
  const wire = await openWire(t, b.ports.federation)
  wireEnvironment['HANSE_PUBLIC_URL'] = wire.url
  await Promise.all([a.start(), b.start()])
  await pair(a, b)
  await publishPolicy(a, { attribute: 'InstanceCount', equals: String(options.wholeStudy) })
  return { a, b, wire }
}

/**
 * Pairs online: B redeems an invitation of A, both confirm the same short authentication string. B then accepts what
 * paired sites offer; A does so with any policy of version 1 that is published there.
 */
export async function pair(a: ProcessGateway, b: ProcessGateway): Promise<void> {
  const { invitation } = await a.api('POST', '/api/v1/peers/invitations', { name: b.site })
  const accepted = await b.api('POST', '/api/v1/peers/accept', { invitation, name: a.site })
  const sas = field(accepted, 'peer', 'sas')
  const pending = await until('the pending peer', 60_000, async () =>
    items(await a.api('GET', '/api/v1/peers'), 'peers').find(
      peer => field(peer, 'state') === 'pending' && at(peer, 'sas'),
    ),
  )
  await a.api('POST', `/api/v1/peers/${field(pending, 'id')}/confirm`, { sas })
  await b.api('POST', `/api/v1/peers/${field(accepted, 'peer', 'id')}/confirm`, { sas })
  await b.api('PUT', '/api/v1/policy', acceptEverything)
}

/** The policy document that sends to B what arrived by C-STORE and fulfils `condition`. */
export function policyDocument(title: string, condition: object): object {
  return {
    format: 'hanse-policy-1',
    title,
    destinations: { 'site-b': { peer: 'site-b' } },
    rules: [
      {
        id: 'whole-studies',
        when: { all: [{ attribute: 'OriginKind', equals: 'dimse' }, condition] },
        send: { to: ['site-b'], purpose: 'treatment', profile: 'as-is' },
      },
    ],
  }
}

/** Publishes that policy; its version. */
export async function publishPolicy(gateway: ProcessGateway, condition: object, title = 'Tests'): Promise<number> {
  const { version } = await gateway.api('PUT', '/api/v1/policy', policyDocument(title, condition))
  return Number(version)
}
