/**
 * Discs that the gateway reads itself: in a drive or folder below those of the configuration, or an image that was
 * uploaded. Somebody looks at what is on it and picks; the import is a job whose report names every file.
 */
import { type FileHandle, open, realpath } from 'node:fs/promises'
import { sep } from 'node:path'
import { authorize } from '../../policy/authorize.ts'
import { eventIds } from '../audit/event.ts'
import { decode, list, object, optional, text } from '../decode.ts'
import type { ByteSource } from '../dicom/byte-source.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import { storageError } from '../store/io-error.ts'
import type { Origin } from '../store/origin.ts'
import type { BackgroundJobs, JobProgress } from './background-jobs.ts'
import { type MediumFile, mediumFiles } from './disc-files.ts'
import { type Medium, type MediumChoice, pickStudies, readMedium } from './disc-studies.ts'
import type { Ingest } from './ingest.ts'
import { chunksOf } from './modify.ts'
import type { ResumableUploads } from './resumable-uploads.ts'
import { storeFile } from './upload.ts'

/** Where a disc is: one of the two. */
export interface DiscPlace {
  /** Absolute path of a folder or image on the gateway's machine. */
  readonly path?: string
  /** Id of a complete upload of an image. */
  readonly upload?: string
}

/** What is on a disc and should be stored. */
export interface DiscImport extends DiscPlace {
  /** Without any, all studies. */
  readonly choices: readonly MediumChoice[]
}

/** Looks at discs and imports from them. */
export interface Discs {
  /** Folders below which discs may be named. @throws GatewayError FORBIDDEN */
  folders(principal: Principal): readonly string[]
  /** @throws GatewayError NOT_FOUND, BAD_REQUEST when it is no disc, STATE_CONFLICT, FORBIDDEN */
  look(principal: Principal, place: DiscPlace, signal: AbortSignal): Promise<Medium>
  /** @returns the job's id; its output `report` has a line of JSON for each file. @throws GatewayError as `look` */
  begin(principal: Principal, request: DiscImport): Promise<string>
}

const jobType = 'DiscImport'
const reportKey = 'report'
const parametersDecoder = object({
  path: optional(text({ max: 4096 })),
  upload: optional(text({ max: 36 })),
  choices: list(object({ patientId: optional(text({ max: 1024 })), studyInstanceUid: optional(text({ max: 64 })) }), {
    max: 1000,
  }),
})

