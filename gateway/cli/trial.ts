/** `hanse trial ...` */
import { readFileSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { field, items } from './answer.ts'
import { openClient } from './client.ts'
import { type Args, type Command, commonOptions, exitCodes, type Io, required, UsageError } from './command.ts'
import { counted, table } from './table.ts'

const ofTrial = (args: Args, ...parts: readonly string[]): string =>
  ['/trials', args.operands[0] ?? '', ...parts]
    .map((part, index) => (index === 0 ? part : encodeURIComponent(part)))
    .join('/')
const trial = { operands: 'TRIAL', arity: { min: 1, max: 1 } } as const
const upload = { operands: 'TRIAL UPLOAD', arity: { min: 2, max: 2 } } as const
const subject = { operands: 'TRIAL SUBJECT', arity: { min: 2, max: 2 } } as const
const whyOption = { why: { type: 'string', value: 'TEXT', help: 'why; it is in the logs' } } as const

/** Prints the answer: as JSON where asked for, else one line or a table. */
function tell(args: Args, io: Io, answer: unknown, text: string): number {
  io.print(args.flag('json') ? JSON.stringify(answer, null, 2) : text)
  return exitCodes.ok
}

const rowsOf = (answer: unknown, key: string, columns: readonly string[]): string => {
  const rows = items(answer, key).map(entry => columns.map(column => field(entry, column)))
  return rows.length === 0 ? 'none' : table(columns, rows)
}

const listing = (name: string, summary: string, part: string, columns: readonly string[]): Command => ({
  name: `trial ${name}`,
  summary,
  ...trial,
  options: commonOptions,
  async run(args, io) {
    const answer = await openClient(args, io).call('GET', ofTrial(args, part))
    return tell(args, io, answer, rowsOf(answer, part, columns))
  },
})

export const trialList: Command = {
  name: 'trial list',
  summary: 'List trials.',
  options: commonOptions,
  async run(args, io) {
    const answer = await openClient(args, io).call('GET', '/trials')
    const rows = items(answer, 'trials').map(entry => [
      ...['name', 'state'].map(key => field(entry, key)),
      ...['sponsor', 'protocol', 'site', 'endpoint', 'profile'].map(key => field(entry, 'document', key)),
    ])
    const head = ['name', 'state', 'sponsor', 'protocol', 'site', 'endpoint', 'profile']
    return tell(args, io, answer, rows.length === 0 ? 'no trials' : table(head, rows))
  },
}

export const trialShow: Command = {
  name: 'trial show',
  summary: 'Show the protocol of a trial.',
  ...trial,
  options: commonOptions,
  async run(args, io) {
    io.print(JSON.stringify(await openClient(args, io).call('GET', ofTrial(args)), null, 2))
    return exitCodes.ok
  },
}

export const trialPut: Command = {
  name: 'trial put',
  summary: 'Add a trial, or change its protocol.',
  operands: 'TRIAL FILE',
  arity: { min: 2, max: 2 },
  options: commonOptions,
  details: 'FILE is JSON: sponsor, protocol, site, endpoint, profile, visits. deploy/TRIALS.md has an example.',
  async run(args, io) {
    const file = resolve(io.cwd, args.operands[1] ?? '')
    const answer = await openClient(args, io).call('PUT', ofTrial(args), readJson(file))
    return tell(args, io, answer, `the trial ${field(answer, 'name')} is ${field(answer, 'state')}`)
  },
}

function readJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8'))
  } catch (cause) {
    throw new UsageError(`cannot read ${file}: ${cause instanceof Error ? cause.message : 'error'}`)
  }
}

const stateChange = (verb: string, state: string, summary: string): Command => ({
  name: `trial ${verb}`,
  summary,
  ...trial,
  options: commonOptions,
  async run(args, io) {
    const answer = await openClient(args, io).call('POST', ofTrial(args, 'state'), { state })
    return tell(args, io, answer, `the trial is ${field(answer, 'state')}`)
  },
})
export const trialClose = stateChange('close', 'closed', 'Close a trial: nothing more is uploaded.')
export const trialReopen = stateChange('reopen', 'open', 'Open a closed trial again.')

