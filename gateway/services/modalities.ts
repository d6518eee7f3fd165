/**
 * The registry of modalities and archives that talk DICOM to us or are called by us: a versioned
 * setting in the database, kept in memory, effective at once in every process.
 */

import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { eventTypes, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { type Listener, listen } from '../db/listen.ts'
import { decode, describe, list } from '../decode.ts'
import { GatewayError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Principal } from '../principal.ts'
import { HostAddresses } from './host-addresses.ts'
import { type Modality, type ModalityInput, type ModalityService, modalityInput, storedModality } from './modality.ts'
import { type Caller, type Identity, identifyCaller } from './modality-caller.ts'
import { type ModalityTarget, type OwnCredentials, targetOf } from './modality-target.ts'

export interface Modalities {
  list(): readonly Modality[]
  /** By symbolic name, else by AE title; of several with the title the first one that can be called. */
  find(nameOrAeTitle: string): Modality | undefined
  /**
   * What is needed to call it.
   *
   * @throws GatewayError NOT_FOUND when it is not registered, STATE_CONFLICT when it has no host or port
   */
  target(nameOrAeTitle: string): ModalityTarget
  /** Registers a modality, or changes it. */
  put(principal: Principal, modality: ModalityInput): Promise<void>
  /** @throws GatewayError NOT_FOUND */
  remove(principal: Principal, name: string): Promise<void>
  /** Who a caller is. */
  identify(caller: Caller): Promise<Identity>
  /** May this caller ask for this? False for callers who are not registered. */
  mayUse(caller: Caller, service: ModalityService): Promise<boolean>
  /** Is this caller registered? */
  isKnown(caller: Caller): Promise<boolean>
  /** Is a certificate with this SHA-256 (64 lower-case hex digits) registered? */
  hasCertificate(fingerprint: string): boolean
  /** Stable age of a caller's studies in ms, where it has one of its own. */
  stableAgeMs(callingAe: string | undefined): number | undefined
  close(): Promise<void>
}

const setting = 'modalities'
const channel = 'hanse_settings'
const stored = list(storedModality, { max: 10_000 })

/**
 * Opens the registry and follows its changes.
 *
 * @param options.aeTitle      our own AE title, with which we call
 * @param options.credentials  with which we call by TLS; asked for each call
 */
export async function openModalities(options: {
  db: Db
  log: Log
  aeTitle?: string
  credentials?: () => OwnCredentials
}): Promise<Modalities> {
  const { db, log, aeTitle = 'HANSE' } = options
  const addresses = new HostAddresses()
  let known: readonly Modality[] = []
  let knownVersion = -1

  const reload = async (): Promise<void> => {
    const row = await db.kysely
      .selectFrom('settings')
      .select(['value', 'version'])
      .where('name', '=', setting)
      .executeTakeFirst()
    // Of two that run at once the older answer may come last.
    if (!row || Number(row.version) < knownVersion) return
    knownVersion = Number(row.version)
    const result = decode(stored, row.value)
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
    subject: { readonly reason: string; readonly name: string },
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
      const now = decode(stored, row.value)
      const next = edit(now.ok ? now.value : [])
      await sql`update settings set value = ${JSON.stringify(next)}::jsonb, version = version + 1, updated_at = now()
        where name = ${setting}`.execute(tx)
      await appendAudit(
        tx,
        securityAlert({
          type: eventTypes.networkConfiguration,
          participants: [{ userId: principal.id, requestor: true }],
          objects: [{ kind: 'setting', name: setting }],
          reason: subject.reason,
          detail: { modality: subject.name },
        }),
      )
      await sql`select pg_notify(${channel}, ${setting})`.execute(tx)
    })
    await reload()
  }

  const find = (key: string): Modality | undefined => {
    const title = key.trim()
    const titled = known.filter(entry => entry.aeTitle.trim() === title)
    return known.find(entry => entry.name === key) ?? titled.find(isCallable) ?? titled[0]
  }
  const identify = (caller: Caller) => identifyCaller(caller, known, addresses)

  return {
    list: () => known,
    find,
    target: key => {
      const entry = find(key)
      if (!entry) throw new GatewayError('NOT_FOUND', 'no modality is registered under this name or AE title')
      return targetOf(entry, aeTitle, options.credentials?.())
    },
    put: (principal, entry) => {
      authorize(principal, 'modality.manage')
      const checked = decode(modalityInput, entry)
      if (!checked.ok) throw new GatewayError('BAD_REQUEST', describe(checked.problems))
      const { value } = checked
      return change(principal, { reason: 'modality-registered', name: value.name }, now => {
        const at = now.findIndex(other => other.name === value.name)
        return at < 0 ? [...now, value] : now.with(at, value)
      })
    },
    remove: async (principal, name) => {
      authorize(principal, 'modality.manage')
      if (!known.some(entry => entry.name === name))
        throw new GatewayError('NOT_FOUND', `no modality is called ${name}`)
      await change(principal, { reason: 'modality-removed', name }, now => now.filter(entry => entry.name !== name))
    },
    identify,
    mayUse: async (caller, service) => {
      const identity = await identify(caller)
      return identity.kind === 'registered' && identity.modality.permissions.includes(service)
    },
    isKnown: async caller => (await identify(caller)).kind === 'registered',
    hasCertificate: fingerprint => known.some(entry => entry.certificateFingerprint === fingerprint),
    stableAgeMs: callingAe => {
      const seconds = known.find(
        entry => entry.aeTitle.trim() === callingAe && entry.stableAgeSeconds !== undefined,
      )?.stableAgeSeconds
      return seconds === undefined ? undefined : seconds * 1000
    },
    close: () => listener.close(),
  }
}

const isCallable = (entry: Modality): boolean => entry.host !== undefined && entry.port !== undefined
