/** What must hold after every crash, looked at from outside: HTTP API and command line. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { field, items } from '../../gateway/cli/answer.ts'
import type { ProcessGateway } from '../support/process-gateway.ts'
import { until } from '../support/until.ts'
import type { Exposure, Study } from './modality.ts'

/** The gateway has exactly these instances, each with exactly the bytes that were sent. */
export async function assertHolds(gateway: ProcessGateway, exposures: readonly Exposure[]): Promise<void> {
  const listed = await gateway.api<unknown>('GET', '/instances?expand')
  assert.ok(Array.isArray(listed))
  const held = listed.map(each => field(each, 'MainDicomTags', 'SOPInstanceUID'))
  assert.deepEqual(held.sort(), exposures.map(each => each.sopInstanceUid).sort(), gateway.site)
  await assertHas(gateway, exposures)
}

/** The gateway has these instances among others, each with exactly the bytes that were sent. */
export async function assertHas(gateway: ProcessGateway, exposures: readonly Exposure[]): Promise<void> {
  const listed = await gateway.api<unknown>('GET', '/instances?expand')
  assert.ok(Array.isArray(listed))
  const ids = new Map(listed.map(each => [field(each, 'MainDicomTags', 'SOPInstanceUID'), field(each, 'ID')]))
  for (const { sopInstanceUid, sha256 } of exposures) {
    const response = await fetch(`${gateway.url}/instances/${ids.get(sopInstanceUid)}/file`)
    const bytes = Buffer.from(await response.arrayBuffer())
    assert.equal(createHash('sha256').update(bytes).digest('hex'), sha256, `${gateway.site}: ${sopInstanceUid}`)
  }
}

/** Store and audit log are whole, as the command line says. */
export async function assertSound(gateway: ProcessGateway): Promise<void> {
  for (const words of [['fsck'], ['audit', 'verify']]) {
    const { code, output } = await gateway.hanse(...words)
    assert.equal(code, 0, `${gateway.site}: hanse ${words.join(' ')} says: ${output}`)
  }
}

/** A transfer as the API lists it. */
export interface TransferRow {
  readonly id: string
  readonly state: string
  readonly studyInstanceUid: string
  readonly objectCount: number
  readonly bytesTotal: number
  readonly bytesSent: number
  readonly error: string
}

export async function transfersOf(gateway: ProcessGateway, direction: string): Promise<TransferRow[]> {
  const answer = await gateway.api('GET', `/api/v1/transfers?direction=${direction}&limit=500`)
  return items(answer, 'transfers').map(each => ({
    id: field(each, 'id'),
    state: field(each, 'state'),
    studyInstanceUid: field(each, 'studyInstanceUid'),
    objectCount: Number(field(each, 'objectCount')),
    bytesTotal: Number(field(each, 'bytesTotal')),
    bytesSent: Number(field(each, 'bytesSent')),
    error: `${field(each, 'errorCode')} ${field(each, 'error')}`,
  }))
}

/** Waits until each study has one outbound transfer and it is receipted; says what they are otherwise. */
export async function untilReceipted(
  gateway: ProcessGateway,
  studies: readonly Study[],
  deadlineMs: number,
): Promise<TransferRow[]> {
  let seen: TransferRow[] = []
  try {
    return await until('all transfers receipted', deadlineMs, async () => {
      seen = await transfersOf(gateway, 'outbound').catch(() => seen)
      const receipted = new Set(seen.filter(each => each.state === 'receipted').map(each => each.studyInstanceUid))
      return studies.every(study => receipted.has(study.studyInstanceUid)) && seen
    })
  } catch (error) {
    const states = seen.map(each => `${each.studyInstanceUid} ${each.state} ${each.error}`)
    throw new Error(`${String(error)}; they are\n${states.join('\n')}`)
  }
}
