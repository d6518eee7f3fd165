/** `hanse quarantine ...` */
import { at, field, items } from './answer.ts'
import { openClient } from './client.ts'
import { type Command, commonOptions, exitCodes, required } from './command.ts'
import { table } from './table.ts'

const whyOption = { why: { type: 'string', value: 'TEXT', help: 'why; it is in the audit log' } } as const

export const quarantineList: Command = {
  name: 'quarantine list',
  summary: 'List transfers that are held for a person.',
  options: commonOptions,
  async run(args, io) {
    const answer = await openClient(args, io).call('GET', '/quarantine')
    const rows = items(answer, 'held').map(entry =>
      ['id', 'direction', 'peer', 'profile', 'heldBy', 'code', 'reason'].map(key => field(entry, key)),
    )
    io.print(
      args.flag('json')
        ? JSON.stringify(answer, null, 2)
        : table(['id', 'direction', 'peer', 'profile', 'held by', 'code', 'reason'], rows),
    )
    return exitCodes.ok
  },
}

export const quarantineShow: Command = {
  name: 'quarantine show',
  summary: 'Show why a transfer is held, instance by instance.',
  operands: 'ID',
  arity: { min: 1, max: 1 },
  options: commonOptions,
  async run(args, io) {
    const answer = await openClient(args, io).call('GET', `/quarantine/${encodeURIComponent(args.operands[0] ?? '')}`)
    if (args.flag('json')) io.print(JSON.stringify(answer, null, 2))
    else {
      io.print(`${field(answer, 'code')}: ${field(answer, 'reason')}`)
      const rows = items(answer, 'instances').map(entry => [
        field(entry, 'sopInstanceUid'),
        field(entry, 'code'),
        field(entry, 'reason'),
        items(entry, 'evidence')
          .map(proof => [at(proof, 'attribute'), at(proof, 'rule')].filter(part => part !== undefined).join(': '))
          .join('; '),
      ])
      if (rows.length > 0) io.print(table(['instance', 'code', 'reason', 'evidence'], rows))
    }
    return exitCodes.ok
  },
}

const decision = (action: 'release' | 'reject', summary: string): Command => ({
  name: `quarantine ${action}`,
  summary,
  operands: 'ID',
  arity: { min: 1, max: 1 },
  options: { ...whyOption, ...commonOptions },
  async run(args, io) {
    const path = `/quarantine/${encodeURIComponent(args.operands[0] ?? '')}/${action}`
    await openClient(args, io).call('POST', path, { why: required(args, 'why') })
    io.print(action === 'release' ? 'it is tried again' : 'it is ended')
    return exitCodes.ok
  },
})
export const quarantineRelease = decision('release', 'Try a held transfer again as it is.')
export const quarantineReject = decision('reject', 'End a held transfer for good.')

export const quarantineRerun: Command = {
  name: 'quarantine rerun',
  summary: 'Send a held transfer under another profile of the active policy.',
  operands: 'ID',
  arity: { min: 1, max: 1 },
  options: { profile: { type: 'string', value: 'NAME', help: 'the profile' }, ...whyOption, ...commonOptions },
  async run(args, io) {
    const path = `/quarantine/${encodeURIComponent(args.operands[0] ?? '')}/rerun`
    await openClient(args, io).call('POST', path, { profile: required(args, 'profile'), why: required(args, 'why') })
    io.print('it is tried again')
    return exitCodes.ok
  },
}
