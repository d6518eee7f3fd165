/** `hanse retention ...` */
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { isObject } from '../decode.ts'
import { field, items } from './answer.ts'
import { openClient } from './client.ts'
import { type Args, type Command, commonOptions, exitCodes, type Io, UsageError } from './command.ts'
import { table } from './table.ts'

export const retentionShow: Command = {
  name: 'retention show',
  summary: 'Show the rules by which studies are deleted, and how long the disk lasts.',
  options: commonOptions,
  async run(args, io) {
    const client = openClient(args, io)
    const rules = await client.call('GET', '/retention')
    const forecast = await client.call('GET', '/retention/forecast')
    if (args.flag('json')) io.print(JSON.stringify({ rules, forecast }, null, 2))
    else {
      const rows = items(rules, 'rules').map(rule => ruleKeys.map(key => field(rule, key)))
      io.print(rows.length === 0 ? 'no rules: everything is kept' : table(ruleKeys, rows))
      for (const due of items(forecast, 'due'))
        io.print(
          `within ${field(due, 'withinDays')} days ${field(due, 'studies')} studies may go, ${field(due, 'sizeBytes')} bytes`,
        )
      io.print(`days until the disk is full: ${field(forecast, 'daysUntilFull')}`)
    }
    return exitCodes.ok
  },
}

const ruleKeys = ['name', 'origin', 'purpose', 'days', 'needs'] as const

export const retentionSet: Command = {
  name: 'retention set',
  summary: 'Replace the rules by those of a JSON file.',
  operands: 'FILE',
  arity: { min: 1, max: 1 },
  options: commonOptions,
  details: [
    'The first rule that fits a study decides; without one it is kept. Example of a file:',
    '[{ "name": "imports", "origin": "peer", "purpose": "second-opinion", "days": 90 }, { "name": "all", "days": 3650 }]',
    'Only what an archive has committed to is deleted, unless a rule says "needs": "nothing".',
    'Example: hanse retention set rules.json',
  ].join('\n'),
  async run(args, io) {
    const client = openClient(args, io)
    const answer = await client.call('PUT', '/retention', { rules: read(args.operands[0] ?? '', io) })
    io.print(args.flag('json') ? JSON.stringify(answer, null, 2) : `version ${field(answer, 'version')} is in force`)
    return exitCodes.ok
  },
}

export const retentionHolds: Command = {
  name: 'retention holds',
  summary: 'List legal holds.',
  options: commonOptions,
  async run(args, io) {
    const answer = await openClient(args, io).call('GET', '/legal-holds')
    const rows = items(answer, 'holds').map(hold => holdKeys.map(key => field(hold, key)))
    if (args.flag('json')) io.print(JSON.stringify(answer, null, 2))
    else io.print(rows.length === 0 ? 'no legal holds' : table(holdKeys, rows))
    return exitCodes.ok
  },
}

const holdKeys = [
  'id',
  'studyInstanceUid',
  'issuer',
  'patientId',
  'reason',
  'placedBy',
  'createdAt',
  'releasedAt',
] as const

export const retentionHold: Command = {
  name: 'retention hold',
  summary: 'Forbid to delete a study, or all of a patient, until the hold is released.',
  options: {
    study: { type: 'string', value: 'UID', help: 'Study Instance UID' },
    patient: { type: 'string', value: 'ID', help: 'Patient ID, in place of a study' },
    issuer: { type: 'string', value: 'ISSUER', help: 'who issued the Patient ID (default: this site)' },
    reason: { type: 'string', value: 'TEXT', help: 'why, such as the number of a court order' },
    ...commonOptions,
  },
  details: 'Example: hanse retention hold --study 1.2.840.1 --reason "order 7/26"',
  async run(args, io) {
    const [study, patient, reason] = ['study', 'patient', 'reason'].map(option => args.text(option))
    if ((study === undefined) === (patient === undefined)) throw new UsageError('expected either --study or --patient')
    if (reason === undefined) throw new UsageError('--reason: expected why it must not be deleted')
    const subject =
      study === undefined ? { patientId: patient, issuer: args.text('issuer') ?? '' } : { studyInstanceUid: study }
    return show(await openClient(args, io).call('POST', '/legal-holds', { ...subject, reason }), 'in force', args, io)
  },
}

export const retentionRelease: Command = {
  name: 'retention release',
  summary: 'Release a legal hold.',
  operands: 'HOLD',
  arity: { min: 1, max: 1 },
  options: commonOptions,
  async run(args, io) {
    const path = `/legal-holds/${encodeURIComponent(args.operands[0] ?? '')}/release`
    return show(await openClient(args, io).call('POST', path), 'released', args, io)
  },
}

function show(answer: unknown, what: string, args: Args, io: Io): number {
  io.print(args.flag('json') ? JSON.stringify(answer, null, 2) : `legal hold ${field(answer, 'id')} is ${what}`)
  return exitCodes.ok
}

/** The rules in a file: a list, or an object with `rules`, as `retention show --json` prints it. @throws UsageError */
function read(file: string, io: Io): unknown {
  try {
    const raw: unknown = JSON.parse(readFileSync(resolve(io.cwd, file), 'utf8'))
    return isObject(raw) ? raw['rules'] : raw
  } catch (error) {
    throw new UsageError(`${file}: ${error instanceof Error ? error.message : 'not readable'}`)
  }
}
