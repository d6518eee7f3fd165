/**
 * `hanse demo`: two hospitals on this machine exchange a study, with everything real: two processes,
 * two databases, C-STORE, policy, mutual TLS, signed manifest and receipts, audit; and one of them
 * sends a de-identified copy to a CRO over SFTP.
 */
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { at, field, items, number } from './answer.ts'
import { type Command, exitCodes, type Io } from './command.ts'
import { compareInstances, datasetDigest, type SentInstance } from './demo/compare.ts'
import { Cro } from './demo/cro.ts'
import { deliverToCro, firstStudy, setUpCro } from './demo/deliver.ts'
import { DemoFailure, Hospital } from './demo/hospital.ts'
import { pair, policyOfA, policyOfB } from './demo/partners.ts'
import { demoInstances, sendStudy } from './demo/sender.ts'
import { followTransfers, showTransfers } from './demo/transfers.ts'
import { counted, formatBytes } from './table.ts'

const sampleSlices = 60
/** Of what is wrong, so many are named. */
const mostNamed = 5

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
    const study = await demoInstances(folder === undefined ? undefined : resolve(io.cwd, folder), sampleSlices)
    const kept = args.text('data')
    const dir = kept === undefined ? await temporaryDir() : resolve(io.cwd, kept)
    const a = new Hospital('Hospital A', 'HOSPITAL_A', join(dir, 'a'))
    const b = new Hospital('Hospital B', 'HOSPITAL_B', join(dir, 'b'))
    const cro = new Cro(join(dir, 'cro'))
    try {
      const isGood = await exchange(io, a, b, cro, study)
      if (!args.flag('once') && !io.signal.aborted)
        await leaveRunning(io, a, b, cro, kept === undefined ? undefined : dir)
      return isGood ? exitCodes.ok : exitCodes.failed
    } catch (error) {
      if (io.signal.aborted) return exitCodes.interrupted
      for (const hospital of [a, b]) for (const line of hospital.lastWords()) io.note(`  ${hospital.name}: ${line}`)
      if (!(error instanceof DemoFailure)) throw error
      io.note(`hanse demo: ${error.message}`)
      return exitCodes.failed
    } finally {
      await Promise.all([a.stop(), b.stop(), cro.stop()])
      if (kept === undefined) {
        await Promise.all([a.remove(), b.remove()])
        await rm(dir, { recursive: true, force: true })
      }
    }
  },
}

/** Others may pass through, not look in: under root PostgreSQL runs as a user of its own. */
async function temporaryDir(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'hanse-demo-'))
  await chmod(dir, 0o711)
  return dir
}

