/**
 * Endpoints of third parties: set up by an administrator, in force at once. Credentials are written and never shown. An
 * SFTP server is given nothing before a person has confirmed its host key; one that shows another key later is stopped,
 * with an alarm, until a person has looked.
 */
import { sql } from 'kysely'
import { type TestStep, testPlace } from '../../endpoints/endpoint-test.ts'
import { readHostKey } from '../../endpoints/sftp.ts'
import { authorize } from '../../policy/authorize.ts'
import { eventTypes, requestorOf, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import { decode, describe, isObject } from '../decode.ts'
import { type ErrorCode, GatewayError } from '../errors.ts'
import type { Queue } from '../jobs/queue.ts'
import type { Log } from '../log.ts'
import type { Principal } from '../principal.ts'
import { findArrivals } from './arrival-rows.ts'
import type { InboundTerms } from './arrival-terms.ts'
import {
  type Endpoint,
  type EndpointInput,
  type EndpointSecrets,
  endpointName,
  isPlace,
  needsPin,
  readSettings,
  readTerms,
  targetOf,
} from './endpoint.ts'
import { findEndpoints, loadEndpoint, lockEndpoint, type StoredEndpoint } from './endpoint-rows.ts'
import type { EndpointVault } from './endpoint-secrets.ts'
import { findWaitingTransfers, wakeWaitingTransfers } from './endpoint-transfer-rows.ts'

/** An endpoint with what is needed to log in to it. */
export interface OpenedEndpoint {
  readonly endpoint: Endpoint
  readonly secrets: EndpointSecrets
}

export interface Endpoints {
  /** By name. */
  list(principal: Principal): Promise<readonly Endpoint[]>
  /** @throws GatewayError NOT_FOUND */
  load(principal: Principal, name: string): Promise<Endpoint>
  /**
   * Sets an endpoint up, or replaces how it is set up. Credentials that are absent stay as they are, as long as it is
   * the same place and user. A host key in `settings` counts as confirmed.
   *
   * @throws GatewayError BAD_REQUEST, STATE_CONFLICT when the kind of a known endpoint would change
   */
  put(principal: Principal, name: string, input: EndpointInput): Promise<Endpoint>
  /** Asks an SFTP server for its host key and keeps it as shown; it is not confirmed. @throws GatewayError ENDPOINT_UNREACHABLE */
  look(principal: Principal, name: string, signal: AbortSignal): Promise<Endpoint>
  /** A person has compared the fingerprint: what waits goes on. @throws GatewayError NOT_FOUND, BAD_REQUEST */
  confirm(principal: Principal, name: string, fingerprint: string): Promise<Endpoint>
  /** Tries a place for files step by step; nothing of the test stays there. @throws GatewayError NOT_FOUND, ENDPOINT_UNSUPPORTED */
  test(principal: Principal, name: string, signal: AbortSignal): Promise<readonly TestStep[]>
  /** Nothing more is sent until it is resumed. */
  stop(principal: Principal, name: string, reason: string): Promise<Endpoint>
  /** @throws GatewayError STATE_CONFLICT while its host key is not confirmed */
  resume(principal: Principal, name: string): Promise<Endpoint>
  /** @throws GatewayError STATE_CONFLICT while transfers to it are not over */
  remove(principal: Principal, name: string): Promise<void>
  /** For deliveries. @throws GatewayError NOT_FOUND, STATE_CONFLICT when its credentials cannot be opened */
  open(name: string): Promise<OpenedEndpoint>
  /** It is not who it was: stopped, with an alarm. */
  alarm(name: string, code: ErrorCode, reason: string): Promise<void>
}

/** @param options.vault  seals credentials */
export function openEndpoints(options: {
  readonly db: Db
  readonly queue: Pick<Queue, 'enqueue'>
  readonly vault: EndpointVault
  readonly log: Log
}): Endpoints {
  const { db, queue, vault } = options
  const log = options.log.child({ part: 'endpoints' })

  const need = (found: StoredEndpoint | undefined): StoredEndpoint => {
    if (!found) throw new GatewayError('NOT_FOUND', 'no endpoint has this name')
    return found
  }
  const record = (tx: Tx, principal: Principal, name: string, reason: string, detail = {}): Promise<void> =>
    appendAudit(
      tx,
      securityAlert({
        type: eventTypes.networkConfiguration,
        participants: [requestorOf(principal)],
        objects: [{ kind: 'setting', name: `endpoint:${name}` }],
        reason,
        detail,
      }),
    )
  /** What has waited for the endpoint is tried at once. */
  const wake = async (tx: Tx, name: string): Promise<void> => {
    for (const transfer of await wakeWaitingTransfers(tx, name))
      await queue.enqueue(tx, 'deliver-endpoint', { transfer }, { singletonKey: transfer })
  }
  const change = async (
    principal: Principal,
    name: string,
    reason: string,
    work: (tx: Tx, before: StoredEndpoint) => Promise<object>,
  ): Promise<Endpoint> => {
    authorize(principal, 'endpoint.manage')
    return await db.inTransaction(async tx => {
      const detail = await work(tx, need(await lockEndpoint(tx, name)))
      await record(tx, principal, name, reason, detail)
      return need(await loadEndpoint(tx, name))
    })
  }
  const writeState = (
    tx: Tx,
    name: string,
    state: Endpoint['state'],
    more: { code?: string; reason?: string; pin?: string; shownPin?: string | null } = {},
  ) =>
    tx
      .updateTable('endpoints')
      .set({
        state,
        reason_code: more.code ?? null,
        reason: more.reason ?? null,
        ...(more.pin !== undefined && { pin: more.pin }),
        ...(more.shownPin !== undefined && { shown_pin: more.shownPin }),
        updated_at: sql<Date>`now()`,
      })
      .where('name', '=', name)
      .execute()

  return {
    async list(principal) {
      authorize(principal, 'endpoint.read')
      return await findEndpoints(db.kysely)
    },
    async load(principal, name) {
      authorize(principal, 'endpoint.read')
      return need(await loadEndpoint(db.kysely, name))
    },
    async put(principal, name, input) {
      authorize(principal, 'endpoint.manage')
      const checked = decode(endpointName, name)
      if (!checked.ok) throw new GatewayError('BAD_REQUEST', `name: ${describe(checked.problems)}`)
      const { settings, pin } = separatePin(input)
      const known = await loadEndpoint(db.kysely, name)
      if (known && known.kind !== input.kind)
        throw new GatewayError('STATE_CONFLICT', `the endpoint is of kind ${known.kind}: remove it first`)
      const target = targetOf(settings)
      const isSame = known !== undefined && targetOf(known.settings) === target
      const before = known?.sealed && isSame ? await vault.open(target, known.sealed) : {}
      const secrets = { ...before, ...input.secrets }
      const names = Object.keys(secrets).sort()
      const sealed = names.length === 0 ? null : await vault.seal(target, secrets)
      const confirmed = pin ?? (isSame ? known.pin : undefined)
      const terms = readTerms(input)
      refuseUnlookable(settings, terms.inbound)
      const state = needsPin(settings) && confirmed === undefined ? 'unconfirmed' : 'active'
      const stays = isSame && known.state === 'stopped' && pin === undefined
      const values = {
        description: input.description ?? '',
        settings: JSON.stringify(withoutPin(settings)),
        sealed,
        secret_names: JSON.stringify(names),
        pin: confirmed ?? null,
        shown_pin: isSame ? (known.shownPin ?? null) : null,
        packaging: JSON.stringify(terms.packaging),
        rules: JSON.stringify(terms.rules),
        acknowledgement: terms.acknowledgement === undefined ? null : JSON.stringify(terms.acknowledgement),
        inbound: terms.inbound === undefined ? null : JSON.stringify(terms.inbound),
        poll_due_at: null,
        profile: input.profile ?? null,
        state: stays ? ('stopped' as const) : (state as Endpoint['state']),
        reason_code: stays ? (known.reasonCode ?? null) : null,
        reason: stays ? (known.reason ?? '') : null,
        updated_at: new Date(),
      }
      return await db.inTransaction(async tx => {
        await tx
          .insertInto('endpoints')
          .values({ name, kind: input.kind, created_by: principal.id, ...values })
          .onConflict(conflict => conflict.column('name').doUpdateSet(values))
          .execute()
        await record(tx, principal, name, known ? 'endpoint-changed' : 'endpoint-added', { kind: input.kind })
        if (values.state === 'active') await wake(tx, name)
        if (terms.inbound) await queue.enqueue(tx, 'poll-endpoint', { endpoint: name }, { singletonKey: name })
        return need(await loadEndpoint(tx, name))
      })
    },
    async look(principal, name, signal) {
      authorize(principal, 'endpoint.manage')
      const { settings, sealed } = need(await loadEndpoint(db.kysely, name))
      if (settings.kind !== 'sftp') throw new GatewayError('BAD_REQUEST', 'only SFTP servers have a host key')
      const secrets = sealed && settings.proxy ? await vault.open(targetOf(settings), sealed) : {}
      const shown = await readHostKey(settings, signal, secrets)
      return await change(principal, name, 'endpoint-host-key-shown', async tx => {
        await sql`update endpoints set shown_pin = ${shown}, updated_at = now() where name = ${name}`.execute(tx)
        return { fingerprint: shown }
      })
    },
    confirm: (principal, name, fingerprint) =>
      change(principal, name, 'endpoint-host-key-confirmed', async (tx, { kind, settings }) => {
        if (kind !== 'sftp' && kind !== 'ftp')
          throw new GatewayError('BAD_REQUEST', `endpoints of kind ${kind} have no host key to confirm`)
        // Refused where it could be none.
        readSettings(kind, withoutPin(settings), fingerprint)
        await writeState(tx, name, 'active', { pin: fingerprint, shownPin: null })
        await wake(tx, name)
        return { fingerprint }
      }),
    async test(principal, name, signal) {
      authorize(principal, 'endpoint.manage')
      const { sealed, settings } = need(await loadEndpoint(db.kysely, name))
      if (!isPlace(settings))
        throw new GatewayError(
          'ENDPOINT_UNSUPPORTED',
          `endpoints of kind ${settings.kind} have no place for files to try`,
        )
      return await testPlace(settings, sealed ? await vault.open(targetOf(settings), sealed) : {}, signal)
    },
    stop: (principal, name, reason) =>
      change(principal, name, 'endpoint-stopped', async tx => {
        await writeState(tx, name, 'stopped', { code: 'ENDPOINT_STOPPED', reason: reason || 'stopped by a person' })
        return {}
      }),
    resume: (principal, name) =>
      change(principal, name, 'endpoint-resumed', async (tx, { settings, pin, reasonCode, shownPin }) => {
        if (needsPin(settings) && (pin === undefined || (reasonCode === 'ENDPOINT_HOST_KEY' && shownPin !== undefined)))
          throw new GatewayError('STATE_CONFLICT', 'confirm its host key first: hanse endpoint confirm')
        await writeState(tx, name, 'active')
        await wake(tx, name)
        return {}
      }),
    async remove(principal, name) {
      authorize(principal, 'endpoint.manage')
      await db.inTransaction(async tx => {
        need(await lockEndpoint(tx, name))
        if ((await findWaitingTransfers(tx, name)).length > 0)
          throw new GatewayError('STATE_CONFLICT', 'transfers to the endpoint are not over: cancel them first')
        if ((await findArrivals(tx, name, 'held')).length > 0)
          throw new GatewayError(
            'STATE_CONFLICT',
            'what has arrived at the endpoint is held: release or reject it first',
          )
        await tx.deleteFrom('endpoints').where('name', '=', name).execute()
        await record(tx, principal, name, 'endpoint-removed')
      })
    },
    async open(name) {
      const { sealed, ...endpoint } = need(await loadEndpoint(db.kysely, name))
      return { endpoint, secrets: sealed ? await vault.open(targetOf(endpoint.settings), sealed) : {} }
    },
    async alarm(name, code, reason) {
      await db.inTransaction(async tx => {
        const before = await lockEndpoint(tx, name)
        if (before?.state !== 'active') return
        const shownPin = /SHA256:[A-Za-z0-9+/]{43}/.exec(reason)?.[0]
        await writeState(tx, name, 'stopped', { code, reason, ...(shownPin !== undefined && { shownPin }) })
        await appendAudit(
          tx,
          securityAlert({
            type: eventTypes.nodeAuthentication,
            outcome: 'serious-failure',
            participants: [{ userId: `endpoint:${name}` }],
            objects: [{ kind: 'setting', name: `endpoint:${name}` }],
            reason: code,
          }),
        )
      })
      log.error({ endpoint: name, code }, `endpoint stopped: ${reason}`)
    },
  }
}

/** A fingerprint that was given with the settings is confirmed by whoever gave it. */
function separatePin({ kind, settings: raw = {} }: EndpointInput): {
  settings: Endpoint['settings']
  pin: string | undefined
} {
  const settings = readSettings(kind, raw, undefined)
  const pin = settings.kind === 'sftp' ? settings.hostKey : settings.kind === 'ftp' ? settings.certificate : undefined
  return { settings, pin }
}

/** @throws GatewayError BAD_REQUEST where nothing can arrive as it is wanted */
function refuseUnlookable(settings: Endpoint['settings'], inbound: InboundTerms | undefined): void {
  if (!inbound) return
  const problem = !isPlace(settings)
    ? `endpoints of kind ${settings.kind} have no folder to look at`
    : settings.can?.list === false
      ? 'the endpoint may not be listed: nobody can look what arrives there'
      : inbound.after === 'move' && (settings.kind === 's3' || settings.can?.rename === false)
        ? 'nothing can be moved there: set after to leave or delete'
        : undefined
  if (problem !== undefined) throw new GatewayError('BAD_REQUEST', `inbound: ${problem}`)
}

/** Settings as they are stored: the confirmed key stands in a column of its own. */
function withoutPin(settings: Endpoint['settings']): object {
  const rest: unknown = JSON.parse(JSON.stringify(settings))
  if (!isObject(rest)) return {}
  const { kind: _, hostKey: __, certificate: ___, ...kept } = rest
  return kept
}
