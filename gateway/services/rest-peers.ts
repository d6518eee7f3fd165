/**
 * The registry of servers that are called by their REST API: a versioned setting in the database, kept in memory,
 * effective at once in every process. Passwords and headers are sealed to the site's own key, which is not in the
 * database.
 */
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { eventTypes, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { listen } from '../db/listen.ts'
import { decode, describe, list } from '../decode.ts'
import { GatewayError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Principal } from '../principal.ts'
import type { RestTarget } from './rest-client.ts'
import {
  type RestPeerInput,
  type RestSecrets,
  restPeerName,
  restSecrets,
  type StoredRestPeer,
  storedRestPeer,
} from './rest-peer.ts'

/** The site's sealing: only it opens what was sealed. */
export interface Sealing {
  seal(bytes: Uint8Array): Uint8Array
  open(box: Uint8Array): Uint8Array | undefined
}

export interface RestPeers {
  /** In ascending order of names. */
  list(): readonly StoredRestPeer[]
  find(name: string): StoredRestPeer | undefined
  /** @throws GatewayError NOT_FOUND; STATE_CONFLICT when its secrets cannot be opened by this site's keys */
  target(name: string): RestTarget
  /** Registers one, or changes it. @throws GatewayError BAD_REQUEST */
  put(principal: Principal, name: string, peer: RestPeerInput): Promise<void>
  /** @throws GatewayError NOT_FOUND */
  remove(principal: Principal, name: string): Promise<void>
  close(): Promise<void>
}

const setting = 'rest-peers'
const channel = 'hanse_settings'
const stored = list(storedRestPeer, { max: 1_000 })
const defaultTimeoutMs = 60_000

/** Opens the registry and follows its changes. */
export async function openRestPeers(options: {
  readonly db: Db
  readonly log: Log
  readonly sealing: Sealing
}): Promise<RestPeers> {
  const { db, log, sealing } = options
  let known: readonly StoredRestPeer[] = []
  let knownVersion = -1

  const reload = async (): Promise<void> => {
    const { rows } = await sql<{ value: unknown; version: number }>`
      select value, version from settings where name = ${setting}`.execute(db.kysely)
    const [row] = rows
    // Of two that run at once the older answer may come last.
    if (!row || Number(row.version) < knownVersion) return
    knownVersion = Number(row.version)
    const result = decode(stored, row.value)
    if (result.ok) known = result.value
    else log.error({ setting }, 'the stored registry of REST peers is damaged, the last good one stays in force')
  }
  await reload()
  const listener = await listen(db, {
    channel,
    log,
    onChange: () => {
      reload().catch(() => log.warn({ setting }, 'REST peers could not be loaded after a change'))
    },
  })

  const change = async (
    principal: Principal,
    subject: { readonly reason: string; readonly name: string },
    edit: (now: readonly StoredRestPeer[]) => readonly StoredRestPeer[],
  ): Promise<void> => {
    await db.inTransaction(async tx => {
      await sql`insert into settings (name, value) values (${setting}, '[]') on conflict do nothing`.execute(tx)
      const { rows } = await sql<{ value: unknown }>`
        select value from settings where name = ${setting} for update`.execute(tx)
      const now = decode(stored, rows[0]?.value)
      if (!now.ok) throw new GatewayError('STATE_CONFLICT', 'the stored registry of REST peers is damaged')
      await sql`update settings set value = ${JSON.stringify(edit(now.value))}::jsonb, version = version + 1,
        updated_at = now() where name = ${setting}`.execute(tx)
      await appendAudit(
        tx,
        securityAlert({
          type: eventTypes.networkConfiguration,
          participants: [{ userId: principal.id, requestor: true }],
          objects: [{ kind: 'setting', name: setting }],
          reason: subject.reason,
          detail: { peer: subject.name },
        }),
      )
      await sql`select pg_notify(${channel}, ${setting})`.execute(tx)
    })
    await reload()
  }

  const find = (name: string): StoredRestPeer | undefined => known.find(peer => peer.name === name)
  const secretsOf = (peer: StoredRestPeer): RestSecrets => {
    const bytes = sealing.open(Buffer.from(peer.sealed, 'base64'))
    const secrets = bytes && decode(restSecrets, JSON.parse(Buffer.from(bytes).toString('utf8')))
    if (secrets?.ok && secrets.value.url === peer.url) return secrets.value
    throw new GatewayError('STATE_CONFLICT', `the secrets of ${peer.name} cannot be opened: register it again`)
  }

  return {
    list: () => known.toSorted((one, other) => (one.name < other.name ? -1 : 1)),
    find,
    target: name => {
      const peer = find(name)
      if (!peer) throw new GatewayError('NOT_FOUND', 'no peer has this name')
      const { password, headers = {}, keyPassword } = secretsOf(peer)
      const { url, username, certificateFile, keyFile, timeoutSeconds } = peer
      const timeoutMs = timeoutSeconds === undefined ? defaultTimeoutMs : timeoutSeconds * 1000
      return { name, url, username, password, headers, certificateFile, keyFile, keyPassword, timeoutMs }
    },
    put: async (principal, name, input) => {
      authorize(principal, 'peer.manage')
      const checked = decode(restPeerName, name)
      if (!checked.ok) throw new GatewayError('BAD_REQUEST', describe(checked.problems))
      const { url, username, password, headers, keyPassword, certificateFile, keyFile, timeoutSeconds, remoteSelf } =
        input
      const secrets: RestSecrets = { url, password, headers, keyPassword }
      const sealed = Buffer.from(sealing.seal(Buffer.from(JSON.stringify(secrets)))).toString('base64')
      const headerNames = Object.keys(headers ?? {})
      const zone = input.zone ?? 'outside'
      const peer = {
        name,
        url,
        username,
        headerNames,
        certificateFile,
        keyFile,
        timeoutSeconds,
        remoteSelf,
        zone,
        sealed,
      }
      await change(principal, { reason: 'rest-peer-registered', name }, now => [
        ...now.filter(other => other.name !== name),
        peer,
      ])
    },
    remove: async (principal, name) => {
      authorize(principal, 'peer.manage')
      if (!find(name)) throw new GatewayError('NOT_FOUND', 'no peer has this name')
      await change(principal, { reason: 'rest-peer-removed', name }, now => now.filter(peer => peer.name !== name))
    },
    close: () => listener.close(),
  }
}
