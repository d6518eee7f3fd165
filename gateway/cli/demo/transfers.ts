/** The demo's transfers: followed while they run, told when they have ended. */
import { at, field, items, number } from '../answer.ts'
import type { Io } from '../command.ts'
import { counted, formatBytes } from '../table.ts'
import type { Hospital } from './hospital.ts'
import { endProgress, progress } from './progress.ts'

/** A folder may hold many studies; so many transfers are told one by one. */
const mostShown = 3
const pageSize = 500

/** Waits until transfers cover so many instances and all have ended; each with its receipts. */
export async function followTransfers(io: Io, a: Hospital, instances: number): Promise<readonly unknown[]> {
  let shown = ''
  const list = await a.until('the transfers', async () => {
    const found = await listTransfers(a)
    const sum = (key: string): number => found.reduce<number>((total, transfer) => total + number(transfer, key), 0)
    const states = [...new Set(found.map(transfer => field(transfer, 'state')))].join(', ')
    const line =
      found.length === 0
        ? 'waiting until the study is complete'
        : `${formatBytes(sum('bytesDone'))} of ${formatBytes(sum('bytesTotal'))}  ${states}`
    if (line !== shown) progress(io, line)
    shown = line
    const isOver = found.every(transfer =>
      ['receipted', 'refused', 'cancelled', 'expired', 'held'].includes(field(transfer, 'state')),
    )
    return sum('objectCount') >= instances && isOver && found
  })
  endProgress(io)
  return await Promise.all(list.map(async transfer => await a.call('GET', `/transfers/${field(transfer, 'id')}`)))
}

async function listTransfers(a: Hospital): Promise<readonly unknown[]> {
  const found: unknown[] = []
  for (let cursor = ''; ; ) {
    const page = await a.call('GET', `/transfers?direction=outbound&limit=${pageSize}${cursor}`)
    found.push(...items(page, 'transfers'))
    const next = at(page, 'next')
    if (typeof next !== 'string') return found
    cursor = `&cursor=${encodeURIComponent(next)}`
  }
}

/** Prints what the receipts say; returns what is wrong. */
export function showTransfers(io: Io, transfers: readonly unknown[]): string[] {
  for (const transfer of transfers.slice(0, mostShown)) {
    const receipts = items(transfer, 'receipts')
    io.print(
      `     ${field(transfer, 'state')}: ${counted(number(transfer, 'objectCount'), 'instance')}, ` +
        `manifest ${field(transfer, 'manifestId').slice(0, 16)}… signed by A`,
    )
    for (const receipt of receipts) {
      const kind = field(receipt, 'kind').padEnd(9)
      const time = field(receipt, 'statement', 'time')
      io.print(`       ${kind} ${time}  receipt ${field(receipt, 'sha256').slice(0, 16)}… signed by B, verified by A`)
    }
  }
  const more = transfers.slice(mostShown)
  const instances = more.reduce<number>((sum, transfer) => sum + number(transfer, 'objectCount'), 0)
  const states = [...new Set(more.map(transfer => field(transfer, 'state')))].join(', ')
  if (more.length > 0)
    io.print(`     and ${counted(more.length, 'more transfer')}, ${counted(instances, 'instance')}: ${states}`)
  return transfers.flatMap(transfer => {
    const state = field(transfer, 'state')
    if (state === 'receipted') return []
    return [`a transfer is ${state}: ${field(transfer, 'error')} (${field(transfer, 'errorCode')})`]
  })
}
