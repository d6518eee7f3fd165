/**
 * `hanse demo`: two hospitals on this machine exchange a study, with everything real: two processes,
 * two databases, C-STORE, policy, mutual TLS, signed manifest and receipts, audit.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { at, field, items, number } from './answer.ts'
import { type Command, exitCodes, type Io, UsageError } from './command.ts'
import { compareInstances, type SentInstance } from './demo/compare.ts'
import { Hospital } from './demo/hospital.ts'
import { endProgress, progress } from './demo/progress.ts'
import { demoInstances, sendStudy } from './demo/sender.ts'
import { formatBytes } from './table.ts'

const sampleSlices = 60

export const demo: Command = {
  name: 'demo',
  summary: 'Two hospitals on this machine exchange a study, end to end.',
  operands: '[FOLDER]',
  arity: { min: 0, max: 1 },
  options: {
    once: { type: 'boolean', help: 'stop and remove both hospitals afterwards; exit 1 if anything is off' },
    data: { type: 'string', value: 'DIR', help: 'keep the hospitals in DIR (default: a temporary directory)' },
  },
  details:
    'Without FOLDER a synthetic CT study is sent, else every DICOM file in it.\nExample: hanse demo --once ../images/ct',
  async run(args, io) {
    const folder = args.operands[0]
    const kept = args.text('data')
    const dir = kept === undefined ? await mkdtemp(join(tmpdir(), 'hanse-demo-')) : resolve(io.cwd, kept)
    const a = new Hospital('Hospital A', 'HOSPITAL_A', join(dir, 'a'))
    const b = new Hospital('Hospital B', 'HOSPITAL_B', join(dir, 'b'))
    const removes = kept === undefined
    try {
      const isGood = await exchange(io, a, b, folder === undefined ? undefined : resolve(io.cwd, folder))
      if (!args.flag('once') && !io.signal.aborted) await leaveRunning(io, a, b)
      return isGood ? exitCodes.ok : exitCodes.failed
    } catch (error) {
      if (io.signal.aborted) return exitCodes.interrupted
      for (const hospital of [a, b]) for (const line of hospital.lastWords()) io.note(`  ${hospital.name}: ${line}`)
      throw error
    } finally {
      await Promise.all([a.stop(), b.stop()])
      if (removes) await rm(dir, { recursive: true, force: true, maxRetries: 5 })
    }
  },
}

/** The whole story; true when every check held. */
async function exchange(io: Io, a: Hospital, b: Hospital, folder: string | undefined): Promise<boolean> {
  const steps = stepper(io)
  steps('Starting two hospitals, each with its own database')
  await Promise.all([a.start(io.signal), b.start(io.signal)])
  for (const hospital of [a, b])
    io.print(`   ${hospital.name}  ${hospital.url}  DICOM ${hospital.aeTitle}@127.0.0.1:${hospital.ports.dicom}`)

  steps('Pairing: B redeems an invitation of A, both administrators compare a number')
  io.print(`   short authentication string  ${await pair(a, b)}`)

  steps('Publishing a policy at A: what arrives by DICOM goes to Hospital B')
  const policy = await a.call('PUT', '/policy', policyDocument)
  io.print(`   policy version ${number(policy, 'version')}, sha256 ${field(policy, 'sha256').slice(0, 16)}…`)

  const { instances, skipped } = await demoInstances(folder, sampleSlices)
  if (instances.length === 0) throw new UsageError(`no DICOM file that can be sent in ${folder}`)
  if (skipped > 0) io.note(`   ${skipped} files are not DICOM instances and are left out`)
  const total = instances.reduce((sum, instance) => sum + instance.sizeBytes, 0)
  steps(`Sending ${instances.length} instances, ${formatBytes(total)}, to A over C-STORE`)
  const sent = await sendStudy(a, instances, io, total)

  steps('A decides, signs and carries; B verifies and imports')
  const transfers = await followTransfers(io, a, sent)
  const receipts = transfers.every(transfer => field(transfer, 'state') === 'receipted')
  for (const transfer of transfers) showReceipt(io, transfer)

  steps('Comparing every instance at B with what was sent')
  const comparison = await compareInstances(b, sent)
  io.print(`   ${comparison.identical} of ${sent.length} data sets identical, byte for byte`)
  if (comparison.held > 0)
    io.print(`   ${comparison.held} share a SOP Instance UID with other content: held at A as conflicts`)

  steps('Verifying both audit logs')
  const audits = await Promise.all([a, b].map(verifyAudit))
  for (const { line } of audits) io.print(line)

  const isGood = receipts && comparison.identical + comparison.held === sent.length && audits.every(audit => audit.isOk)
  io.print('')
  io.print(isGood ? 'The study arrived whole, and both sides can prove it.' : 'Something is off: see above.')
  return isGood
}

