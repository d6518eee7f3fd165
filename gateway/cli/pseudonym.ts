/** `hanse pseudonym ...` */
import { writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { at, field, items } from './answer.ts'
import { openClient } from './client.ts'
import { type Args, type Command, commonOptions, exitCodes, type Io, required, UsageError } from './command.ts'
import { readPseudonymLines } from './deidentify/project-file.ts'
import { counted, table } from './table.ts'

const whyOption = { why: { type: 'string', value: 'TEXT', help: 'why; it is in the audit log' } } as const

export const pseudonymProjects: Command = {
  name: 'pseudonym projects',
  summary:
    'List projects; with RECIPIENT and NAME make one, so that a table can be imported before its first transfer.',
  operands: '[RECIPIENT NAME]',
  arity: { min: 0, max: 2 },
  options: commonOptions,
  async run(args, io) {
    const client = openClient(args, io)
    const [recipient, name] = args.operands
    if (recipient !== undefined) {
      if (name === undefined) throw new UsageError('expected RECIPIENT and NAME')
      const made = await client.call('POST', '/pseudonyms/projects', { recipient, name })
      io.print(args.flag('json') ? JSON.stringify(made, null, 2) : `project ${field(made, 'id')}`)
      return exitCodes.ok
    }
    const answer = await client.call('GET', '/pseudonyms/projects')
    const rows = items(answer, 'projects').map(entry =>
      ['id', 'recipient', 'name', 'subjects', 'createdAt'].map(key => field(entry, key)),
    )
    io.print(
      args.flag('json')
        ? JSON.stringify(answer, null, 2)
        : table(['id', 'recipient', 'project', 'subjects', 'created'], rows),
    )
    return exitCodes.ok
  },
}

export const pseudonymImport: Command = {
  name: 'pseudonym import',
  summary: 'Import a table of pseudonyms into a project, all or none.',
  operands: 'PROJECT CSV',
  arity: { min: 2, max: 2 },
  options: commonOptions,
  details: 'The CSV has a header line, then ISSUER,PATIENTID,PSEUDONYM; the issuer is empty for own patients.',
  async run(args, io) {
    const [project = '', file = ''] = args.operands
    const entries = readPseudonymLines(resolve(io.cwd, file)).map(([issuer, patientId, pseudonym]) => ({
      issuer,
      patientId,
      pseudonym,
    }))
    const answer = await openClient(args, io).call(
      'POST',
      `/pseudonyms/projects/${encodeURIComponent(project)}/table`,
      {
        entries,
      },
    )
    io.print(args.flag('json') ? JSON.stringify(answer, null, 2) : `${field(answer, 'added')} added`)
    return exitCodes.ok
  },
}

export const pseudonymRequest: Command = {
  name: 'pseudonym request',
  summary: 'Ask whose a pseudonym is, or for the whole table; another person must approve it.',
  operands: 'PROJECT [PSEUDONYM]',
  arity: { min: 1, max: 2 },
  options: {
    purpose: { type: 'string', value: 'WORD', help: 'such as incidental-finding' },
    ...whyOption,
    ...commonOptions,
  },
  async run(args, io) {
    const [project = '', pseudonym] = args.operands
    if (!/^[1-9]\d{0,14}$/.test(project)) throw new UsageError('PROJECT: expected a number of hanse pseudonym projects')
    const request = await openClient(args, io).call('POST', '/pseudonyms/requests', {
      project: Number(project),
      ...(pseudonym !== undefined && { pseudonym }),
      purpose: required(args, 'purpose'),
      why: required(args, 'why'),
    })
    io.print(
      args.flag('json') ? JSON.stringify(request, null, 2) : `request ${field(request, 'id')} waits for another person`,
    )
    return exitCodes.ok
  },
}

export const pseudonymRequests: Command = {
  name: 'pseudonym requests',
  summary: 'List requests for re-identification.',
  options: commonOptions,
  async run(args, io) {
    const answer = await openClient(args, io).call('GET', '/pseudonyms/requests')
    const rows = items(answer, 'requests').map(entry =>
      ['id', 'project', 'pseudonym', 'state', 'purpose', 'requestedBy', 'decidedBy'].map(key => field(entry, key)),
    )
    io.print(
      args.flag('json')
        ? JSON.stringify(answer, null, 2)
        : table(['id', 'project', 'pseudonym', 'state', 'purpose', 'by', 'decided by'], rows),
    )
    return exitCodes.ok
  },
}

const decision = (word: 'approve' | 'refuse'): Command => ({
  name: `pseudonym ${word}`,
  summary: `${word === 'approve' ? 'Approve' : 'Refuse'} somebody else's request for re-identification.`,
  operands: 'REQUEST',
  arity: { min: 1, max: 1 },
  options: { ...whyOption, ...commonOptions },
  async run(args, io) {
    const path = `/pseudonyms/requests/${encodeURIComponent(args.operands[0] ?? '')}/decision`
    const body = { approve: word === 'approve', why: required(args, 'why') }
    const request = await openClient(args, io).call('POST', path, body)
    io.print(args.flag('json') ? JSON.stringify(request, null, 2) : `the request is ${field(request, 'state')}`)
    return exitCodes.ok
  },
})
export const pseudonymApprove = decision('approve')
export const pseudonymRefuse = decision('refuse')

export const pseudonymReveal: Command = {
  name: 'pseudonym reveal',
  summary: 'Print the answer to your own approved request, or write it as CSV.',
  operands: 'REQUEST',
  arity: { min: 1, max: 1 },
  options: {
    out: { type: 'string', value: 'CSV', help: 'write the table to a new file of mode 0600' },
    ...commonOptions,
  },
  async run(args, io) {
    const path = `/pseudonyms/requests/${encodeURIComponent(args.operands[0] ?? '')}/reveal`
    const answer = await openClient(args, io).call('POST', path, {})
    return printEntries(answer, args, io)
  },
}

function printEntries(answer: unknown, args: Args, io: Io): number {
  const rows = items(answer, 'entries').map(entry =>
    ['issuer', 'patientId', 'pseudonym'].map(key => {
      const value = at(entry, key)
      return typeof value === 'string' ? value : ''
    }),
  )
  const out = args.text('out')
  if (out !== undefined) {
    const lines = [['ISSUER', 'PATIENTID', 'PSEUDONYM'], ...rows].map(row => row.map(csvField).join(','))
    writeFileSync(resolve(io.cwd, out), `${lines.join('\n')}\n`, { mode: 0o600, flag: 'wx' })
    io.print(`${counted(rows.length, 'line')} written to ${out}`)
  } else if (args.flag('json')) io.print(JSON.stringify(answer, null, 2))
  else io.print(rows.length === 0 ? 'nobody has this pseudonym' : table(['issuer', 'patient id', 'pseudonym'], rows))
  return exitCodes.ok
}

/** RFC 4180 §2: fields with commas, quotes or line breaks are quoted. */
function csvField(text: string): string {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}