export function openDiscs(options: {
  readonly ingest: Ingest
  readonly jobs: Pick<BackgroundJobs, 'define' | 'submit'>
  readonly uploads: Pick<ResumableUploads, 'discPath'>
  /** Absolute paths. */
  readonly folders: readonly string[]
  readonly limitBytes: number
}): Discs {
  const { ingest, jobs, uploads, folders, limitBytes } = options

  const mediumOf = async (principal: Principal, { path, upload }: DiscPlace): Promise<string> => {
    if ((path === undefined) === (upload === undefined)) {
      throw new GatewayError('BAD_REQUEST', 'expected one of path and upload')
    }
    if (upload !== undefined) return await uploads.discPath(principal, upload)
    const medium = await realpath(path ?? '').catch(() => undefined)
    for (const folder of medium === undefined ? [] : folders) {
      const root = await realpath(folder).catch(() => undefined)
      if (medium !== undefined && root !== undefined && isWithin(medium, root)) return medium
    }
    // Whether there is something outside of the folders is nobody's business.
    throw new GatewayError('NOT_FOUND', 'no disc is there: expected a path below a folder of discs.folders')
  }

  const store = async (file: MediumFile, origin: Origin): Promise<FileReport> => {
    const reading = { isBroken: false }
    try {
      const result = await file.read(source =>
        storeFile(ingest, readable(source, reading), origin, { limitBytes, expectedBytes: source.sizeBytes }),
      )
      return { name: file.name, outcome: result.kind, instance: result.instance.orthancId }
    } catch (error) {
      // A scratch ends one file, not the import; a full disk ends the import.
      if (reading.isBroken) return { name: file.name, outcome: 'failed', reason: 'the medium cannot be read there' }
      if (!isGatewayError(error) || error.meaning.retry === 'yes') throw error
      return { name: file.name, outcome: 'failed', reason: error.message }
    }
  }

  const run = async (
    principal: Principal,
    { choices, ...place }: DiscImport,
    report: FileHandle,
    progress: JobProgress,
    signal: AbortSignal,
  ) => {
    const medium = await readMedium(mediumFiles(await mediumOf(principal, place)), signal)
    const { address } = principal
    const origin: Origin = {
      kind: 'rest',
      principal: principal.id,
      ...(address !== undefined && { remoteAddress: address }),
    }
    const files = pickStudies(medium.studies, choices).flatMap(study => study.files)
    const counts = { Stored: 0, Known: 0, Failed: 0 }
    for (const [index, file] of files.entries()) {
      signal.throwIfAborted()
      const told = await store(file, origin)
      counts[told.outcome === 'stored' ? 'Stored' : told.outcome === 'failed' ? 'Failed' : 'Known']++
      await report.write(`${JSON.stringify(told)}\n`)
      progress(index + 1, files.length, counts)
    }
    for (const { name, reason } of medium.unreadable) {
      await report.write(`${JSON.stringify({ name, outcome: 'unreadable', reason })}\n`)
    }
    for (const name of medium.missing) await report.write(`${JSON.stringify({ name, outcome: 'missing' })}\n`)
    return { ...counts, Unreadable: medium.unreadable.length, Missing: medium.missing.length }
  }

  jobs.define(jobType, ({ principal, parameters }) => async (progress, signal, place) => {
    const given = decode(parametersDecoder, parameters)
    if (!given.ok) throw new GatewayError('BAD_REQUEST', 'the parameters of an import cannot be read')
    const { path, upload, choices } = given.value
    const request = {
      ...(path !== undefined && { path }),
      ...(upload !== undefined && { upload }),
      choices: choices.map(choiceOf),
    }
    const report = await open(await place(reportKey), 'w', 0o600).catch((error: unknown) => {
      throw storageError(error, 'writing the report of an import')
    })
    try {
      const content = await run(principal, request, report, progress, signal)
      return { content, outputs: { [reportKey]: { type: 'application/x-ndjson', filename: 'report.ndjson' } } }
    } finally {
      await report.close()
    }
  })

  return {
    folders(principal) {
      authorize(principal, 'study.store')
      return folders
    },
    async look(principal, place, signal) {
      authorize(principal, 'study.store')
      return await readMedium(mediumFiles(await mediumOf(principal, place)), signal)
    },
    async begin(principal, { path, upload, choices }) {
      authorize(principal, 'study.store')
      await mediumOf(principal, { ...(path !== undefined && { path }), ...(upload !== undefined && { upload }) })
      const { id, address } = principal
      return await jobs.submit(principal, {
        type: jobType,
        description: 'Import from a disc',
        parameters: { path, upload, choices },
        audit: [
          {
            event: eventIds.dataImport,
            action: 'C',
            outcome: 'success',
            participants: [{ userId: id, requestor: true, ...(address !== undefined && { address }) }],
            objects: [],
            detail: { import: 'disc' },
          },
        ],
      })
    },
  }
}

/** A line of the report. */
interface FileReport {
  readonly name: string
  readonly outcome: 'stored' | 'duplicate' | 'conflict' | 'variant' | 'failed'
  readonly instance?: string
  readonly reason?: string
}

const isWithin = (path: string, root: string): boolean =>
  path === root || path.startsWith(root.endsWith(sep) ? root : root + sep)

const choiceOf = ({
  patientId,
  studyInstanceUid,
}: {
  readonly patientId?: string | undefined
  readonly studyInstanceUid?: string | undefined
}): MediumChoice => ({
  ...(patientId !== undefined && { patientId }),
  ...(studyInstanceUid !== undefined && { studyInstanceUid }),
})

/** The bytes of a file; notes that it was the medium which failed. */
async function* readable(source: ByteSource, reading: { isBroken: boolean }): AsyncGenerator<Uint8Array> {
  const chunks = chunksOf(source)
  let at = 0
  for (;;) {
    const next = await chunks.next().catch((error: unknown) => {
      reading.isBroken = true
      throw error
    })
    if (next.done) break
    at += next.value.length
    yield next.value
  }
  if (at === source.sizeBytes) return
  reading.isBroken = true
  throw new GatewayError('STORAGE_IO', 'the medium ends early')
}
