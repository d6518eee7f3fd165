/** `hanse peer ...` */
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { isObject } from '../decode.ts'
import { at, field, items } from './answer.ts'
import { type Client, openClient } from './client.ts'
import { type Args, type Command, commonOptions, exitCodes, type Io, UsageError } from './command.ts'
import { parseDuration, table } from './table.ts'

export const peerInvite: Command = {
  name: 'peer invite',
  summary: 'Invite another site: writes an invitation to be handed to its administrator.',
  options: {
    out: { type: 'string', value: 'FILE', help: 'file for the invitation (default: print it)' },
    name: { type: 'string', value: 'NAME', help: 'our name for the site' },
    valid: { type: 'string', value: 'TIME', help: 'how long it is good for: 90m, 24h, 7d (default 24h)' },
    ...commonOptions,
  },
  details: 'The invitation is a secret, good for one use. Example: hanse peer invite --out invitation.json',
  async run(args, io) {
    const valid = parseDuration(args.text('valid') ?? '24h')
    if (valid === undefined) throw new UsageError('--valid: expected a time like 90m, 24h or 7d')
    const name = args.text('name')
    const answer = await openClient(args, io).call('POST', '/peers/invitations', {
      validMinutes: Math.max(1, Math.round(valid / 60_000)),
      ...(name !== undefined && { name }),
    })
    handOver(at(answer, 'invitation'), args, io)
    io.note(
      `Hand it to the other site's administrator before ${field(answer, 'expiresAt')}; there: hanse peer accept FILE`,
    )
    return exitCodes.ok
  },
}

export const peerAccept: Command = {
  name: 'peer accept',
  summary: 'Accept an invitation, or take what the other site answered by file.',
  operands: 'FILE',
  arity: { min: 1, max: 1 },
  options: {
    offline: { type: 'boolean', help: 'pair by files: the other site cannot be reached from here' },
    out: { type: 'string', value: 'FILE', help: 'file for the answer, where there is one (default: print it)' },
    name: { type: 'string', value: 'NAME', help: 'our name for the site' },
    ...commonOptions,
  },
  details: 'FILE is what the other administrator handed over; - reads it from standard input.',
  async run(args, io) {
    const handover = readHandover(args.operands[0] ?? '-', io)
    const client = openClient(args, io)
    const name = args.text('name')
    const isInvitation = handover['hanse'] === 'invitation'
    const answer = isInvitation
      ? await client.call('POST', '/peers/accept', {
          invitation: handover,
          offline: args.flag('offline'),
          ...(name !== undefined && { name }),
        })
      : await client.call('POST', '/peers/handovers', { handover })
    if (at(answer, 'handover')) {
      handOver(at(answer, 'handover'), args, io)
      io.note('Hand it to the other site; there: hanse peer accept FILE')
    }
    const peer = at(answer, 'peer')
    if (peer) {
      if (args.flag('json')) io.print(JSON.stringify(peer, null, 2))
      else explainConfirmation(peer, io)
    }
    return exitCodes.ok
  },
}

export const peerConfirm: Command = {
  name: 'peer confirm',
  summary: 'Confirm a peer after comparing the short string with the other administrator.',
  operands: 'PEER',
  arity: { min: 1, max: 1 },
  options: {
    sas: { type: 'string', value: 'STRING', help: 'the string that the other site shows; needed without a terminal' },
    ...commonOptions,
  },
  details: 'Compare by telephone or in person, not by e-mail: it shows that nobody stands between the two sites.',
  async run(args, io) {
    const client = openClient(args, io)
    const peer = await findPeer(client, args.operands[0] ?? '')
    const given = args.text('sas')
    if (given === undefined && !io.interactive)
      throw new UsageError('--sas: expected the string that the other site shows')
    if (given === undefined) {
      const answer = await io.ask(`Does ${field(peer, 'name')} show "${field(peer, 'sas')}" too? [y/N] `)
      if (!/^y(es)?$/i.test(answer.trim())) {
        io.note('Not confirmed. If the strings differ, revoke the peer and start again: somebody may be in between.')
        return exitCodes.failed
      }
    }
    const sas = given ?? field(peer, 'sas')
    const confirmed = await client.call('POST', `/peers/${field(peer, 'id')}/confirm`, { sas })
    io.print(
      args.flag('json')
        ? JSON.stringify(confirmed, null, 2)
        : `${field(confirmed, 'name')} is ${field(confirmed, 'state')}`,
    )
    return exitCodes.ok
  },
}

