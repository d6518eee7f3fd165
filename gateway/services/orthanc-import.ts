/**
 * Takes over what an Orthanc holds, and then what it says of it. Every file that has come, or cannot, is a row: an import that was interrupted goes
 * on where it stopped, and asking for it again looks for what is new. Nothing that is imported is routed.
 */
import { randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { eventIds } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { decode, object, optional, text } from '../decode.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import { levelOrder } from '../store/hierarchy.ts'
import type { BackgroundJobs } from './background-jobs.ts'
import type { Ingest } from './ingest.ts'
import { annotate, digestOf, isEmpty, worthTaking } from './orthanc-annotate.ts'
import { restSaid, type SaidSource, storageSaid } from './orthanc-said.ts'
import { type OrthancSource, restSource, type SourceFile, storageSource } from './orthanc-source.ts'
import { inParallel } from './parallel.ts'
import type { ResourceAttachments } from './resource-attachments.ts'
import type { ResourceName } from './resource-metadata.ts'
import type { RestTarget } from './rest-client.ts'
import type { Sealing } from './rest-peers.ts'
import { storeFile } from './upload.ts'

/** Where from: one of `url` and `storage`. */
export interface ImportRequest {
  readonly url?: string | undefined
  readonly user?: string | undefined
  readonly password?: string | undefined
  /** Folder on the gateway's machine. */
  readonly storage?: string | undefined
}

/** An import as people see it. */
export interface OrthancImport {
  readonly id: string
  /** URL or folder. */
  readonly source: string
  readonly state: 'running' | 'done' | 'failed'
  /** Files found so far. */
  readonly found: number
  readonly imported: number
  /** Resources whose metadata, labels and attachments were taken. */
  readonly annotated: number
  /** Files, and resources of which something could not be taken. */
  readonly failed: number
  readonly errorCode: string | null
  readonly error: string | null
  readonly createdAt: Date
  readonly updatedAt: Date
}

/** Takes over and shows. */
export interface OrthancImports {
  /** Begins one, or goes on with that of the same source. @throws GatewayError BAD_REQUEST, STATE_CONFLICT while it runs */
  begin(principal: Principal, request: ImportRequest): Promise<OrthancImport>
  /** @throws GatewayError NOT_FOUND */
  load(principal: Principal, id: string): Promise<OrthancImport>
  /** Ids of files and names of resources that could not be taken, and why, at most `limit`. */
  problems(principal: Principal, id: string, limit: number): Promise<readonly { item: string; problem: string }[]>
}

const jobType = 'OrthancImport'
const atOnce = 4
const mostPasses = 3
const restTimeoutMs = 120_000

const parametersDecoder = object({ import: text({ max: 36 }) })
const secretsDecoder = object({ source: text(), user: optional(text()), password: optional(text()) })

export function openOrthancImports(options: {
  readonly db: Db
  readonly ingest: Ingest
  readonly jobs: Pick<BackgroundJobs, 'define' | 'submit'>
  readonly sealing: Sealing
  readonly attachments: ResourceAttachments
  /** Numbers of users' metadata by name, where Orthanc does not tell them. */
  readonly metadataNames: Readonly<Record<string, number>>
  readonly limitBytes: number
}): OrthancImports {
  const { db, ingest, jobs, sealing, attachments, limitBytes } = options

  const take = async (id: string, principal: Principal, file: SourceFile, signal: AbortSignal): Promise<void> => {
    const outcome = await attempt(signal, async () => {
      const origin = { kind: 'rest', principal: principal.id, purpose: 'import' } as const
      const { kind } = await storeFile(ingest, await file.open(signal), origin, { limitBytes })
      const isHere = kind === 'stored' || kind === 'duplicate'
      return isHere ? undefined : kind.toUpperCase()
    })
    await note(db, id, file.id, outcome, null)
  }

  /** What is said of a resource, unless the same was said when it was taken before. */
  const takeSaid = async (
    id: string,
    principal: Principal,
    source: SaidSource,
    { level, orthancId }: ResourceName,
    signal: AbortSignal,
  ): Promise<void> => {
    const item = `${level}/${orthancId}`
    let taken: Buffer | undefined
    const problem = await attempt(signal, async () => {
      const said = worthTaking(await source.said(level, orthancId, signal))
      const digest = digestOf(said)
      if (isEmpty(said) || (await isTaken(db, id, item, digest))) return undefined
      await annotate({ db, attachments }, principal, { level, orthancId }, said, signal)
      taken = digest
      return undefined
    })
    if (problem !== undefined || taken) await note(db, id, item, problem, taken ?? Buffer.alloc(0))
  }

  const passSaid = async (id: string, principal: Principal, source: SaidSource, signal: AbortSignal): Promise<void> => {
    for (const level of levelOrder) {
      for await (const page of source.pages(level, signal)) {
        await inParallel(page, atOnce, orthancId => takeSaid(id, principal, source, { level, orthancId }, signal))
        await touch(db, id)
      }
    }
  }

  /** Ids that have not been taken yet. */
  const unknown = async (id: string, page: readonly string[]): Promise<string[]> => {
    const { rows } = await sql<{ item: string }>`
      select item from unnest(${page}::text[]) as given (item)
       where not exists (select 1 from orthanc_import_items i
                          where i.import = ${id}::uuid and i.item = given.item and i.state <> 'failed')
    `.execute(db.kysely)
    return rows.map(({ item }) => item)
  }

  const pass = async (
    id: string,
    principal: Principal,
    source: OrthancSource,
    tried: Set<string>,
    signal: AbortSignal,
  ): Promise<number> => {
    let taken = 0
    for await (const page of source.pages(signal)) {
      const wanted = (await unknown(id, page)).filter(item => !tried.has(item))
      await inParallel(wanted, atOnce, async item => {
        await take(id, principal, source.file(item), signal)
        tried.add(item)
      })
      taken += wanted.length
      await touch(db, id)
    }
    return taken
  }

  const end = async (id: string, principal: Principal, error?: { readonly code: string; readonly message: string }) =>
    await db.inTransaction(async tx => {
      await sql`
        update orthanc_imports set state = ${error ? 'failed' : 'done'}, error_code = ${error?.code ?? null},
               error = ${error?.message ?? null}, updated_at = now() where id = ${id}::uuid
      `.execute(tx)
      await appendAudit(tx, importEvent(principal, id, error ? 'serious-failure' : 'success'))
    })

  jobs.define(jobType, ({ principal, parameters }) => async (progress, signal) => {
    const given = decode(parametersDecoder, parameters)
    if (!given.ok) throw new GatewayError('BAD_REQUEST', 'the parameters of an import cannot be read')
    const id = given.value.import
    try {
      const { files: source, said } = await openSource(db, sealing, id, options.metadataNames)
      const tried = new Set<string>()
      // What is added while a running Orthanc is read comes with the next pass.
      try {
        for (let passes = 0; passes < mostPasses; passes++) {
          if ((await pass(id, principal, source, tried, signal)) === 0) break
        }
        await passSaid(id, principal, said, signal)
      } finally {
        source.close()
        said.close()
      }
      await end(id, principal)
      const { found, imported, annotated } = await select(db, id)
      progress(1, 1)
      return { content: { Import: id, Found: found, Imported: imported, Annotated: annotated } }
    } catch (error) {
      if (signal.aborted) throw error
      const known = isGatewayError(error) ? error : new GatewayError('UNAVAILABLE', 'internal error', { cause: error })
      await end(id, principal, known)
      throw known
    }
  })

  return {
    async begin(principal, { url, user, password, storage }) {
      authorize(principal, 'gateway.administer')
      if ((url === undefined) === (storage === undefined))
        throw new GatewayError('BAD_REQUEST', 'expected one of url and storage')
      if (url !== undefined && (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol)))
        throw new GatewayError('BAD_REQUEST', 'url: expected an http or https URL')
      const source = url ?? storage ?? ''
      const secrets = Buffer.from(JSON.stringify({ source, user, password }))
      const sealed = Buffer.from(sealing.seal(secrets)).toString('base64')
      const id = await db.inTransaction(async tx => {
        const { rows } = await sql<{ id: string }>`
          insert into orthanc_imports (id, kind, source, sealed, requested_by)
          values (${randomUUID()}::uuid, ${url === undefined ? 'storage' : 'url'}, ${source}, ${sealed}, ${principal.id})
          on conflict (source) do update
             set sealed = excluded.sealed, state = 'running', error_code = null, error = null, updated_at = now()
           where orthanc_imports.state <> 'running' or orthanc_imports.updated_at < now() - interval '10 minutes'
          returning id
        `.execute(tx)
        if (!rows[0]) throw new GatewayError('STATE_CONFLICT', 'an import from there is under way')
        return rows[0].id
      })
      await jobs.submit(principal, {
        type: jobType,
        description: 'Import from Orthanc',
        parameters: { import: id },
        content: { Import: id },
        audit: [importEvent(principal, id, 'success')],
      })
      return await select(db, id)
    },
    async load(principal, id) {
      authorize(principal, 'gateway.administer')
      return await select(db, id)
    },
    async problems(principal, id, limit) {
      authorize(principal, 'gateway.administer')
      const { rows } = await sql<{ item: string; problem: string }>`
        select item, problem from orthanc_import_items
         where import = ${id}::uuid and state = 'failed' order by item limit ${limit}
      `.execute(db.kysely)
      return rows
    },
  }
}

