/** `hanse policy ...` */
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { at, field, items, number } from './answer.ts'
import { openClient } from './client.ts'
import { type Command, configOptions, connectionOptions, exitCodes, jsonOption, UsageError } from './command.ts'
import { table } from './table.ts'

const common = { ...jsonOption, ...connectionOptions, ...configOptions }

export const policyShow: Command = {
  name: 'policy show',
  summary: 'Print the active policy document, or that of a version.',
  options: {
    version: { type: 'string', value: 'N', help: 'a version that was published before' },
    all: { type: 'boolean', help: 'list all versions' },
    ...common,
  },
  async run(args, io) {
    const client = openClient(args, io)
    const version = args.text('version')
    if (version !== undefined && !/^[1-9]\d{0,8}$/.test(version)) throw new UsageError('--version: expected a number')
    if (args.flag('all')) {
      const answer = await client.call('GET', '/policy/versions')
      const rows = items(answer, 'versions').map(entry =>
        ['version', 'createdAt', 'author', 'title'].map(key => field(entry, key)),
      )
      io.print(
        args.flag('json') ? JSON.stringify(answer, null, 2) : table(['version', 'created', 'author', 'title'], rows),
      )
      return exitCodes.ok
    }
    const policy = await client.call('GET', version === undefined ? '/policy' : `/policy/versions/${version}`)
    if (args.flag('json')) io.print(JSON.stringify(policy, null, 2))
    else if (number(policy, 'version') === 0)
      io.print('no policy is published: nothing leaves. See hanse policy publish --help')
    else {
      io.note(`version ${field(policy, 'version')} by ${field(policy, 'author')}, ${field(policy, 'createdAt')}`)
      io.print(JSON.stringify(at(policy, 'document'), null, 2))
    }
    return exitCodes.ok
  },
}

export const policyPublish: Command = {
  name: 'policy publish',
  summary: 'Publish a policy document: it is active at once, running transfers keep their version.',
  operands: 'FILE',
  arity: { min: 1, max: 1 },
  options: common,
  async run(args, io) {
    const file = args.operands[0] ?? '-'
    let document: unknown
    try {
      document = JSON.parse(readFileSync(file === '-' ? 0 : resolve(io.cwd, file), 'utf8'))
    } catch (cause) {
      throw new UsageError(`${file}: expected JSON: ${cause instanceof Error ? cause.message : 'error'}`)
    }
    const active = await openClient(args, io).call('PUT', '/policy', document)
    io.print(
      args.flag('json') ? JSON.stringify(active, null, 2) : `policy version ${field(active, 'version')} is active`,
    )
    return exitCodes.ok
  },
}

export const policyExplain: Command = {
  name: 'policy explain',
  summary: 'Explain why a study goes where, or why not.',
  operands: 'STUDY',
  arity: { min: 1, max: 1 },
  options: common,
  async run(args, io) {
    const study = encodeURIComponent(args.operands[0] ?? '')
    const answer = await openClient(args, io).call('GET', `/policy/explain?study=${study}`)
    io.print(args.flag('json') ? JSON.stringify(answer, null, 2) : explanation(answer))
    return exitCodes.ok
  },
}

function explanation(answer: unknown): string {
  const decisions = items(answer, 'decisions').map(
    entry => `${field(entry, 'destination')}: ${field(entry, 'effect', 'kind')} by rule ${field(entry, 'rule')}`,
  )
  const undecided = items(answer, 'undecided').map(name => `${String(name)}: not sent, no rule matches`)
  const trace = items(answer, 'trace').map(entry => [
    field(entry, 'rule'),
    at(entry, 'matched') === true ? 'matches' : 'no',
    field(entry, 'why'),
  ])
  const summary = [...decisions, ...undecided]
  return [
    `policy version ${field(answer, 'policyVersion')}`,
    ...(summary.length > 0 ? summary : ['nothing is sent: the policy has no destinations']),
    ...(trace.length > 0 ? ['', table(['rule', 'verdict', 'why'], trace)] : []),
  ].join('\n')
}
