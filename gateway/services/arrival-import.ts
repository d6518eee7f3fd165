/**
 * From fetched files to instances: their signature is verified, they are opened, the policy decides over the whole
 * arrival, and its objects go through ingest like anybody's. What is held stays on our disk as it came.
 */
import { createReadStream } from 'node:fs'
import { rm } from 'node:fs/promises'
import { openStatement, type Statement } from '../../endpoints/pack/statement.ts'
import { dataImported, type Participant } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { Blobs } from '../store/blobs.ts'
import type { Origin } from '../store/origin.ts'
import { type ArrivedObject, openArrived } from './arrival-open.ts'
import {
  type Arrival,
  type ArrivalEnd,
  type ArrivalFile,
  findFilesOf,
  noteFailed,
  noteTaken,
  writeArrival,
} from './arrival-rows.ts'
import type { InboundTerms } from './arrival-terms.ts'
import type { EndpointSecrets } from './endpoint.ts'
import { decideArrivalByPolicy } from './inbound-policy.ts'
import type { Ingest } from './ingest.ts'
import { storeFile } from './upload.ts'

/** What an import needs. */
export interface ArrivalParts {
  readonly db: Db
  readonly blobs: Pick<Blobs, 'assertRoom'>
  readonly ingest: Ingest
  /** Where the bytes of a file are kept until they are instances. */
  readonly pathOf: (file: number) => string
  readonly clock: () => Date
}

/** An arrival and how its endpoint is set up. */
export interface OpenArrival {
  readonly arrival: Arrival
  readonly terms: InboundTerms
  readonly secrets: EndpointSecrets
  /** The bytes of the delivery's `manifest.sig`, where there is one. */
  readonly signature: Uint8Array | undefined
}

/**
 * Takes an arrival whose files are fetched, holds or refuses it. Run again after a crash it does the same.
 *
 * @throws GatewayError STORAGE_FULL, STORAGE_IO, DATABASE_UNAVAILABLE; what is wrong with a file stands in its row
 */
export async function importArrival(parts: ArrivalParts, open: OpenArrival, signal: AbortSignal): Promise<void> {
  const { db, pathOf, clock } = parts
  const { arrival, terms } = open
  const files = (await findFilesOf(db.kysely, arrival.id)).filter(({ state }) => state === 'fetched')
  const opened = new Map<ArrivalFile, readonly ArrivedObject[]>()
  const ofFile = async (file: ArrivalFile, work: () => Promise<void>): Promise<void> => {
    try {
      await work()
    } catch (error) {
      signal.throwIfAborted()
      opened.delete(file)
      // What may pass is not the file's fault.
      if (!isGatewayError(error) || error.meaning.retry === 'yes' || error.code === 'STORAGE_CORRUPT') throw error
      await noteFailed(db.kysely, file.id, error)
    }
  }
  try {
    const statement = arrival.state === 'released' ? undefined : verifiedBy(open)
    for (const file of files)
      await ofFile(file, async () => {
        if (statement instanceof GatewayError) throw statement
        if (statement) refuseUnsigned(file, arrival.folder, statement)
        opened.set(file, await unpack(parts, open, file, signal))
      })
    const signedBy = statement instanceof GatewayError ? undefined : statement?.from
    const objects = [...opened.values()].flat()
    const totals = { objects: objects.length, sizeBytes: objects.reduce((sum, { size }) => sum + size, 0), signedBy }
    if (objects.length === 0) return await end(parts, arrival, { state: 'refused', ...totals, ...nothingTaken })
    const decided = arrival.state === 'released' ? undefined : await decideArrival(db, open, objects, totals, clock())
    if (decided instanceof GatewayError) {
      for (const file of opened.keys()) await noteFailed(db.kysely, file.id, decided, 'refused')
      return await end(parts, arrival, { state: 'refused', ...totals, code: decided.code, reason: decided.message })
    }
    const rule = { rule: decided?.rule, policyVersion: decided?.policyVersion }
    if (decided?.holdReason !== undefined)
      return await end(parts, arrival, {
        state: 'held',
        ...totals,
        ...rule,
        code: 'OFFER_REFUSED',
        reason: decided.holdReason,
      })
    const origin: Origin = {
      kind: 'endpoint',
      principal: `endpoint:${arrival.endpoint}`,
      endpoint: arrival.endpoint,
      arrival: arrival.id,
      issuer: terms.issuer ?? `endpoint:${arrival.endpoint}`,
    }
    for (const [file, held] of [...opened]) await ofFile(file, () => store(parts, held, origin, terms, signal))
    const taken = [...opened]
    await end(
      parts,
      arrival,
      { state: taken.length > 0 ? 'taken' : 'refused', ...totals, ...rule, ...(taken.length === 0 && nothingTaken) },
      taken,
    )
  } finally {
    for (const { id } of files) await rm(unpackedAt(pathOf(id)), { recursive: true, force: true })
  }
}

