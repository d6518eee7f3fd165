/**
 * Uploads that may be interrupted and resumed. Each is a row and a file in `<data>/uploads`; when the last byte is there,
 * a job stores what is in it, a DICOM file or those of a ZIP archive, and notes the outcome of each. A killed gateway
 * goes on: what was received is found by the file's size, what was not stored yet by the files without an outcome.
 */
import { createReadStream } from 'node:fs'
import { mkdir, open, readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import type { Db } from '../db/db.ts'
import { decode, object, text } from '../decode.ts'
import { fileSource } from '../dicom/byte-source.ts'
import { isIso9660 } from '../dicom/iso9660.ts'
import { type ErrorCode, GatewayError, isGatewayError } from '../errors.ts'
import { onBehalfOf, type Principal } from '../principal.ts'
import type { Blobs } from '../store/blobs.ts'
import { storageError } from '../store/io-error.ts'
import type { Origin } from '../store/origin.ts'
import type { BackgroundJobs, JobProgress } from './background-jobs.ts'
import type { Ingest } from './ingest.ts'
import { storeFile } from './upload.ts'
import { mostEntries, mostTimes, peek, storeIfDicom } from './upload-many.ts'
import { readZip } from './zip-upload.ts'

/** An upload as its owner sees it. */
export interface ResumableUpload {
  readonly id: string
  /** `disc`: the image of one, kept for `/api/v1/discs` until it expires. */
  readonly state: 'receiving' | 'storing' | 'disc' | 'done' | 'failed'
  /** Null while its sender has not said. */
  readonly sizeBytes: number | null
  readonly receivedBytes: number
  /** Files with an outcome. */
  readonly files: number
  readonly errorCode: string | null
  readonly error: string | null
  readonly createdAt: Date
  readonly updatedAt: Date
}

/** What became of one file. */
export interface UploadedFile {
  readonly position: number
  /** In the archive; empty for a file by itself. */
  readonly name: string
  readonly outcome: 'stored' | 'duplicate' | 'conflict' | 'variant' | 'not-dicom' | 'refused'
  /** Orthanc id of the instance. */
  readonly instance: string | null
  readonly conflict: number | null
  readonly errorCode: string | null
  readonly error: string | null
}

/** What the protocol keeps of an upload. */
export interface UploadNote {
  readonly sizeBytes: number | undefined
  readonly metadata: Readonly<Record<string, string | null>>
  readonly createdAt: Date
}

/** Keeps uploads. */
export interface ResumableUploads {
  /** Where the bytes are, each upload in a file named by its id. */
  readonly folder: string
  /** Largest upload. */
  readonly limitBytes: number
  /** @throws GatewayError TOO_LARGE, TOO_MANY_REQUESTS when the caller or all have too many open, STORAGE_FULL, FORBIDDEN */
  create(principal: Principal, upload: { readonly id: string } & Omit<UploadNote, 'createdAt'>): Promise<void>
  /** May this caller go on with it? @throws GatewayError NOT_FOUND for an unknown one and somebody else's, STORAGE_FULL */
  resume(principal: Principal, id: string): Promise<void>
  /** For the protocol, which has asked with `resume`. */
  note(id: string): Promise<UploadNote | undefined>
  noteSize(id: string, sizeBytes: number | undefined): Promise<void>
  /** Forgets one that is not complete; its file has gone. */
  forget(id: string): Promise<void>
  /** All bytes are there: has them stored. */
  complete(id: string): Promise<void>
  /** @throws GatewayError NOT_FOUND, FORBIDDEN */
  load(principal: Principal, id: string): Promise<ResumableUpload>
  /** Outcomes after a position. @throws GatewayError NOT_FOUND, FORBIDDEN */
  files(
    principal: Principal,
    id: string,
    page: { readonly after: number; readonly limit: number },
  ): Promise<UploadedFile[]>
  /** The file of a disc that was uploaded. @throws GatewayError NOT_FOUND, STATE_CONFLICT when it is none, FORBIDDEN */
  discPath(principal: Principal, id: string): Promise<string>
  /** Removes what has expired and takes up what a killed process left. */
  sweep(): Promise<void>
}

/** An upload that is not complete by then is removed. */
export const uploadExpiryMs = 24 * 3_600_000
const outcomesKeptDays = 7
const mostOpenOfOne = 32
const mostOpen = 256
const jobType = 'ResumableUpload'
const uuid = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/
const parametersDecoder = object({ upload: text({ min: 36, max: 36 }) })

/** Opens the uploads; makes their folder. */
export async function openResumableUploads(options: {
  readonly db: Db
  readonly blobs: Pick<Blobs, 'assertRoom'>
  readonly ingest: Ingest
  readonly jobs: Pick<BackgroundJobs, 'define' | 'submit' | 'load'>
  readonly dataDir: string
  readonly limitBytes: number
}): Promise<ResumableUploads> {
  const { db, blobs, ingest, jobs, limitBytes } = options
  const folder = join(options.dataDir, 'uploads')
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 })
  } catch (error) {
    throw storageError(error, 'making the folder of uploads')
  }
  const pathOf = (id: string): string => join(folder, id)
  const sizeOf = async (id: string): Promise<number> => (await stat(pathOf(id)).catch(() => undefined))?.size ?? 0

  const loadRow = async (id: string): Promise<Row | undefined> => {
    if (!uuid.test(id)) return undefined
    const { rows } = await sql<Row>`
      select id, principal, remote_address as "remoteAddress", size_bytes as "sizeBytes", metadata, state, job,
             error_code as "errorCode", error, created_at as "createdAt", updated_at as "updatedAt",
             (select count(*)::int from upload_files f where f.upload = uploads.id) as files
        from uploads where id = ${id}::uuid
    `.execute(db.kysely)
    return rows[0]
  }
  const ownRow = async (principal: Principal, id: string): Promise<Row> => {
    authorize(principal, 'study.store')
    const row = await loadRow(id)
    if (row?.principal !== principal.id) throw new GatewayError('NOT_FOUND', 'no such upload: it may have expired')
    return row
  }

  const end = async (id: string, error?: GatewayError): Promise<void> => {
    await sql`
      update uploads set state = ${error ? 'failed' : 'done'}, error_code = ${error?.code ?? null},
             error = ${error?.message ?? null}, updated_at = now() where id = ${id}::uuid
    `.execute(db.kysely)
    await rm(pathOf(id), { force: true })
  }

  const noteFile = async (id: string, position: number, name: string, outcome: Outcome): Promise<void> => {
    await sql`
      insert into upload_files (upload, position, name, outcome, instance, conflict, error_code, error)
      values (${id}::uuid, ${position}, ${name}, ${outcome.kind}, ${outcome.instance ?? null}, ${outcome.held ?? null},
              ${outcome.error?.code ?? null}, ${outcome.error?.message ?? null})
      on conflict do nothing
    `.execute(db.kysely)
  }

  const storeArchived = async (id: string, origin: Origin, progress: JobProgress, signal: AbortSignal) => {
    const { rows } = await sql<{ position: number }>`
      select position from upload_files where upload = ${id}::uuid
    `.execute(db.kysely)
    const known = new Set(rows.map(({ position }) => position))
    let position = 0
    for await (const { name, content, count } of readZip(pathOf(id), {
      entries: mostEntries,
      totalBytes: limitBytes * mostTimes,
    })) {
      signal.throwIfAborted()
      const at = position++
      progress(at, count)
      if (known.has(at)) continue
      const result = await storeIfDicom(content, { ingest, origin, limitBytes })
      await noteFile(id, at, name, result ? outcomeOf(result) : { kind: 'not-dicom' })
    }
  }

  const store = async (id: string, progress: JobProgress, signal: AbortSignal): Promise<void> => {
    const row = await loadRow(id)
    if (row?.state !== 'storing') return
    const origin: Origin = {
      kind: 'rest',
      principal: row.principal,
      ...(row.remoteAddress !== null && { remoteAddress: row.remoteAddress }),
    }
    try {
      const source = createReadStream(pathOf(id), { signal })
      const { isZip, bytes } = await peek(source)
      if (isZip) {
        source.destroy()
        await storeArchived(id, origin, progress, signal)
      } else if (await isDisc(pathOf(id))) {
        source.destroy()
        await sql`update uploads set state = 'disc', updated_at = now() where id = ${id}::uuid`.execute(db.kysely)
        return
      } else {
        const limits = { limitBytes, expectedBytes: await sizeOf(id) }
        const outcome = await storeFile(ingest, bytes, origin, limits).then(outcomeOf, refusedOutcome)
        await noteFile(id, 0, '', outcome)
      }
    } catch (error) {
      signal.throwIfAborted()
      // What may pass is tried again by the next sweep.
      if (!isGatewayError(error) || error.meaning.retry === 'yes') throw error
      await end(id, error)
      return
    }
    await end(id)
  }

  jobs.define(jobType, ({ parameters }) => async (progress, signal) => {
    const given = decode(parametersDecoder, parameters)
    if (!given.ok) throw new GatewayError('BAD_REQUEST', 'the parameters of an upload cannot be read')
    await store(given.value.upload, progress, signal)
    return { content: { Upload: given.value.upload } }
  })

  const submit = async (id: string, owner: string): Promise<void> => {
    const job = await jobs.submit(onBehalfOf(owner), {
      type: jobType,
      description: 'Storing an upload',
      parameters: { upload: id },
      content: { Upload: id },
    })
    await sql`update uploads set job = ${job}::uuid where id = ${id}::uuid`.execute(db.kysely)
  }

  const complete = async (id: string): Promise<void> => {
    const file = await open(pathOf(id), 'r')
    try {
      await file.sync()
    } catch (error) {
      throw storageError(error, 'making an upload durable')
    } finally {
      await file.close()
    }
    const { rows } = await sql<{ principal: string }>`
      update uploads set state = 'storing', updated_at = now() where id = ${id}::uuid and state = 'receiving'
      returning principal
    `.execute(db.kysely)
    if (rows[0]) await submit(id, rows[0].principal)
  }

  return {
    folder,
    limitBytes,

    async create(principal, { id, sizeBytes, metadata }) {
      authorize(principal, 'study.store')
      if ((sizeBytes ?? 0) > limitBytes) throw new GatewayError('TOO_LARGE', `expected at most ${limitBytes} bytes`)
      await blobs.assertRoom(sizeBytes ?? 0)
      const isRoom = await db.inTransaction(async tx => {
        await sql`lock table uploads in share row exclusive mode`.execute(tx)
        const { rows } = await sql<{ own: number; all: number }>`
          select count(*)::int as all, (count(*) filter (where principal = ${principal.id}))::int as own
            from uploads where state in ('receiving', 'storing', 'disc')
        `.execute(tx)
        if ((rows[0]?.own ?? 0) >= mostOpenOfOne || (rows[0]?.all ?? 0) >= mostOpen) return false
        await sql`
          insert into uploads (id, principal, remote_address, size_bytes, metadata)
          values (${id}::uuid, ${principal.id}, ${principal.address ?? null}, ${sizeBytes ?? null},
                  ${JSON.stringify(metadata)}::jsonb)
        `.execute(tx)
        return true
      })
      if (!isRoom)
        throw new GatewayError(
          'TOO_MANY_REQUESTS',
          'too many uploads are open: finish, remove or wait for some of them',
        )
    },

    async resume(principal, id) {
      const row = await ownRow(principal, id)
      if (row.state !== 'receiving') return
      await blobs.assertRoom(row.sizeBytes === null ? 0 : row.sizeBytes - (await sizeOf(id)))
    },

    async note(id) {
      const row = await loadRow(id)
      return (
        row && { sizeBytes: row.sizeBytes ?? undefined, metadata: metadataOf(row.metadata), createdAt: row.createdAt }
      )
    },

    async noteSize(id, sizeBytes) {
      await sql`update uploads set size_bytes = ${sizeBytes ?? null} where id = ${id}::uuid and state = 'receiving'`.execute(
        db.kysely,
      )
    },

    async forget(id) {
      await sql`delete from uploads where id = ${id}::uuid and state = 'receiving'`.execute(db.kysely)
    },

    complete,

    async load(principal, id) {
      const {
        principal: _owner,
        remoteAddress: _from,
        metadata: _told,
        job: _job,
        ...shown
      } = await ownRow(principal, id)
      const { state, sizeBytes } = shown
      return { ...shown, receivedBytes: state === 'receiving' ? await sizeOf(id) : (sizeBytes ?? 0) }
    },

    async files(principal, id, { after, limit }) {
      await ownRow(principal, id)
      const { rows } = await sql<UploadedFile>`
        select position, name, outcome, instance, conflict, error_code as "errorCode", error
          from upload_files where upload = ${id}::uuid and position > ${after} order by position limit ${limit}
      `.execute(db.kysely)
      return rows
    },

    async discPath(principal, id) {
      const { state } = await ownRow(principal, id)
      if (state === 'disc') return pathOf(id)
      throw new GatewayError('STATE_CONFLICT', 'the upload is not the image of a disc (ISO 9660), or not complete yet')
    },

    async sweep() {
      await sql`
        delete from uploads
         where (state in ('receiving', 'disc') and updated_at < now() - make_interval(secs => ${uploadExpiryMs / 1000}))
            or (state in ('done', 'failed') and updated_at < now() - make_interval(days => ${outcomesKeptDays}))
      `.execute(db.kysely)
      const { rows } = await sql<{
        id: string
        principal: string
        sizeBytes: number | null
        state: string
        job: string | null
      }>`
        select id, principal, size_bytes as "sizeBytes", state, job from uploads 
         where state = 'receiving' or (state = 'storing' and updated_at < now() - interval '1 minute')
      `.execute(db.kysely)
      for (const { id, principal, sizeBytes, state, job } of rows) {
        if (state === 'receiving') {
          // Its last bytes were written, and then the process was killed.
          if (sizeBytes !== null && sizeBytes > 0 && (await sizeOf(id)) === sizeBytes) await complete(id)
        } else {
          const known = job === null ? undefined : await jobs.load(job)
          if (!known || known.endedAt) await submit(id, principal)
        }
      }
      const open = new Set(rows.map(({ id }) => id))
      for (const name of await readdir(folder)) {
        // One that has just been made has its row already.
        if (!open.has(name) && !(await loadRow(name))) await rm(pathOf(name), { force: true, recursive: true })
      }
    },
  }
}

interface Row extends Omit<ResumableUpload, 'receivedBytes'> {
  readonly principal: string
  readonly remoteAddress: string | null
  readonly metadata: unknown
  readonly job: string | null
}

interface Outcome {
  readonly kind: UploadedFile['outcome']
  readonly instance?: string
  readonly held?: number
  readonly error?: { readonly code: ErrorCode; readonly message: string }
}

function outcomeOf(result: Awaited<ReturnType<Ingest['store']>>): Outcome {
  return {
    kind: result.kind,
    instance: result.instance.orthancId,
    ...('held' in result && { held: result.held }),
  }
}

async function isDisc(path: string): Promise<boolean> {
  await using file = await open(path, 'r')
  return await isIso9660(fileSource(file, (await file.stat()).size))
}

/** A file that is no DICOM is an outcome; what may pass is not. */
function refusedOutcome(error: unknown): Outcome {
  if (!isGatewayError(error) || error.meaning.retry === 'yes') throw error
  return { kind: 'refused', error }
}

function metadataOf(stored: unknown): Record<string, string | null> {
  const entries = Object.entries(Object(stored)).map(([name, value]) => [
    name,
    typeof value === 'string' ? value : null,
  ])
  return Object.fromEntries(entries)
}
