/** `hanse fsck` */
import { fsck as check } from '../store/fsck.ts'
import { at, field, items, number } from './answer.ts'
import { openClient, UnreachableError } from './client.ts'
import { type Args, type Command, configOptions, connectionOptions, exitCodes, type Io, jsonOption } from './command.ts'
import { openOffline } from './offline.ts'
import { formatBytes } from './table.ts'

export const fsck: Command = {
  name: 'fsck',
  summary: 'Compare the database with the stored files and name what differs.',
  options: {
    repair: {
      type: 'boolean',
      help: 'remove old orphans and set counters right; files that rows name are never touched',
    },
    quick: { type: 'boolean', help: 'presence and size only, without reading every file' },
    ...jsonOption,
    ...connectionOptions,
    ...configOptions,
  },
  details: 'Exit 1 when something is damaged or missing. Works beside a running gateway and without one.',
  async run(args, io) {
    const report = await run(args, io)
    const isGood = at(report, 'ok') === true
    if (args.flag('json')) io.print(JSON.stringify(report, null, 2))
    else {
      for (const problem of items(report, 'problems')) io.print(describe(problem))
      const left = number(report, 'problemCount') - items(report, 'problems').length
      if (left > 0) io.print(`and ${left} more`)
      const orphans = number(report, 'orphans')
      io.print(
        `${number(report, 'blobs')} files, ${formatBytes(number(report, 'bytesRead'))} read: ` +
          `${isGood ? 'all is well' : `${number(report, 'problemCount')} problems`}` +
          (orphans > 0 ? `, ${orphans} orphans (harmless)` : ''),
      )
      const repaired = number(report, 'repaired', 'orphans') + number(report, 'repaired', 'counters')
      if (repaired > 0) io.print(`repaired ${repaired}`)
    }
    return isGood ? exitCodes.ok : exitCodes.failed
  },
}

async function run(args: Args, io: Io): Promise<unknown> {
  const repair = args.flag('repair')
  const compare = args.flag('quick') ? 'names' : 'bytes'
  try {
    return await openClient(args, io).call('POST', '/store/check', { repair, compare })
  } catch (error) {
    if (!(error instanceof UnreachableError) || args.text('url') !== undefined) throw error
  }
  await using store = await openOffline(args, io)
  return await check({
    db: store.db,
    blobs: store.blobs,
    repair: repair ? 'safe' : 'nothing',
    compare,
    signal: io.signal,
    onProgress: ({ blobs, expectedBlobs }) => {
      if (io.interactive) process.stderr.write(`\r${blobs} of about ${expectedBlobs} files `)
    },
  })
}

function describe(problem: unknown): string {
  const kind = field(problem, 'kind')
  if (kind === 'counter') return `counter: ${JSON.stringify(problem)}`
  const uid = field(problem, 'sopInstanceUid')
  return `${kind}: file ${field(problem, 'sha256')} of instance ${uid}: ${field(problem, 'detail')}`
}