const importEvent = ({ id, address }: Principal, imports: string, outcome: 'success' | 'serious-failure') => ({
  event: eventIds.dataImport,
  action: 'C' as const,
  outcome,
  participants: [{ userId: id, requestor: true, ...(address !== undefined && { address }) }],
  objects: [],
  detail: { import: imports },
})

/**
 * Why something could not be taken, or undefined. What may pass is thrown: it stops the import, which goes on from
 * there when it is begun again.
 */
async function attempt(signal: AbortSignal, deed: () => Promise<string | undefined>): Promise<string | undefined> {
  try {
    return await deed()
  } catch (error) {
    signal.throwIfAborted()
    if (!isGatewayError(error) || error.meaning.retry === 'yes') throw error
    return error.code
  }
}

/** @param said  digest of what is said of a resource; null for a file */
async function note(db: Db, id: string, item: string, problem: string | undefined, said: Buffer | null) {
  await sql`
    insert into orthanc_import_items (import, item, state, problem, said_sha256)
    values (${id}::uuid, ${item}, ${problem === undefined ? 'imported' : 'failed'}, ${problem ?? null}, ${said})
    on conflict (import, item) do update
       set state = excluded.state, problem = excluded.problem, said_sha256 = excluded.said_sha256
  `.execute(db.kysely)
}