const policyDocument = {
  format: 'hanse-policy-1',
  title: 'Demo: everything that arrives by DICOM goes to Hospital B',
  destinations: { 'hospital-b': { peer: 'Hospital B' } },
  rules: [
    {
      id: 'second-opinion',
      description: 'Studies from our own modalities, for a second opinion',
      when: { attribute: 'OriginKind', equals: 'dimse' },
      send: { to: ['hospital-b'], purpose: 'second-opinion', profile: 'as-is' },
    },
  ],
}

/** Pairs online; both sides must show the same short authentication string. */
async function pair(a: Hospital, b: Hospital): Promise<string> {
  const { invitation } = Object(await a.call('POST', '/peers/invitations', { name: b.name }))
  const accepted = await b.call('POST', '/peers/accept', { invitation, name: a.name })
  const sas = field(accepted, 'peer', 'sas')
  const pending = await a.until('the pending peer', async () =>
    items(await a.call('GET', '/peers'), 'peers').find(peer => field(peer, 'state') === 'pending' && at(peer, 'sas')),
  )
  if (field(pending, 'sas') !== sas) throw new Error('the short authentication strings differ: somebody is in between')
  await a.call('POST', `/peers/${field(pending, 'id')}/confirm`, { sas })
  await b.call('POST', `/peers/${field(accepted, 'peer', 'id')}/confirm`, { sas })
  return sas
}

/** Waits until every stored instance is covered by a transfer that has ended. */
async function followTransfers(io: Io, a: Hospital, sent: readonly SentInstance[]): Promise<unknown[]> {
  const wanted = sent.filter(instance => !instance.held).length
  let shown = ''
  return await a.until('the transfers', async () => {
    const list = items(await a.call('GET', '/transfers?direction=outbound&limit=500'), 'transfers')
    const planned = list.reduce<number>((sum, transfer) => sum + number(transfer, 'objectCount'), 0)
    const done = list.reduce<number>((sum, transfer) => sum + number(transfer, 'bytesDone'), 0)
    const total = list.reduce<number>((sum, transfer) => sum + number(transfer, 'bytesTotal'), 0)
    const states = [...new Set(list.map(transfer => field(transfer, 'state')))].join(', ')
    const line =
      list.length === 0
        ? 'waiting until the study is complete'
        : `${formatBytes(done)} of ${formatBytes(total)}  ${states}`
    if (line !== shown) progress(io, line)
    shown = line
    const isOver = list.every(transfer =>
      ['receipted', 'refused', 'cancelled', 'expired', 'held'].includes(field(transfer, 'state')),
    )
    if (planned < wanted || !isOver) return undefined
    endProgress(io)
    return await Promise.all(list.map(async transfer => await a.call('GET', `/transfers/${field(transfer, 'id')}`)))
  })
}

function showReceipt(io: Io, transfer: unknown): void {
  const kinds = items(transfer, 'receipts').map(receipt => field(receipt, 'kind'))
  const manifest = field(transfer, 'manifestId').slice(0, 16)
  io.print(
    `   ${field(transfer, 'state')}: ${number(transfer, 'objectCount')} instances, manifest ${manifest}…, signed by B: ${kinds.join(' → ')}`,
  )
  if (at(transfer, 'error')) io.print(`   ${field(transfer, 'errorCode')}: ${field(transfer, 'error')}`)
}

async function verifyAudit(hospital: Hospital): Promise<{ isOk: boolean; line: string }> {
  const report = await hospital.call('POST', '/audit/verify', {})
  const isOk = at(report, 'ok') === true
  return { isOk, line: `   ${hospital.name}: ${isOk ? 'intact' : 'BROKEN'}, ${number(report, 'size')} events` }
}

async function leaveRunning(io: Io, a: Hospital, b: Hospital): Promise<void> {
  io.print('')
  io.print('Both hospitals go on running. Try:')
  const hints = [
    [`storescu -aec ${a.aeTitle} 127.0.0.1 ${a.ports.dicom} FILE…`, 'send your own study to A'],
    [`curl ${b.url}/studies`, 'see it arrive at B'],
    [`curl ${a.url}/api/v1/transfers`, 'transfers of A'],
  ] as const
  const width = Math.max(...hints.map(([command]) => command.length))
  for (const [command, purpose] of hints) io.print(`   ${command.padEnd(width)}  ${purpose}`)
  io.print('Ctrl-C stops and removes them.')
  await new Promise<void>(done => io.signal.addEventListener('abort', () => done(), { once: true }))
}

function stepper(io: Io): (text: string) => void {
  let count = 0
  const begin = Date.now()
  return text => {
    count += 1
    io.print(`${String(count).padStart(2)} ${text}  (${((Date.now() - begin) / 1000).toFixed(1)} s)`)
  }
}