/** The whole story; true when every check held. */
async function exchange(
  io: Io,
  a: Hospital,
  b: Hospital,
  cro: Cro,
  study: Awaited<ReturnType<typeof demoInstances>>,
): Promise<boolean> {
  const { instances, skipped } = study
  const begin = Date.now()
  const step = stepper(io, begin)
  const wrong: string[] = []

  step('Start two hospitals, each with its own process, database and keys')
  await Promise.all([a.start(io.signal), b.start(io.signal)])
  for (const hospital of [a, b])
    io.print(`     ${hospital.name}  ${hospital.url}  DICOM ${hospital.aeTitle}@127.0.0.1:${hospital.ports.dicom}`)

  step('Pair them: B redeems an invitation of A, both administrators compare a number')
  io.print(`     ${await pair(a, b)} on both sides`)

  step('Publish a policy at A: what arrives by DICOM goes to Hospital B; and one at B that accepts it')
  const policy = await a.call('PUT', '/policy', policyOfA)
  await b.call('PUT', '/policy', policyOfB)
  io.print(`     version ${number(policy, 'version')}, sha256 ${field(policy, 'sha256').slice(0, 16)}…`)

  const totalBytes = instances.reduce((sum, instance) => sum + instance.sizeBytes, 0)
  step(`Send ${counted(instances.length, 'instance')}, ${formatBytes(totalBytes)}, to A over C-STORE`)
  if (skipped > 0) io.print(`     left out: ${counted(skipped, 'file')} without a DICOM instance`)
  const sent = await sendStudy(a, instances, io, totalBytes)
  wrong.push(...sent.refused.map(refusal => `not taken by A: ${refusal}`))

  step('A decides, signs and carries it to B over mutual TLS; B verifies and imports it as a whole')
  const transfers = await followTransfers(io, a, sent.stored.length)
  wrong.push(...showTransfers(io, transfers))

  step('Compare every instance at B with what was sent')
  const { identical, different } = await compareInstances(b, sent.stored)
  io.print(`     ${identical} of ${sent.stored.length} data sets are identical, byte for byte`)
  wrong.push(...different.map(uid => `not at B as it was sent: ${uid}`))
  if (sent.held.length > 0) {
    const lost = await notHeld(a, sent.held)
    io.print(`     ${sent.held.length - lost.length} held at A as conflicts: a known SOP Instance UID with other bytes`)
    wrong.push(...lost.map(uid => `not held at A as it was sent: ${uid}`))
  }

  step('A sets up a third party, a CRO, as an endpoint')
  await setUpCro(io, a, await cro.start(io.signal))

  step('A de-identifies a copy of the study, packs and signs it, and puts it there')
  const uids = [firstStudy(transfers), ...sent.stored.map(instance => instance.sopInstanceUid)]
  wrong.push(...(await deliverToCro(io, a, cro, uids)))

  step('Verify both audit logs')
  for (const [hospital, report] of await Promise.all([a, b].map(verifyAudit))) {
    const isOk = at(report, 'ok') === true
    io.print(`     ${hospital.name}  ${isOk ? 'intact' : 'BROKEN'}, ${number(report, 'size')} events`)
    if (!isOk) wrong.push(`the audit log of ${hospital.name} is broken`)
  }

  io.print('')
  if (wrong.length === 0) {
    const seconds = ((Date.now() - begin) / 1000).toFixed(1)
    io.print(`All of it arrived, unchanged, and both sides can prove it. (${seconds} s)`)
    return true
  }
  io.print('Something is off:')
  for (const line of wrong.slice(0, mostNamed)) io.print(`   ${line}`)
  if (wrong.length > mostNamed) io.print(`   and ${wrong.length - mostNamed} more`)
  return false
}

const verifyAudit = async (hospital: Hospital): Promise<readonly [Hospital, unknown]> => [
  hospital,
  await hospital.call('POST', '/audit/verify', {}),
]

/** SOP Instance UIDs of those whose bytes no conflict at the hospital has. */
async function notHeld(hospital: Hospital, expected: readonly SentInstance[]): Promise<string[]> {
  const held = new Set<string>()
  for (let before = ''; ; ) {
    const page = items(await hospital.call('GET', `/conflicts?limit=100${before}`), 'conflicts')
    for (const conflict of page)
      held.add(await datasetDigest(hospital, `/api/v1/conflicts/${number(conflict, 'id')}/file`))
    if (page.length < 100) break
    before = `&before=${number(page.at(-1), 'id')}`
  }
  return expected.filter(instance => !held.has(instance.datasetSha256)).map(instance => instance.sopInstanceUid)
}

async function leaveRunning(io: Io, a: Hospital, b: Hospital, cro: Cro, kept: string | undefined): Promise<void> {
  const hints = [
    [`storescu -aec ${a.aeTitle} 127.0.0.1 ${a.ports.dicom} FILE…`, 'send your own study to A'],
    [`curl ${b.url}/studies`, 'see it arrive at B'],
    [`find ${cro.files} -type f`, 'what the CRO has got'],
    [`curl ${a.url}/api/v1/transfers`, 'transfers of A'],
    [`curl ${a.url}/api/v1/audit`, 'audit log of A'],
  ] as const
  const width = Math.max(...hints.map(([command]) => command.length))
  io.print('')
  io.print('Both hospitals go on running. Try:')
  for (const [command, purpose] of hints) io.print(`   ${command.padEnd(width)}  ${purpose}`)
  io.print(kept === undefined ? 'Ctrl-C stops and removes them.' : `Ctrl-C stops them; they stay in ${kept}.`)
  await new Promise<void>(done => io.signal.addEventListener('abort', () => done(), { once: true }))
}

/** Numbers the steps and says when each began. */
function stepper(io: Io, begin: number): (text: string) => void {
  let count = 0
  return text => {
    count += 1
    const seconds = ((Date.now() - begin) / 1000).toFixed(1)
    io.print(`${String(count).padStart(2)}.  ${text}${count === 1 ? '' : `  (${seconds} s)`}`)
  }
}