export const peerCard: Command = {
  name: 'peer card',
  summary: "Write this site's own card: who receives deliveries verifies them by it.",
  options: { out: { type: 'string', value: 'FILE', help: 'file for the card (default: print it)' }, ...commonOptions },
  details: 'The card is public; hand it over by a way that nobody can change. There: hanse open DELIVERY --signer FILE',
  async run(args, io) {
    handOver(await openClient(args, io).call('GET', '/peers/card'), args, io)
    return exitCodes.ok
  },
}

export const peerList: Command = {
  name: 'peer list',
  summary: 'List peers.',
  options: commonOptions,
  async run(args, io) {
    const answer = await openClient(args, io).call('GET', '/peers')
    const peers = items(answer, 'peers')
    if (args.flag('json')) io.print(JSON.stringify(answer, null, 2))
    else if (peers.length === 0) io.print('no peers yet: hanse peer invite')
    else {
      const rows = peers.map(peer => ['name', 'state', 'siteId', 'url', 'sas'].map(key => field(peer, key)))
      io.print(table(['name', 'state', 'site', 'url', 'compare'], rows))
    }
    return exitCodes.ok
  },
}

export const peerRevoke: Command = {
  name: 'peer revoke',
  summary: 'Revoke a peer: it gets nothing from now on. To trust it again it must be paired again.',
  operands: 'PEER',
  arity: { min: 1, max: 1 },
  options: { reason: { type: 'string', value: 'TEXT', help: 'for the audit log; no patient data' }, ...commonOptions },
  async run(args, io) {
    const client = openClient(args, io)
    const peer = await findPeer(client, args.operands[0] ?? '')
    const reason = args.text('reason')
    const revoked = await client.call('POST', `/peers/${field(peer, 'id')}/revoke`, {
      ...(reason !== undefined && { reason }),
    })
    io.print(
      args.flag('json') ? JSON.stringify(revoked, null, 2) : `${field(revoked, 'name')} is ${field(revoked, 'state')}`,
    )
    return exitCodes.ok
  },
}

/** A peer that is not revoked, by name, id or site id; else a revoked one. */
async function findPeer(client: Client, name: string): Promise<unknown> {
  const peers = items(await client.call('GET', '/peers'), 'peers')
  const found = peers.filter(peer => [field(peer, 'name'), field(peer, 'id'), field(peer, 'siteId')].includes(name))
  const [peer] = [...found.filter(peer => field(peer, 'state') !== 'revoked'), ...found]
  if (!peer) throw new UsageError(`no peer is named "${name}": see hanse peer list`)
  return peer
}

function readHandover(file: string, io: Io): Record<string, unknown> {
  let content: string
  try {
    content = readFileSync(file === '-' ? 0 : resolve(io.cwd, file), 'utf8')
  } catch (cause) {
    throw new UsageError(`cannot read ${file}: ${cause instanceof Error ? cause.message : 'error'}`)
  }
  try {
    const parsed: unknown = JSON.parse(content)
    if (isObject(parsed)) return parsed
  } catch {
    // said below
  }
  throw new UsageError(`${file}: expected the JSON that the other site wrote`)
}

function handOver(document: unknown, args: Args, io: Io): void {
  const text = JSON.stringify(document, null, 2)
  const out = args.text('out')
  if (out === undefined) {
    io.print(text)
    return
  }
  const file = resolve(io.cwd, out)
  writeFileSync(file, `${text}\n`, { mode: 0o600 })
  chmodSync(file, 0o600) // it may have been there, open to others
  io.note(`written to ${file}`)
}

function explainConfirmation(peer: unknown, io: Io): void {
  io.print(`${field(peer, 'name')} is ${field(peer, 'state')}; compare with its administrator: ${field(peer, 'sas')}`)
  io.note(`If both sites show the same: hanse peer confirm "${field(peer, 'name')}" (at both sites)`)
}
