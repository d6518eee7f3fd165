/** Two paired gateways in processes of their own: what reaches A goes to B by policy. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import type { TestContext } from 'node:test'
import { type ProcessGateway, startProcessGateway } from '../support/process-gateway.ts'
import { pair } from '../support/process-pair.ts'
import { until } from '../support/until.ts'

export interface Hospitals {
  readonly a: ProcessGateway
  readonly b: ProcessGateway
}

/** One transfer as `/api/v1/transfers` lists it. */
export interface Transfer {
  readonly id: string
  readonly state: string
  readonly studyInstanceUid: string | null
  readonly objectCount: number
  readonly bytesDone: number
  readonly errorCode: string | null
  readonly error: string | null
}

/** Settings of a gateway under test: studies are complete soon, a small disk is enough. */
export const quick = { HANSE_STABLE_AGE_MS: '1500', HANSE_LOW_WATERMARK_BYTES: String(64 * 1024 * 1024) }

/** Starts A and B, pairs them and publishes the policy; stopped and removed after the test. */
export async function startHospitals(
  t: TestContext,
  environment: { readonly a?: Readonly<Record<string, string>>; readonly b?: Readonly<Record<string, string>> } = {},
): Promise<Hospitals> {
  const [a, b] = await Promise.all([
    startProcessGateway(t, 'north', { ...quick, ...environment.a }),
    startProcessGateway(t, 'south', { ...quick, ...environment.b }),
  ])
  await pair(a, b)
  await a.api('PUT', '/api/v1/policy', everythingTo('south'))
  return { a, b }
}

/** A policy that sends whatever arrives here, by DICOM or HTTP, to one peer. */
export function everythingTo(peer: string): object {
  const send = { to: ['partner'], purpose: 'treatment', profile: 'as-is' }
  return {
    format: 'hanse-policy-1',
    destinations: { partner: { peer } },
    rules: ['dimse', 'rest'].map(kind => ({ id: kind, when: { attribute: 'OriginKind', equals: kind }, send })),
  }
}

/** Every outbound transfer of a gateway. */
export async function listTransfers(gateway: ProcessGateway): Promise<Transfer[]> {
  const found: Transfer[] = []
  for (let cursor = ''; ; ) {
    const page: { transfers: Transfer[]; next?: string } = await gateway.api(
      'GET',
      `/api/v1/transfers?direction=outbound&limit=500${cursor === '' ? '' : `&cursor=${encodeURIComponent(cursor)}`}`,
    )
    found.push(...page.transfers)
    if (page.next === undefined || page.next === null) return found
    cursor = page.next
  }
}

const ended = new Set(['receipted', 'refused', 'cancelled', 'expired', 'held'])

/** Waits until transfers cover so many instances and all have ended; all of them must have been receipted. */
export async function untilReceipted(a: ProcessGateway, instances: number, deadlineMs = 120_000): Promise<Transfer[]> {
  const transfers = await until(`${instances} instances are transferred`, deadlineMs, async () => {
    const list = await listTransfers(a)
    const planned = list.reduce((sum, transfer) => sum + transfer.objectCount, 0)
    return planned >= instances && list.every(transfer => ended.has(transfer.state)) && list
  })
  assert.deepEqual(
    transfers.filter(transfer => transfer.state !== 'receipted'),
    [],
  )
  return transfers
}

/** An instance as a gateway stores it. */
export interface StoredInstance {
  readonly sopInstanceUid: string
  readonly id: string
}

/** Every instance of a gateway. */
export async function listInstances(gateway: ProcessGateway): Promise<StoredInstance[]> {
  const all = await gateway.api<{ ID: string; MainDicomTags: { SOPInstanceUID: string } }[]>('GET', '/instances?expand')
  return all.map(({ ID, MainDicomTags }) => ({ id: ID, sopInstanceUid: MainDicomTags.SOPInstanceUID }))
}

/** Digests of a stored file, hex, and the transfer syntax that its meta group names. */
export interface FileDigests {
  readonly file: string
  readonly dataset: string
  readonly transferSyntaxUid: string
}

/** Reads a file of the API as a stream and digests it, whole and from its data set on. */
export async function digestsAt(gateway: ProcessGateway, path: string): Promise<FileDigests> {
  const response = await fetch(`${gateway.url}${path}`)
  if (!response.ok || !response.body) throw new Error(`GET ${path}: ${response.status}`)
  const file = createHash('sha256')
  const dataset = createHash('sha256')
  let head = Buffer.alloc(0)
  let offset: number | undefined
  for await (const chunk of response.body) {
    file.update(chunk)
    if (offset !== undefined) {
      dataset.update(chunk)
      continue
    }
    head = Buffer.concat([head, chunk])
    offset = datasetOffset(head)
    if (offset !== undefined) dataset.update(head.subarray(offset))
  }
  const transferSyntaxUid = metaTransferSyntax(head.subarray(0, offset))
  return { file: file.digest('hex'), dataset: dataset.digest('hex'), transferSyntaxUid }
}

function metaTransferSyntax(meta: Buffer): string {
  const at = meta.indexOf(Buffer.from([0x02, 0x00, 0x10, 0x00, 0x55, 0x49]))
  const value = at < 0 ? '' : meta.toString('latin1', at + 8, at + 8 + meta.readUInt16LE(at + 6))
  return value.replace(/\0$/, '')
}

/** Where the data set of a Part 10 file with a group length begins (PS3.10 §7.1); undefined: more bytes are needed. */
export function datasetOffset(head: Buffer): number | undefined {
  if (head.length < 144) return undefined
  const offset = 144 + head.readUInt32LE(140)
  return head.length < offset ? undefined : offset
}

/** Digests of everything a gateway stores, by the API's path. */
export async function digestAll(gateway: ProcessGateway, paths: readonly string[]): Promise<Map<string, FileDigests>> {
  const found = new Map<string, FileDigests>()
  const rest = [...paths]
  const worker = async (): Promise<void> => {
    for (let path = rest.pop(); path !== undefined; path = rest.pop()) found.set(path, await digestsAt(gateway, path))
  }
  await Promise.all(Array.from({ length: 8 }, worker))
  return found
}

/** A held conflict or variant. */
export interface Conflict {
  readonly id: number
  readonly kind: 'conflict' | 'variant'
  readonly sopInstanceUid: string
  readonly transferSyntaxUid: string
  readonly fileSha256: string
}

/** Every conflict of a gateway. */
export async function listConflicts(gateway: ProcessGateway): Promise<Conflict[]> {
  const found: Conflict[] = []
  for (let before: number | undefined; ; before = found.at(-1)?.id) {
    const suffix = before === undefined ? '' : `&before=${before}`
    const { conflicts } = await gateway.api<{ conflicts: Conflict[] }>('GET', `/api/v1/conflicts?limit=100${suffix}`)
    found.push(...conflicts)
    if (conflicts.length < 100) return found
  }
}

/** Asserts that fsck and the audit log find nothing. */
export async function assertSound(gateway: ProcessGateway): Promise<void> {
  const fsck = await gateway.api<{ ok: boolean; problems: unknown[] }>('POST', '/api/v1/store/check', {
    repair: false,
    compare: 'bytes',
  })
  assert.deepEqual(
    { site: gateway.site, ok: fsck.ok, problems: fsck.problems },
    {
      site: gateway.site,
      ok: true,
      problems: [],
    },
  )
  const audit = await gateway.api<{ ok: boolean; problems: unknown[] }>('POST', '/api/v1/audit/verify', {})
  assert.deepEqual({ ok: audit.ok, problems: audit.problems }, { ok: true, problems: [] })
}