const nothingTaken = { code: 'DICOM_UNREADABLE', reason: 'none of its files could be taken: see the files' } as const
const unpackedAt = (path: string): string => `${path}.d`

/** The delivery's signature; undefined where there is none and none is asked for; an error that every file has. */
function verifiedBy({ signature, terms }: OpenArrival): Statement | GatewayError | undefined {
  const keys = terms.signers.map(key => Buffer.from(key, 'base64'))
  if (signature === undefined)
    return keys.length === 0
      ? undefined
      : new GatewayError(
          'MANIFEST_SIGNATURE',
          'no manifest.sig lies with it: this endpoint takes only what its senders signed',
        )
  try {
    return openStatement(signature, keys.length === 0 ? undefined : keys)
  } catch (error) {
    if (isGatewayError(error)) return error
    throw error
  }
}

function refuseUnsigned({ path, size, sha256 }: ArrivalFile, folder: string, { files }: Statement): void {
  const name = folder === '' ? path : path.slice(folder.length + 1)
  const signed = files.find(file => file.name === name)
  if (!signed) throw new GatewayError('MANIFEST_SIGNATURE', 'the signature of its delivery does not name it')
  if (signed.size !== size || signed.sha256 !== sha256?.toString('hex'))
    throw new GatewayError('OBJECT_DIGEST', 'not what was signed: it was changed or cut on its way')
}

async function unpack(
  { pathOf, blobs }: ArrivalParts,
  { terms, secrets }: OpenArrival,
  { id }: ArrivalFile,
  signal: AbortSignal,
): Promise<readonly ArrivedObject[]> {
  const identities = secrets.ageIdentity?.match(/AGE-SECRET-KEY-1[0-9A-Z]{58}/g) ?? []
  const options = { into: unpackedAt(pathOf(id)), identities, mostBytes: terms.mostFileBytes, blobs }
  return await openArrived(pathOf(id), options, signal)
}

async function decideArrival(
  db: Db,
  { arrival, terms }: OpenArrival,
  objects: readonly ArrivedObject[],
  { sizeBytes }: { readonly sizeBytes: number },
  now: Date,
) {
  const facts = {
    endpoint: arrival.endpoint,
    purpose: terms.purpose,
    sizeBytes,
    instances: objects.length,
    sopClassUids: [...new Set(objects.map(object => object.sopClassUid))],
    studyInstanceUids: [...new Set(objects.map(object => object.studyInstanceUid))],
  }
  try {
    return await decideArrivalByPolicy(db.kysely, facts, now)
  } catch (error) {
    if (isGatewayError(error, 'OFFER_REFUSED')) return error
    throw error
  }
}

async function store(
  { ingest }: ArrivalParts,
  objects: readonly ArrivedObject[],
  origin: Origin,
  { mostFileBytes }: InboundTerms,
  signal: AbortSignal,
): Promise<void> {
  for (const { path, size } of objects) {
    signal.throwIfAborted()
    await storeFile(ingest, createReadStream(path), origin, { limitBytes: mostFileBytes, expectedBytes: size })
  }
}

/** The end of an arrival, its files and the audit event of it in one transaction; then its bytes go. */
async function end(
  { db, pathOf }: ArrivalParts,
  arrival: Arrival,
  decided: ArrivalEnd,
  taken: readonly (readonly [ArrivalFile, readonly ArrivedObject[]])[] = [],
): Promise<void> {
  await db.inTransaction(async tx => {
    if (!(await writeArrival(tx, arrival.id, ['fetching', 'released'], decided))) return
    for (const [{ id }, objects] of taken) await noteTaken(tx, id, objects.length)
    await appendAudit(tx, arrivalEvent(arrival, decided, taken.length))
  })
  if (decided.state === 'held') return
  for (const { id } of await findFilesOf(db.kysely, arrival.id)) await rm(pathOf(id), { force: true })
}

/** One for the arrival; that of each study comes from ingest. */
function arrivalEvent(
  { id, endpoint }: Arrival,
  { state, objects = 0, rule, policyVersion, code, signedBy }: ArrivalEnd,
  files: number,
  importer: Participant = { userId: 'gateway' },
) {
  return dataImported({
    outcome: state === 'taken' || state === 'held' ? 'success' : 'minor-failure',
    reason: code ?? `arrival-${state}`,
    importer,
    media: { userId: `endpoint:${endpoint}` },
    objects: [{ kind: 'transfer', transferId: id }],
    detail: { files, objects, rule, policyVersion, signedBy },
  })
}

/** A person's decision about a held arrival, as its audit event. */
export const decisionEvent = (arrival: Arrival, decided: ArrivalEnd, importer: Participant) =>
  arrivalEvent(arrival, decided, 0, importer)
