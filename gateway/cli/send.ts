/** `hanse send` */
import { setTimeout as delay } from 'node:timers/promises'
import { givenFields } from '../../endpoints/pack/names.ts'
import { at, field, number } from './answer.ts'
import { openClient } from './client.ts'
import { type Command, configOptions, connectionOptions, exitCodes, jsonOption, UsageError } from './command.ts'
import { formatBytes } from './table.ts'

const arrived = new Set(['receipted', 'delivered', 'archived'])
const ended = new Set(['receipted', 'delivered', 'archived', 'refused', 'cancelled', 'expired', 'held'])
const pollMs = 500

export const send: Command = {
  name: 'send',
  summary: 'Send a study to a destination.',
  operands: 'STUDY',
  arity: { min: 1, max: 1 },
  options: {
    to: { type: 'string', value: 'DEST', help: 'a destination of the active policy, or a peer' },
    endpoint: { type: 'string', value: 'NAME', help: 'an endpoint of a third party, in the place of --to' },
    purpose: { type: 'string', value: 'TEXT', help: 'why (default: treatment)' },
    priority: { type: 'string', value: 'CLASS', help: 'urgent, normal or bulk (default: normal)' },
    profile: {
      type: 'string',
      value: 'NAME',
      help: 'de-identify by this profile (default: as-is; that of the endpoint)',
    },
    sponsor: { type: 'string', value: 'NAME', help: 'for the path template of an endpoint, as the next four' },
    protocol: { type: 'string', value: 'NAME', help: 'number of the trial' },
    site: { type: 'string', value: 'NAME', help: 'number of this site in it' },
    subject: { type: 'string', value: 'NAME', help: 'number of the subject (default: the pseudonym)' },
    visit: { type: 'string', value: 'NAME', help: 'name of the visit' },
    wait: { type: 'boolean', help: 'wait for the receipt; exit 1 when it ends otherwise' },
    ...jsonOption,
    ...connectionOptions,
    ...configOptions,
  },
  details: 'STUDY is a Study Instance UID or an Orthanc id. Example: hanse send 1.2.3.4 --to "Hospital B" --wait',
  async run(args, io) {
    const endpoint = args.text('endpoint')
    const destination = endpoint ?? args.text('to')
    if (destination === undefined || (endpoint !== undefined && args.text('to') !== undefined))
      throw new UsageError('--to: expected a destination of the policy, see hanse policy show; or --endpoint')
    const [purpose, priority, profile] = [args.text('purpose'), args.text('priority'), args.text('profile')]
    const names = Object.fromEntries(
      givenFields.flatMap(name => {
        const given = args.text(name)
        return given === undefined ? [] : [[name, given]]
      }),
    )
    const client = openClient(args, io)
    let transfer = await client.call('POST', '/transfers', {
      study: args.operands[0],
      destination,
      ...(endpoint !== undefined && { endpoint: true }),
      ...(purpose !== undefined && { purpose }),
      ...(priority !== undefined && { priority }),
      ...(profile !== undefined && { profile }),
      ...(Object.keys(names).length > 0 && { names }),
    })
    const id = field(transfer, 'id')
    let shown = ''
    while (args.flag('wait') && !ended.has(field(transfer, 'state'))) {
      const line = `${field(transfer, 'state')} ${formatBytes(number(transfer, 'bytesDone'))} of ${formatBytes(number(transfer, 'bytesTotal'))}`
      if (line !== shown) io.note(line)
      shown = line
      await delay(pollMs, undefined, { signal: io.signal })
      transfer = await client.call('GET', `/transfers/${id}`)
    }
    const state = field(transfer, 'state')
    if (args.flag('json')) io.print(JSON.stringify(transfer, null, 2))
    else {
      const error = at(transfer, 'error') ? `: ${field(transfer, 'error')}` : ''
      // Taken is not kept: only a commitment says that the archive has it.
      const where =
        state === 'delivered' && endpoint !== undefined
          ? ', not acknowledged'
          : state === 'delivered'
            ? ', not committed: the study is in the gateway, not known to be in the archive'
            : ''
      io.print(`transfer ${id} is ${state}${where}${error}`)
    }
    return args.flag('wait') && !arrived.has(state) ? exitCodes.failed : exitCodes.ok
  },
}
