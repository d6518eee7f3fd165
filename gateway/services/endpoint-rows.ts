/** The rows of endpoints. */
import type { Kysely } from 'kysely'
import { missingFields } from '../../endpoints/pack/names.ts'
import type { Tx } from '../db/db.ts'
import type { Schema } from '../db/schema.ts'
import { isObject } from '../decode.ts'
import { GatewayError } from '../errors.ts'
import { type Endpoint, endpointKinds, isPlace, readSettings, readTerms } from './endpoint.ts'
import type { DeliveryNames } from './endpoint-transfer-rows.ts'

type Executor = Kysely<Schema> | Tx

const columns = [
  'name',
  'kind',
  'description',
  'settings',
  'sealed',
  'secret_names',
  'pin',
  'shown_pin',
  'packaging',
  'rules',
  'acknowledgement',
  'inbound',
  'polled_at',
  'poll_error_code',
  'poll_error',
  'profile',
  'state',
  'reason_code',
  'reason',
  'created_at',
  'updated_at',
] as const

/** An endpoint with its sealed secrets. */
export interface StoredEndpoint extends Endpoint {
  readonly sealed: Buffer | undefined
}

/** One endpoint; undefined when there is none. */
export async function loadEndpoint(db: Executor, name: string): Promise<StoredEndpoint | undefined> {
  const row = await db.selectFrom('endpoints').select(columns).where('name', '=', name).executeTakeFirst()
  return row && endpointOf(row)
}

/** The same, locked until the transaction ends. */
export async function lockEndpoint(tx: Tx, name: string): Promise<StoredEndpoint | undefined> {
  const row = await tx.selectFrom('endpoints').select(columns).where('name', '=', name).forUpdate().executeTakeFirst()
  return row && endpointOf(row)
}

/** All, by name. */
export async function findEndpoints(db: Executor): Promise<readonly StoredEndpoint[]> {
  return (await db.selectFrom('endpoints').select(columns).orderBy('name').execute()).map(endpointOf)
}

/** What a send must say for the names at an endpoint, and does not; undefined when nothing is missing. */
export async function findNameGap(
  db: Executor,
  endpoint: string,
  names: DeliveryNames,
): Promise<{ readonly code: 'BAD_REQUEST'; readonly message: string } | undefined> {
  const known = await loadEndpoint(db, endpoint)
  const isGivenFiles = known !== undefined && (isPlace(known.settings) || known.kind === 'hand')
  const missing = isGivenFiles ? missingFields(known.packaging.names, names) : []
  if (missing.length === 0) return undefined
  const message = `the path template of ${endpoint} needs ${missing.join(', ')}: say it with the send, or change the template`
  return { code: 'BAD_REQUEST', message }
}

/** Their names. */
export async function findEndpointNames(db: Executor): Promise<ReadonlySet<string>> {
  return new Set((await db.selectFrom('endpoints').select('name').execute()).map(({ name }) => name))
}

type Row = Awaited<ReturnType<typeof selectAny>>
const selectAny = (db: Executor) => db.selectFrom('endpoints').select(columns).executeTakeFirstOrThrow()

/** What is stored was checked when it was written; what cannot be read any more is said so, not guessed. */
function endpointOf(row: Row): StoredEndpoint {
  const kind = endpointKinds.find(known => known === row.kind)
  const pin = row.pin ?? undefined
  if (kind === undefined || !isObject(row.settings))
    throw new GatewayError('STATE_CONFLICT', `the endpoint ${row.name} cannot be read: set it up again`)
  const { kind: _, ...settings } = row.settings
  return {
    name: row.name,
    kind,
    description: row.description,
    settings: readSettings(kind, settings, pin),
    sealed: row.sealed ?? undefined,
    secretNames: Array.isArray(row.secret_names) ? row.secret_names.map(String) : [],
    pin,
    shownPin: row.shown_pin ?? undefined,
    ...readTerms(row),
    polledAt: row.polled_at ?? undefined,
    pollErrorCode: row.poll_error_code ?? undefined,
    pollError: row.poll_error ?? undefined,
    profile: row.profile ?? undefined,
    state: row.state,
    reasonCode: row.reason_code ?? undefined,
    reason: row.reason ?? undefined,
    createdAt: row.created_at,
    updatedAt: row.updated_at,
  }
}
