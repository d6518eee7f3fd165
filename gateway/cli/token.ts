/** `hanse token ...` */
import { roles } from '../../policy/actions.ts'
import { field, items } from './answer.ts'
import { openClient } from './client.ts'
import { type Command, commonOptions, exitCodes, UsageError } from './command.ts'
import { table } from './table.ts'

export const tokenCreate: Command = {
  name: 'token create',
  summary: 'Create a token for a caller on another machine. It is printed once.',
  options: {
    name: { type: 'string', value: 'NAME', help: 'who will use it' },
    role: { type: 'string', value: 'ROLE', help: `what its holder may do: ${roles.join(', ')}` },
    expires: { type: 'string', value: 'DAYS', help: 'not accepted any more after DAYS days (default: until revoked)' },
    ...commonOptions,
  },
  details: [
    'Callers send it as "Authorization: Bearer TOKEN". On the machine of the gateway, the owner of the data directory',
    'may always create tokens. Example: hanse token create --name dashboard --role viewer --expires 365 > token',
  ].join('\n'),
  async run(args, io) {
    const name = args.text('name')
    if (name === undefined) throw new UsageError('--name: expected who will use the token')
    const role = args.text('role')
    if (!roles.some(known => known === role)) throw new UsageError(`--role: expected one of ${roles.join(', ')}`)
    const expiresAt = expiryOf(args.text('expires'))
    const wanted = { name, role, ...(expiresAt && { expiresAt }) }
    const answer = await openClient(args, io).call('POST', '/tokens', wanted)
    io.print(args.flag('json') ? JSON.stringify(answer, null, 2) : field(answer, 'token'))
    io.note('Keep it now: only its digest is stored.')
    return exitCodes.ok
  },
}

export const tokenList: Command = {
  name: 'token list',
  summary: 'List tokens.',
  options: commonOptions,
  async run(args, io) {
    const answer = await openClient(args, io).call('GET', '/tokens')
    const rows = items(answer, 'tokens').map(token =>
      ['name', 'role', 'createdAt', 'createdBy', 'expiresAt', 'revokedAt'].map(key => field(token, key)),
    )
    if (args.flag('json')) io.print(JSON.stringify(answer, null, 2))
    else
      io.print(rows.length === 0 ? 'no tokens' : table(['name', 'role', 'created', 'by', 'expires', 'revoked'], rows))
    return exitCodes.ok
  },
}

export const tokenRevoke: Command = {
  name: 'token revoke',
  summary: 'Revoke a token.',
  operands: 'NAME',
  arity: { min: 1, max: 1 },
  options: commonOptions,
  async run(args, io) {
    const name = args.operands[0] ?? ''
    await openClient(args, io).call('DELETE', `/tokens/${encodeURIComponent(name)}`)
    io.print(`token ${name} is revoked`)
    return exitCodes.ok
  },
}

/** When a token expires that is to last so many days. @throws UsageError */
function expiryOf(days: string | undefined): string | undefined {
  if (days === undefined) return undefined
  if (!/^[1-9]\d{0,3}$/.test(days)) throw new UsageError(`--expires: expected a number of days, got "${days}"`)
  return new Date(Date.now() + Number(days) * 86_400_000).toISOString()
}
