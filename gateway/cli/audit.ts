/** `hanse audit verify` */

import { verifyAudit } from '../audit/verify.ts'
import { checkpointKeys, signingKeysOf } from '../services/audit-log.ts'
import { at, field, items, number } from './answer.ts'
import { openClient, UnreachableError } from './client.ts'
import { type Args, type Command, configOptions, connectionOptions, exitCodes, type Io, jsonOption } from './command.ts'
import { openOffline } from './offline.ts'

export const auditVerify: Command = {
  name: 'audit verify',
  summary: 'Verify the audit log: every record against its commitment, every commitment against the signed log.',
  options: { ...jsonOption, ...connectionOptions, ...configOptions },
  details: 'Exit 1 when something was changed; the rows are named. Works without a running gateway, too.',
  async run(args, io) {
    const report = await verify(args, io)
    const isGood = at(report, 'ok') === true
    if (args.flag('json')) io.print(JSON.stringify(report, null, 2))
    else {
      for (const problem of items(report, 'problems'))
        io.print(`${field(problem, 'kind')}: ${field(problem, 'message')}`)
      const erased = number(report, 'erased')
      const pending = number(report, 'pending')
      io.print(
        `${isGood ? 'the audit log is intact' : 'THE AUDIT LOG WAS CHANGED'}: ${number(report, 'size')} events, ` +
          `${number(report, 'signedSize')} of them under a signed checkpoint` +
          (erased > 0 ? `, ${erased} erased on record` : '') +
          (pending > 0 ? `; ${pending} just written are not in the log yet` : ''),
      )
    }
    return isGood ? exitCodes.ok : exitCodes.failed
  },
}

async function verify(args: Args, io: Io): Promise<unknown> {
  try {
    return await openClient(args, io).call('POST', '/audit/verify')
  } catch (error) {
    if (!(error instanceof UnreachableError) || args.text('url') !== undefined) throw error
  }
  await using store = await openOffline(args, io)
  return await verifyAudit(store.db, checkpointKeys(store.keys.siteId, signingKeysOf(store.keys)))
}
