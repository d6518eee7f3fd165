/** `hanse token ...` */
import { field, items } from './answer.ts'
import { openClient } from './client.ts'
import { type Command, configOptions, connectionOptions, exitCodes, jsonOption, UsageError } from './command.ts'
import { table } from './table.ts'

const common = { ...jsonOption, ...connectionOptions, ...configOptions }

export const tokenCreate: Command = {
  name: 'token create',
  summary: 'Create a token for a caller on another machine. It is printed once.',
  options: { name: { type: 'string', value: 'NAME', help: 'who will use it' }, ...common },
  details: 'Callers send it as "Authorization: Bearer TOKEN". Example: hanse token create --name grafana > token',
  async run(args, io) {
    const name = args.text('name')
    if (name === undefined) throw new UsageError('--name: expected who will use the token')
    const answer = await openClient(args, io).call('POST', '/tokens', { name })
    io.print(args.flag('json') ? JSON.stringify(answer, null, 2) : field(answer, 'token'))
    io.note('Keep it now: only its digest is stored.')
    return exitCodes.ok
  },
}

export const tokenList: Command = {
  name: 'token list',
  summary: 'List tokens.',
  options: common,
  async run(args, io) {
    const answer = await openClient(args, io).call('GET', '/tokens')
    const rows = items(answer, 'tokens').map(token =>
      ['name', 'createdAt', 'createdBy', 'revokedAt'].map(key => field(token, key)),
    )
    if (args.flag('json')) io.print(JSON.stringify(answer, null, 2))
    else io.print(rows.length === 0 ? 'no tokens' : table(['name', 'created', 'by', 'revoked'], rows))
    return exitCodes.ok
  },
}

export const tokenRevoke: Command = {
  name: 'token revoke',
  summary: 'Revoke a token.',
  operands: 'NAME',
  arity: { min: 1, max: 1 },
  options: common,
  async run(args, io) {
    const name = args.operands[0] ?? ''
    await openClient(args, io).call('DELETE', `/tokens/${encodeURIComponent(name)}`)
    io.print(`token ${name} is revoked`)
    return exitCodes.ok
  },
}
