/** `hanse recall ...` */
import { field, items } from './answer.ts'
import { openClient } from './client.ts'
import { type Command, commonOptions, exitCodes, required, UsageError } from './command.ts'
import { table } from './table.ts'

const whyOption = { why: { type: 'string', value: 'TEXT', help: 'why; it is in the audit log' } } as const

export const recallList: Command = {
  name: 'recall list',
  summary: 'List what was asked back, by us and by peers.',
  options: commonOptions,
  async run(args, io) {
    const answer = await openClient(args, io).call('GET', '/recalls')
    const columns = ['id', 'direction', 'peer', 'transfer', 'state', 'instances', 'reason', 'errorCode']
    const rows = items(answer, 'recalls').map(entry => columns.map(key => field(entry, key)))
    io.print(args.flag('json') ? JSON.stringify(answer, null, 2) : table(columns, rows))
    return exitCodes.ok
  },
}

export const recallStart: Command = {
  name: 'recall start',
  summary: 'Ask a peer to give back a transfer, or all that was sent under a withdrawn consent but data of trials.',
  operands: '[TRANSFER]',
  arity: { min: 0, max: 1 },
  options: { consent: { type: 'string', value: 'ID', help: 'the withdrawn consent' }, ...whyOption, ...commonOptions },
  async run(args, io) {
    const [transfer] = args.operands
    const consent = args.text('consent')
    if ((transfer === undefined) === (consent === undefined)) throw new UsageError('give either TRANSFER or --consent')
    const what = transfer === undefined ? { consent } : { transfer }
    const answer = await openClient(args, io).call('POST', '/recalls', { ...what, why: required(args, 'why') })
    io.print(args.flag('json') ? JSON.stringify(answer, null, 2) : `${items(answer, 'recalls').length} asked back`)
    return exitCodes.ok
  },
}

const decision = (action: 'accept' | 'refuse', summary: string, done: string): Command => ({
  name: `recall ${action}`,
  summary,
  operands: 'ID',
  arity: { min: 1, max: 1 },
  options: { ...whyOption, ...commonOptions },
  async run(args, io) {
    const path = `/recalls/${encodeURIComponent(args.operands[0] ?? '')}/${action}`
    await openClient(args, io).call('POST', path, { why: required(args, 'why') })
    io.print(done)
    return exitCodes.ok
  },
})
export const recallAccept = decision('accept', 'Delete what a peer asks back.', 'it is deleted')
export const recallRefuse = decision('refuse', 'Keep what a peer asks back.', 'it stays')
