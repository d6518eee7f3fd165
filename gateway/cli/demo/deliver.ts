/** The demo's copy for a third party: de-identified at A, packed, signed, and put at the CRO's server. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { at, field, number } from '../answer.ts'
import type { Io } from '../command.ts'
import { counted } from '../table.ts'
import type { Cro, CroPlace } from './cro.ts'
import type { Hospital } from './hospital.ts'

const endpoint = 'CRO'
const shortest = 20

/** Sets the CRO up as an endpoint of A; a person compares the host key. */
export async function setUpCro(io: Io, a: Hospital, place: CroPlace): Promise<void> {
  const { kind, settings, secrets, hostKey, told } = place
  const packaging = { names: { template: '{subject}/{transfer}/' } }
  await a.call('PUT', `/endpoints/${endpoint}`, { kind, settings, secrets, packaging, profile: 'trial' })
  io.print(`     ${told}`)
  if (hostKey === undefined) return
  const shown = field(await a.call('POST', `/endpoints/${endpoint}/host-key`), 'shownPin')
  if (shown === hostKey) await a.call('POST', `/endpoints/${endpoint}/confirm`, { fingerprint: shown })
  io.print(`     host key ${shown}${shown === hostKey ? ', compared and confirmed' : ', NOT the one of the CRO'}`)
}

/**
 * Sends one study there.
 *
 * @param uids  of the study, then of its instances: what may not be found at the CRO
 * @returns what is wrong
 */
export async function deliverToCro(io: Io, a: Hospital, cro: Cro, uids: readonly string[]): Promise<string[]> {
  const [study = ''] = uids
  const body = { study, destination: endpoint, endpoint: true, purpose: 'research' }
  const id = field(await a.call('POST', '/transfers', body), 'id')
  const transfer = await a.until('the delivery', async () => {
    const found = await a.call('GET', `/transfers/${id}`)
    return !['planned', 'prepared', 'signed'].includes(field(found, 'state')) && found
  })
  const state = field(transfer, 'state')
  if (at(transfer, 'errorCode') === 'DEIDENTIFICATION_HELD') {
    // Images of other makes may show their patient; that is for a person to look at, and no fault.
    io.print(`     held: ${field(transfer, 'error')}`)
    return []
  }
  if (state !== 'delivered') return [`the delivery is ${state}: ${field(transfer, 'error')}`]
  const files = await cro.delivered()
  io.print(
    `     delivered, not acknowledged: ${counted(number(transfer, 'objectCount'), 'instance')}, ${counted(files.length, 'file')}`,
  )
  // A short one may be part of another by chance.
  const told = uids.filter(uid => uid.length >= shortest)
  const found = new Set<string>()
  for (const file of files) {
    const bytes = await readFile(join(cro.files, file))
    for (const text of told) if (file.includes(text) || bytes.includes(text)) found.add(text)
  }
  if (found.size > 0) return [`${counted(found.size, 'UID')} of A lie at the CRO`]
  io.print(`     none of ${counted(told.length, 'UID')} of A is in their bytes or names`)
  return []
}

/** The transfers' first study. */
export const firstStudy = (transfers: readonly unknown[]): string => field(transfers[0], 'studyInstanceUid')
