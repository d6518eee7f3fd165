/** `hanse modality ...` */
import { field, items } from './answer.ts'
import { openClient } from './client.ts'
import {
  type Command,
  configOptions,
  connectionOptions,
  exitCodes,
  type Io,
  jsonOption,
  UsageError,
} from './command.ts'
import { table } from './table.ts'

const common = { ...jsonOption, ...connectionOptions, ...configOptions }

export const modalityList: Command = {
  name: 'modality list',
  summary: 'List the modalities and archives that may send to this gateway.',
  options: common,
  async run(args, io) {
    show(await openClient(args, io).call('GET', '/modalities'), args.flag('json'), io)
    return exitCodes.ok
  },
}

export const modalityAdd: Command = {
  name: 'modality add',
  summary: 'Register a modality, or change it; effective at once.',
  operands: 'AETITLE',
  arity: { min: 1, max: 1 },
  options: {
    host: { type: 'string', value: 'HOST', help: 'address or name it calls from (default: anywhere)' },
    description: { type: 'string', value: 'TEXT', help: 'for people' },
    'stable-age': { type: 'string', value: 'SECONDS', help: 'quiet time after which its studies are complete' },
    ...common,
  },
  details: 'Example: hanse modality add CT_1 --host 10.1.2.3 --stable-age 120',
  async run(args, io) {
    const [host, description, age] = [args.text('host'), args.text('description'), args.text('stable-age')]
    if (age !== undefined && !/^[1-9]\d{0,5}$/.test(age)) throw new UsageError('--stable-age: expected seconds')
    const answer = await openClient(args, io).call('PUT', `/modalities/${encodeURIComponent(args.operands[0] ?? '')}`, {
      ...(host !== undefined && { host }),
      ...(description !== undefined && { description }),
      ...(age !== undefined && { stableAgeSeconds: Number(age) }),
    })
    show(answer, args.flag('json'), io)
    return exitCodes.ok
  },
}

export const modalityRemove: Command = {
  name: 'modality remove',
  summary: 'Remove a modality; its next association is refused unless unknown callers are served.',
  operands: 'AETITLE',
  arity: { min: 1, max: 1 },
  options: common,
  async run(args, io) {
    const path = `/modalities/${encodeURIComponent(args.operands[0] ?? '')}`
    show(await openClient(args, io).call('DELETE', path), args.flag('json'), io)
    return exitCodes.ok
  },
}

function show(answer: unknown, asJson: boolean, io: Io): void {
  const rows = items(answer, 'modalities').map(entry =>
    ['aeTitle', 'host', 'stableAgeSeconds', 'description'].map(key => field(entry, key)),
  )
  if (asJson) io.print(JSON.stringify(answer, null, 2))
  else
    io.print(
      rows.length === 0
        ? 'no modalities are registered'
        : table(['AE title', 'host', 'stable age (s)', 'description'], rows),
    )
}