export const trialSubjects = listing('subjects', 'List the subjects of a trial, by number.', 'subjects', [
  ...['code', 'state', 'dayZero'],
])
export const trialDelegations = listing('delegations', 'Print the delegation log.', 'delegations', [
  ...['person', 'task', 'from', 'until', 'createdBy', 'revokedBy', 'id'],
])
export const trialUploads = listing('uploads', 'List uploads, newest first.', 'uploads', [
  ...['id', 'subject', 'visit', 'progress', 'query'],
])
export const trialWork = listing('work', 'List open work, with who may do it.', 'work', [
  ...['task', 'what', 'subject', 'visit', 'due', 'people', 'upload'],
])

export const trialDeclare: Command = {
  name: 'trial declare',
  summary: 'Declare subjects by the numbers that the sponsor gave them.',
  operands: 'TRIAL SUBJECT...',
  arity: { min: 2, max: 1_001 },
  options: commonOptions,
  async run(args, io) {
    const codes = args.operands.slice(1)
    const answer = await openClient(args, io).call('POST', ofTrial(args, 'subjects'), { codes })
    return tell(args, io, answer, `${field(answer, 'added')} added`)
  },
}

export const trialEnrol: Command = {
  name: 'trial enrol',
  summary: 'Link a subject with the patient of a study, for good.',
  ...subject,
  options: {
    study: { type: 'string', value: 'STUDY', help: 'a study of the patient: Study Instance UID or Orthanc id' },
    'day-zero': { type: 'string', value: 'YYYY-MM-DD', help: 'the day that visits are counted from' },
    ...commonOptions,
  },
  async run(args, io) {
    const dayZero = args.text('day-zero')
    const body = { study: required(args, 'study'), ...(dayZero !== undefined && { dayZero }) }
    const path = ofTrial(args, 'subjects', args.operands[1] ?? '', 'enrol')
    const answer = await openClient(args, io).call('POST', path, body)
    return tell(args, io, answer, `subject ${field(answer, 'code')} is ${field(answer, 'state')}`)
  },
}

export const trialWithdraw: Command = {
  name: 'trial withdraw',
  summary: 'A subject withdraws: nothing more is sent, what is on its way is stopped.',
  ...subject,
  options: { ...whyOption, ...commonOptions },
  async run(args, io) {
    const path = ofTrial(args, 'subjects', args.operands[1] ?? '', 'withdraw')
    const answer = await openClient(args, io).call('POST', path, { why: required(args, 'why') })
    const stopped = counted(items(answer, 'cancelled').length, 'transfer')
    const there = counted(items(answer, 'delivered').length, 'upload')
    return tell(args, io, answer, `${stopped} stopped; the sponsor has ${there}: agree with them what becomes of it`)
  },
}

export const trialDelegate: Command = {
  name: 'trial delegate',
  summary: 'Give a task of a trial to a person for a time.',
  ...trial,
  options: {
    person: { type: 'string', value: 'NAME', help: 'as the audit log names them: token:NAME, local' },
    task: { type: 'string', value: 'TASK', help: 'upload, approve or answer' },
    from: { type: 'string', value: 'YYYY-MM-DD', help: 'first day' },
    until: { type: 'string', value: 'YYYY-MM-DD', help: 'last day (default: until it is revoked)' },
    ...commonOptions,
  },
  async run(args, io) {
    const until = args.text('until')
    const answer = await openClient(args, io).call('POST', ofTrial(args, 'delegations'), {
      ...{ person: required(args, 'person'), task: required(args, 'task'), from: required(args, 'from') },
      ...(until !== undefined && { until }),
    })
    return tell(args, io, answer, `line ${field(answer, 'id')} of the log`)
  },
}

export const trialRevoke: Command = {
  name: 'trial revoke',
  summary: 'Revoke a line of the delegation log.',
  operands: 'TRIAL ID',
  arity: { min: 2, max: 2 },
  options: commonOptions,
  async run(args, io) {
    await openClient(args, io).call('DELETE', ofTrial(args, 'delegations', args.operands[1] ?? ''))
    io.print('revoked')
    return exitCodes.ok
  },
}

