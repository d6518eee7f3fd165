/**
 * The registry of modalities and archives that may talk DICOM to us: a versioned setting in the
 * database, kept in memory, effective at once in every process.
 */
import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import { sql } from 'kysely'
import { eventTypes, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { type Listener, listen } from '../db/listen.ts'
import { type Decoder, decode, integer, list, object, optional, text } from '../decode.ts'
import { GatewayError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Principal } from '../principal.ts'

/** A registered caller. */
export interface Modality {
  /** DICOM PS3.5 6.2, VR AE. */
  readonly aeTitle: string
  /** IP address or host name it must call from; absent: from anywhere. */
  readonly host?: string | undefined
  readonly description?: string | undefined
  /** How long nothing more may arrive from it until its study counts as complete; the site's default when absent. */
  readonly stableAgeSeconds?: number | undefined
}

export interface Modalities {
  list(): readonly Modality[]
  /** Registers a caller, or changes it. */
  put(principal: Principal, modality: Modality): Promise<void>
  /** @throws GatewayError NOT_FOUND */
  remove(principal: Principal, aeTitle: string): Promise<void>
  /** Asked for each association of a caller that `unknownCallers` does not serve already. */
  /** Stable age of a caller's studies in ms, where it has one of its own. */
  stableAgeMs(callingAe: string | undefined): number | undefined
  isKnown(caller: { callingAe: string; remoteAddress: string }): Promise<boolean>
  close(): Promise<void>
}

const modality: Decoder<Modality> = object({
  aeTitle: text({
    min: 1,
    max: 16,
    pattern: /^(?=.*[^ ])[ -[\]-~]+$/,
    expected: 'an AE title of 1 to 16 ASCII characters',
  }),
  host: optional(text({ min: 1, max: 253, pattern: /^[0-9A-Za-z.:_-]+$/, expected: 'a host name or IP address' })),
  description: optional(text({ max: 200 })),
  stableAgeSeconds: optional(integer({ min: 1, max: 7 * 24 * 3600 })),
})
const modalities = list(modality, { max: 10_000 })

const setting = 'modalities'
const channel = 'hanse_settings'

/** Opens the registry and follows its changes. */
export async function openModalities(options: { db: Db; log: Log }): Promise<Modalities> {
  const { db, log } = options
  let known: readonly Modality[] = []

  const reload = async (): Promise<void> => {
    const row = await db.kysely.selectFrom('settings').select('value').where('name', '=', setting).executeTakeFirst()
    const result = decode(modalities, row?.value ?? [])
    if (result.ok) known = result.value
    else log.error({ setting }, 'the stored registry of modalities is damaged, the last good one stays in force')
  }
  await reload()
  const listener: Listener = await listen(db, {
    channel,
    log,
    onChange: () => {
      reload().catch(() => log.warn({ setting }, 'modalities could not be loaded after a change'))
    },
  })

  const change = async (
    principal: Principal,
    reason: string,
    edit: (now: readonly Modality[]) => readonly Modality[],
  ): Promise<void> => {
    await db.inTransaction(async tx => {
      await sql`insert into settings (name, value) values (${setting}, '[]') on conflict do nothing`.execute(tx)
      const row = await tx
        .selectFrom('settings')
        .select('value')
        .where('name', '=', setting)
        .forUpdate()
        .executeTakeFirstOrThrow()
      const now = decode(modalities, row.value)
      const next = edit(now.ok ? now.value : [])
      await sql`update settings set value = ${JSON.stringify(next)}::jsonb, version = version + 1, updated_at = now()
        where name = ${setting}`.execute(tx)
      await appendAudit(
        tx,
        securityAlert({
          type: eventTypes.networkConfiguration,
          participants: [{ userId: principal.id, requestor: true }],
          objects: [{ kind: 'setting', name: setting }],
          reason,
        }),
      )
      await sql`select pg_notify(${channel}, ${setting})`.execute(tx)
    })
    await reload()
  }

  return {
    list: () => known,
    put: (principal, entry) => {
      const checked = decode(modality, entry)
      if (!checked.ok)
        throw new GatewayError('BAD_REQUEST', checked.problems.map(p => `${p.path}: ${p.message}`).join('; '))
      const { value } = checked
      return change(principal, 'modality-registered', now => [
        ...now.filter(other => other.aeTitle !== value.aeTitle),
        value,
      ])
    },
    remove: async (principal, aeTitle) => {
      if (!known.some(entry => entry.aeTitle === aeTitle))
        throw new GatewayError('NOT_FOUND', `no modality is called ${aeTitle}`)
      await change(principal, 'modality-removed', now => now.filter(entry => entry.aeTitle !== aeTitle))
    },
    stableAgeMs: callingAe => {
      const seconds = known.find(entry => entry.aeTitle.trim() === callingAe)?.stableAgeSeconds
      return seconds === undefined ? undefined : seconds * 1000
    },
    isKnown: async ({ callingAe, remoteAddress }) => {
      for (const entry of known) {
        if (entry.aeTitle.trim() !== callingAe) continue
        if (entry.host === undefined || (await addressesOf(entry.host)).has(remoteAddress)) return true
      }
      return false
    },
    close: () => listener.close(),
  }
}

/** The addresses of a host; none when its name does not resolve. */
async function addressesOf(host: string): Promise<ReadonlySet<string>> {
  if (isIP(host)) return new Set([host])
  const found = await lookup(host, { all: true }).catch(() => [])
  return new Set(found.map(entry => entry.address))
}
