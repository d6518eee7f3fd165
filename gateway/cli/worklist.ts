/** `hanse worklist ...` */
import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { isObject } from '../decode.ts'
import { bufferSource } from '../dicom/byte-source.ts'
import { toJson } from '../dicom/json.ts'
import { readPart10 } from '../dicom/part10-reader.ts'
import { at, field, items } from './answer.ts'
import { openClient } from './client.ts'
import { type Command, commonOptions, exitCodes, type Io, UsageError } from './command.ts'
import { table } from './table.ts'

export const worklistList: Command = {
  name: 'worklist list',
  summary: 'List what is scheduled, the earliest first.',
  options: {
    state: { type: 'string', value: 'STATE', help: 'scheduled, started, completed, discontinued or cancelled' },
    modality: { type: 'string', value: 'MODALITY', help: 'only of this modality' },
    station: { type: 'string', value: 'AETITLE', help: 'only of this station' },
    from: { type: 'string', value: 'YYYYMMDD', help: 'first start date' },
    to: { type: 'string', value: 'YYYYMMDD', help: 'last start date' },
    limit: { type: 'string', value: 'N', help: 'at most N items (default 100)' },
    ...commonOptions,
  },
  details: 'Files of the worklist folder that could not be taken are named below the list.',
  async run(args, io) {
    const query = new URLSearchParams()
    for (const [option, name] of [
      ['state', 'state'],
      ['modality', 'modality'],
      ['station', 'stationAe'],
      ['from', 'from'],
      ['to', 'to'],
      ['limit', 'limit'],
    ] as const) {
      const value = args.text(option)
      if (value !== undefined) query.set(name, value)
    }
    const client = openClient(args, io)
    const answer = await client.call('GET', `/worklist?${query}`)
    if (args.flag('json')) io.print(JSON.stringify(answer, null, 2))
    else {
      show(items(answer, 'items'), io)
      if (field(answer, 'next') !== '-') io.note('there are more: see --from and --limit')
      for (const problem of items(await client.call('GET', '/worklist/files'), 'problems'))
        io.note(
          `not taken: ${at(problem, 'path') === '' ? 'the folder' : field(problem, 'path')}: ${field(problem, 'reason')}`,
        )
    }
    return exitCodes.ok
  },
}

export const worklistAdd: Command = {
  name: 'worklist add',
  summary: 'Schedule a procedure step from a file.',
  operands: 'FILE',
  arity: { min: 1, max: 1 },
  options: commonOptions,
  details:
    'FILE is DICOM (.wl, as dump2dcm makes them) or DICOM JSON.\nExample: hanse worklist add knee.wl --data /var/lib/hanse',
  async run(args, io) {
    const answer = await openClient(args, io).call('POST', '/worklist', await documentOf(args.operands[0] ?? '', io))
    if (args.flag('json')) io.print(JSON.stringify(answer, null, 2))
    else io.print(field(answer, 'id'))
    return exitCodes.ok
  },
}

export const worklistRemove: Command = {
  name: 'worklist remove',
  summary: 'Remove an item that was added by command, by API or by an order.',
  operands: 'ID',
  arity: { min: 1, max: 1 },
  options: commonOptions,
  async run(args, io) {
    const id = args.operands[0] ?? ''
    const answer = await openClient(args, io).call('DELETE', `/worklist/${encodeURIComponent(id)}`)
    io.print(args.flag('json') ? JSON.stringify(answer, null, 2) : `removed ${field(answer, 'id')}`)
    return exitCodes.ok
  },
}

async function documentOf(name: string, io: Io): Promise<unknown> {
  const bytes = await readFile(resolve(io.cwd, name)).catch((cause: unknown) => {
    throw new UsageError(`cannot read ${name}: ${cause instanceof Error ? cause.message : 'error'}`)
  })
  if (bytes[0] === 0x7b) {
    try {
      return JSON.parse(bytes.toString('utf8'))
    } catch {
      throw new UsageError(`${name}: expected JSON`)
    }
  }
  const { dataset } = await readPart10(bufferSource(bytes))
  return toJson(dataset, { decimals: 'text' })
}

function show(list: readonly unknown[], io: Io): void {
  if (list.length === 0) {
    io.print('nothing is scheduled')
    return
  }
  const rows = list.map(item => {
    const document = at(item, 'document')
    const [step] = items(document, '00400100', 'Value')
    const value = (from: unknown, tag: string): string => first(from, tag)
    return [
      `${value(step, '00400002')} ${value(step, '00400003')}`,
      value(step, '00080060'),
      value(step, '00400001'),
      field(item, 'state'),
      value(document, '00080050'),
      value(document, '00100020'),
      field(item, 'source'),
      field(item, 'id'),
    ]
  })
  io.print(table(['start', 'modality', 'station', 'state', 'accession', 'patient', 'source', 'id'], rows))
}

/** The first value of an element of DICOM JSON as text. */
function first(document: unknown, tag: string): string {
  const values = at(document, tag, 'Value')
  const value: unknown = Array.isArray(values) ? values[0] : undefined
  return typeof value === 'string' || typeof value === 'number' ? String(value) : isObject(value) ? '…' : '-'
}
