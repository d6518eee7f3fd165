/** `hanse retrieve` */
import { setTimeout as delay } from 'node:timers/promises'
import { at, field, number } from './answer.ts'
import { openClient } from './client.ts'
import { type Command, configOptions, connectionOptions, exitCodes, jsonOption, UsageError } from './command.ts'

const ended = new Set(['done', 'failed', 'cancelled'])
const pollMs = 500

export const retrieve: Command = {
  name: 'retrieve',
  summary: 'Fetch studies from a modality or archive into the store (C-GET or C-MOVE).',
  operands: 'MODALITY STUDY...',
  arity: { min: 2, max: 1000 },
  options: {
    series: { type: 'string', value: 'UID', help: 'only this series of the one study' },
    method: { type: 'string', value: 'SERVICE', help: 'get or move (default: get, and move where get is not offered)' },
    wait: { type: 'boolean', help: 'wait for the end; exit 1 when not everything has come' },
    ...jsonOption,
    ...connectionOptions,
    ...configOptions,
  },
  details: 'STUDY is a Study Instance UID. Example: hanse retrieve PACS 1.2.3.4 --wait',
  async run(args, io) {
    const [modality = '', ...studies] = args.operands
    const [series, method] = [args.text('series'), args.text('method')]
    if (method !== undefined && method !== 'get' && method !== 'move')
      throw new UsageError('--method: expected get or move')
    if (series !== undefined && studies.length > 1) throw new UsageError('--series: expected one study')
    const client = openClient(args, io)
    let job = await client.call('POST', `/modalities/${encodeURIComponent(modality)}/retrieve`, {
      studies,
      ...(series !== undefined && { series: [series] }),
      ...(method !== undefined && { method }),
    })
    const id = field(job, 'id')
    let shown = ''
    while (args.flag('wait') && !ended.has(field(job, 'state'))) {
      const remaining = at(job, 'remaining') === null ? '' : `, ${number(job, 'remaining')} to come`
      const line = `${field(job, 'state')}: ${number(job, 'completed')} received${remaining}`
      if (line !== shown) io.note(line)
      shown = line
      await delay(pollMs, undefined, { signal: io.signal })
      job = await client.call('GET', `/modality-jobs/${id}`)
    }
    if (args.flag('json')) io.print(JSON.stringify(job, null, 2))
    else {
      const counts = `${number(job, 'completed')} received, ${number(job, 'failed')} failed`
      const reason = at(job, 'error') ? `: ${field(job, 'error')}` : ''
      io.print(`retrieval ${id} is ${field(job, 'state')}, ${counts}${reason}`)
    }
    return args.flag('wait') && field(job, 'state') !== 'done' ? exitCodes.failed : exitCodes.ok
  },
}