export const trialUpload: Command = {
  name: 'trial upload',
  summary: 'Choose studies for a visit of a subject, and say what the protocol check found.',
  operands: 'TRIAL STUDY...',
  arity: { min: 2, max: 21 },
  options: {
    subject: { type: 'string', value: 'NUMBER', help: 'the subject' },
    visit: { type: 'string', value: 'NAME', help: 'the visit' },
    replaces: { type: 'string', value: 'UPLOAD', help: 'the upload that this one takes the place of' },
    ...commonOptions,
  },
  async run(args, io) {
    const replaces = args.text('replaces')
    const answer = await openClient(args, io).call('POST', ofTrial(args, 'uploads'), {
      ...{ subject: required(args, 'subject'), visit: required(args, 'visit') },
      studies: args.operands.slice(1).map(study => ({ study })),
      ...(replaces !== undefined && { replaces }),
    })
    return tellUpload(args, io, answer)
  },
}

/** What was found is the result: exit code 1 where it cannot be sent so. */
function tellUpload(args: Args, io: Io, answer: unknown): number {
  const findings = items(answer, 'findings').map(each => `  ${field(each, 'severity')}: ${field(each, 'message')}`)
  tell(args, io, answer, [`upload ${field(answer, 'id')} is ${field(answer, 'progress')}`, ...findings].join('\n'))
  return items(answer, 'findings').some(each => field(each, 'severity') === 'stop') ? exitCodes.failed : exitCodes.ok
}

const uploadStep = (verb: string, summary: string, says: 'nothing' | 'why' | 'text'): Command => ({
  name: `trial ${verb}`,
  summary,
  ...upload,
  options: {
    ...(says === 'why' && whyOption),
    ...(says === 'text' && { text: { type: 'string', value: 'TEXT', help: 'what was asked or answered' } as const }),
    ...commonOptions,
  },
  async run(args, io) {
    const why = says === 'why' ? args.text('why') : undefined
    const body = says === 'text' ? { text: required(args, 'text') } : why === undefined ? {} : { why }
    const path = ofTrial(args, 'uploads', args.operands[1] ?? '', verb)
    const client = openClient(args, io)
    return tellUpload(args, io, await client.call('POST', path, says === 'nothing' ? undefined : body))
  },
})
export const trialCheck = uploadStep('check', 'Check an upload against the protocol again.', 'nothing')
export const trialApprove = uploadStep('approve', 'Approve an upload; say why where it deviates.', 'why')
export const trialSend = uploadStep('send', 'Send an upload that was approved.', 'nothing')
export const trialCancel = uploadStep('cancel', 'Do not send an upload.', 'nothing')
export const trialQuery = uploadStep('query', 'Write down what the sponsor asks about an upload.', 'text')
export const trialAnswer = uploadStep('answer', 'Write down what was answered.', 'text')

export const trialPreview: Command = {
  name: 'trial preview',
  summary: 'Show what de-identification makes of the first image of each series.',
  ...upload,
  options: commonOptions,
  async run(args, io) {
    const answer = await openClient(args, io).call('GET', ofTrial(args, 'uploads', args.operands[1] ?? '', 'preview'))
    const lines = items(answer, 'instances').flatMap((instance, index) => [
      `image ${index + 1}: ${field(instance, 'outcome') === 'go' ? 'goes' : `held: ${field(instance, 'reason')}`}`,
      rowsOf(instance, 'changes', ['path', 'keyword', 'kind', 'after']),
    ])
    return tell(args, io, answer, lines.join('\n'))
  },
}

export const trialLog: Command = {
  name: 'trial log',
  summary: 'Write the export log: a table for the sponsor or the site, or a page for one subject.',
  ...trial,
  options: {
    reader: { type: 'string', value: 'WHOM', help: 'sponsor (default) or site, which names patients' },
    subject: { type: 'string', value: 'NUMBER', help: "the page of this subject for the site's file" },
    out: { type: 'string', value: 'FILE', help: 'write it there (default: print it)' },
    ...commonOptions,
  },
  async run(args, io) {
    const of = args.text('subject')
    const reader = args.text('reader') ?? 'sponsor'
    const path =
      of === undefined
        ? `${ofTrial(args, 'log.csv')}?reader=${encodeURIComponent(reader)}`
        : ofTrial(args, 'subjects', of, 'log.html')
    const text = await openClient(args, io).text(path)
    const out = args.text('out')
    if (out === undefined) io.print(text)
    else writeFileSync(resolve(io.cwd, out), text, { mode: 0o600 })
    return exitCodes.ok
  },
}
