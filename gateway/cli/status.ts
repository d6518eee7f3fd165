/** `hanse status` */
import { at, field, items, number } from './answer.ts'
import { openClient } from './client.ts'
import { type Command, configOptions, connectionOptions, exitCodes, jsonOption } from './command.ts'
import { formatBytes, table } from './table.ts'

export const status: Command = {
  name: 'status',
  summary: 'Show how the gateway is.',
  options: {
    check: {
      type: 'boolean',
      help: 'for monitoring: one line, exit 1 when something needs a person, 3 when it is down',
    },
    ...jsonOption,
    ...connectionOptions,
    ...configOptions,
  },
  async run(args, io) {
    const client = openClient(args, io)
    const status = await client.call('GET', '/status')
    const problems = items(status, 'problems')
    const code = args.flag('check') && problems.length > 0 ? exitCodes.failed : exitCodes.ok
    if (args.flag('json')) {
      io.print(JSON.stringify(status, null, 2))
      return code
    }
    const lines = problems.map(problem => `${field(problem, 'code')}: ${field(problem, 'message')}`)
    if (args.flag('check')) {
      io.print(problems.length === 0 ? `OK ${field(status, 'site', 'name')}` : lines.join('; '))
      return code
    }
    const transfers = items(status, 'transfers').map(
      entry => `${field(entry, 'count')} ${field(entry, 'direction')} ${field(entry, 'state')}`,
    )
    io.print(
      [
        `${field(status, 'site', 'name')}  version ${field(status, 'version')}  since ${field(status, 'startedAt')}`,
        `  API         ${field(status, 'listeners', 'http')}`,
        `  DICOM       ${field(status, 'listeners', 'dicom')}`,
        `  federation  ${field(status, 'listeners', 'federation')}`,
        `  stored      ${number(status, 'counts', 'studies')} studies, ${number(status, 'counts', 'instances')} instances, ${formatBytes(number(status, 'counts', 'sizeBytes'))}`,
        `  free        ${at(status, 'storage') ? formatBytes(number(status, 'storage', 'freeBytes')) : '-'}`,
        `  policy      version ${field(status, 'policy', 'version')}, ${at(status, 'policy', 'twoPersons') === false ? 'ONE PERSON writes and publishes' : 'published by a second person'}`,
        `  peers       ${number(status, 'peers', 'active')} active, ${number(status, 'peers', 'pending')} pending`,
        `  transfers   ${transfers.join(', ') || 'none'}`,
        `  held        ${number(status, 'held', 'conflicts')} conflicts, ${number(status, 'held', 'quarantine')} in quarantine`,
        `  archive     ${number(status, 'archive', 'inGatewayOnly')} studies are in the gateway, not committed by the archive`,
        `  audit       ${number(status, 'audit', 'events')} events`,
      ].join('\n'),
    )
    io.print(
      problems.length === 0
        ? 'all is well'
        : table(
            ['problem'],
            lines.map(line => [line]),
          ),
    )
    return code
  },
}