async function isTaken(db: Db, id: string, item: string, said: Buffer): Promise<boolean> {
  const { rows } = await sql`
    select from orthanc_import_items
     where import = ${id}::uuid and item = ${item} and said_sha256 = ${said} and state = 'imported'
  `.execute(db.kysely)
  return rows.length > 0
}

async function touch(db: Db, id: string): Promise<void> {
  await sql`update orthanc_imports set updated_at = now() where id = ${id}::uuid`.execute(db.kysely)
}

async function openSource(
  db: Db,
  sealing: Sealing,
  id: string,
  metadataNames: Readonly<Record<string, number>>,
): Promise<{ readonly files: OrthancSource; readonly said: SaidSource }> {
  const { rows } = await sql<{ kind: string; source: string; sealed: string }>`
    select kind, source, sealed from orthanc_imports where id = ${id}::uuid`.execute(db.kysely)
  const [row] = rows
  const box = row && sealing.open(Buffer.from(row.sealed, 'base64'))
  const secrets = box && decode(secretsDecoder, JSON.parse(Buffer.from(box).toString('utf8')))
  if (!row || !secrets?.ok || secrets.value.source !== row.source)
    throw new GatewayError('STATE_CONFLICT', 'the source of an import cannot be read: begin it again')
  if (row.kind === 'storage') return { files: storageSource(row.source), said: storageSaid(row.source) }
  const { source: url, user: username, password } = secrets.value
  const target: RestTarget = { name: 'Orthanc', url, username, password, headers: {}, timeoutMs: restTimeoutMs }
  return { files: restSource(target), said: restSaid(target, metadataNames) }
}

async function select(db: Db, id: string): Promise<OrthancImport> {
  const { rows } = await sql<OrthancImport>`
    select id, source, state, error_code as "errorCode", error, created_at as "createdAt", updated_at as "updatedAt",
           items.found, items.imported, items.annotated, items.failed
      from orthanc_imports o, lateral (
        select count(*) filter (where said_sha256 is null)::int as found,
               count(*) filter (where said_sha256 is null and i.state = 'imported')::int as imported,
               count(*) filter (where said_sha256 is not null and i.state = 'imported')::int as annotated,
               count(*) filter (where i.state = 'failed')::int as failed
          from orthanc_import_items i where i.import = o.id) items
     where o.id = ${id}::uuid`.execute(db.kysely)
  if (!rows[0]) throw new GatewayError('NOT_FOUND', 'no such import')
  return rows[0]
}
