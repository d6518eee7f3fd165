/** `hanse endpoint arrivals` and `hanse endpoint poll` */
import { field, items } from './answer.ts'
import { openClient } from './client.ts'
import { type Command, commonOptions, exitCodes, UsageError } from './command.ts'
import { table } from './table.ts'

const placeOf = (name = ''): string => `/endpoints/${encodeURIComponent(name)}`

export const endpointArrivals: Command = {
  name: 'endpoint arrivals',
  summary: 'List the files that were found at an endpoint, and what became of each.',
  operands: 'NAME',
  arity: { min: 1, max: 1 },
  options: {
    retry: { type: 'string', value: 'ID', help: 'take a file up again that failed or was refused' },
    limit: { type: 'string', value: 'N', help: 'how many files (default 100)' },
    ...commonOptions,
  },
  details: 'Exit 1 when the last look at the endpoint failed. What is held is decided by hanse quarantine.',
  async run(args, io) {
    const client = openClient(args, io)
    const place = placeOf(args.operands[0])
    const retry = args.text('retry')
    if (retry !== undefined) {
      if (!/^[1-9]\d{0,15}$/.test(retry)) throw new UsageError('--retry: expected the id of a file')
      await client.call('POST', `${place}/arrivals/${retry}/retry`)
      io.note(`file ${retry} is taken up again`)
      return exitCodes.ok
    }
    const limit = args.text('limit') ?? '100'
    if (!/^[1-9]\d{0,3}$/.test(limit)) throw new UsageError('--limit: expected a number from 1')
    const answer = await client.call('GET', `${place}/arrivals?limit=${limit}`)
    const endpoint = await client.call('GET', place)
    const rows = items(answer, 'files').map(file =>
      ['id', 'state', 'instances', 'size', 'path', 'error'].map(key => field(file, key)),
    )
    if (args.flag('json')) io.print(JSON.stringify(answer, null, 2))
    else
      io.print(
        rows.length === 0
          ? 'nothing was found there'
          : table(['id', 'state', 'instances', 'bytes', 'path', 'why'], rows),
      )
    if (field(endpoint, 'pollError') === '-') return exitCodes.ok
    io.note(`the last look failed: ${field(endpoint, 'pollError')}`)
    return exitCodes.failed
  },
}

export const endpointPoll: Command = {
  name: 'endpoint poll',
  summary: 'Look now what has arrived at an endpoint.',
  operands: 'NAME',
  arity: { min: 1, max: 1 },
  options: commonOptions,
  async run(args, io) {
    await openClient(args, io).call('POST', `${placeOf(args.operands[0])}/poll`)
    io.note(`${args.operands[0]} is looked at: hanse endpoint arrivals ${args.operands[0]}`)
    return exitCodes.ok
  },
}
