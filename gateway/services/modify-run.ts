/**
 * Makes new instances of stored ones, a few at a time: each is written anew by a rewriter, taken in by ingest, and
 * counted. Begun again after an interruption it makes the same instances, which are duplicates then.
 */
import type { Db } from '../db/db.ts'
import { errorLine, GatewayError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Principal } from '../principal.ts'
import { findResource } from '../store/hierarchy.ts'
import { lockMetadatum, setMetadatum, systemMetadata } from '../store/metadata.ts'
import type { Origin } from '../store/origin.ts'
import { type Level, loadAncestors } from '../store/query.ts'
import type { JobProgress, JobResult } from './background-jobs.ts'
import type { Ingest } from './ingest.ts'
import { type Resource, type Selection, type SourceInstance, sourceInstances } from './modify-sources.ts'
import { inParallel } from './parallel.ts'
import type { Removal } from './removal.ts'
import { storeFile } from './upload.ts'

/** A new file, being written; `close` when it has been read. */
export interface Rewritten {
  readonly chunks: AsyncIterable<Uint8Array>
  close(): Promise<void>
}

/** Writes one instance anew. @throws GatewayError */
export type Rewriter = (source: SourceInstance, signal: AbortSignal) => Promise<Rewritten>

/** What running takes. */
export interface RunParts {
  readonly db: Db
  readonly ingest: Ingest
  readonly removal: Removal
  readonly log: Log
  readonly limitBytes: number
}

/** One run. */
export interface RewriteRun {
  readonly selection: Selection
  readonly rewrite: Rewriter
  readonly principal: Principal
  /** Counts what fails, and goes on. */
  readonly permissive: boolean
  readonly keepSource: boolean
  readonly madeBy: 'modification' | 'anonymization'
  /** Whose patient IDs a new instance names; undefined where it says so itself. */
  readonly issuerOf: (source: SourceInstance) => string | undefined
  /** What the job's content says beside the counts. */
  readonly fields: (made: MadeResources) => Record<string, unknown>
}

/** What has been made so far. */
export interface MadeResources {
  /** The last instance and what is above it; undefined before there is one. */
  readonly last: Readonly<Record<Level, string>> | undefined
  readonly ids: Readonly<Record<Level, ReadonlySet<string>>>
}

const width = 4
const paths = { patient: 'patients', study: 'studies', series: 'series', instance: 'instances' } as const
const names = { patient: 'Patient', study: 'Study', series: 'Series', instance: 'Instance' } as const
const order = ['instance', 'series', 'study', 'patient'] as const

/**
 * Runs it, and gives the fields that Orthanc's jobs show.
 *
 * @throws GatewayError of the first instance that failed, unless permissive; STATE_CONFLICT when what was made has the SOP
 *   Instance UID of another instance
 */
export async function runRewrite(
  parts: RunParts,
  run: RewriteRun,
  progress: JobProgress,
  signal: AbortSignal,
): Promise<JobResult> {
  const { db, removal, log } = parts
  const { selection, principal, permissive } = run
  const outcome = new Outcome(selection.instanceCount, run)
  const done: string[] = []
  for await (const page of sourceInstances(db, selection)) {
    await inParallel(page, width, async source => {
      signal.throwIfAborted()
      try {
        const made = await rewriteOne(parts, run, source, signal)
        await noteSource(db, run.madeBy, outcome.add(made), source)
        if (made.instance !== source.orthancId) done.push(source.orthancId)
      } catch (error) {
        signal.throwIfAborted()
        if (!permissive) throw error
        outcome.failed++
        log.warn({ instance: source.orthancId, cause: errorLine(error) }, 'an instance could not be rewritten')
      }
      progress(outcome.count, selection.instanceCount, outcome.content())
    })
  }
  if (!run.keepSource && done.length > 0) {
    signal.throwIfAborted()
    await removal.remove(principal, 'instance', done, run.madeBy)
  }
  return { content: outcome.content() }
}

async function rewriteOne(
  { db, ingest, limitBytes }: RunParts,
  { rewrite, principal, madeBy, issuerOf }: RewriteRun,
  source: SourceInstance,
  signal: AbortSignal,
): Promise<Record<Level, string>> {
  const rewritten = await rewrite(source, signal)
  try {
    const issuer = issuerOf(source)
    const origin: Origin = {
      kind: 'rest',
      principal: principal.id,
      ...(principal.address !== undefined && { remoteAddress: principal.address }),
      madeFrom: { instance: source.orthancId, by: madeBy },
      ...(issuer !== undefined && { issuer }),
    }
    const result = await storeFile(ingest, rewritten.chunks, origin, { limitBytes })
    if (result.kind === 'conflict' || result.kind === 'variant') {
      throw new GatewayError(
        'STATE_CONFLICT',
        `what was made of ${source.orthancId} has the SOP Instance UID of another instance: it is held as a conflict`,
      )
    }
    const { orthancId } = result.instance
    const above = await loadAncestors(db, orthancId)
    if (!above) throw new GatewayError('STATE_CONFLICT', 'the new instance was removed at once')
    return { instance: orthancId, ...above }
  } finally {
    await rewritten.close()
  }
}

/** Says of new resources what they were made of, as Orthanc's metadata does. */
async function noteSource(
  db: Db,
  madeBy: RewriteRun['madeBy'],
  made: readonly Resource[],
  source: SourceInstance,
): Promise<void> {
  const name = systemMetadata[madeBy === 'modification' ? 'ModifiedFrom' : 'AnonymizedFrom']
  const sources = { ...source, instance: source.orthancId }
  await db.inTransaction(async tx => {
    for (const { level, orthancId } of made) {
      if (orthancId === sources[level]) continue
      const row = await findResource(tx, level, orthancId)
      if (row && !(await lockMetadatum(tx, row, name))) await setMetadatum(tx, row, name, sources[level])
    }
  })
}

/** What has come of it so far. */
class Outcome implements MadeResources {
  count = 0
  failed = 0
  last: Record<Level, string> | undefined
  readonly ids: Readonly<Record<Level, Set<string>>> = {
    instance: new Set(),
    series: new Set(),
    study: new Set(),
    patient: new Set(),
  }
  readonly #total: number
  readonly #run: RewriteRun

  constructor(total: number, run: RewriteRun) {
    this.#total = total
    this.#run = run
  }

  /** The resources that are seen for the first time. */
  add(made: Record<Level, string>): Resource[] {
    this.count++
    this.last = made
    const fresh = order.filter(level => !this.ids[level].has(made[level]))
    for (const level of fresh) this.ids[level].add(made[level])
    return fresh.map(level => ({ level, orthancId: made[level] }))
  }

  content(): Record<string, unknown> {
    return { FailedInstancesCount: this.failed, InstancesCount: this.#total, ...this.#run.fields(this) }
  }
}

/** The resource of a level that was made, as Orthanc's jobs about one resource show it. */
export function singleResult({ last }: MadeResources, level: Level): Record<string, unknown> {
  if (!last) return {}
  const { [level]: id, patient } = last
  return { ID: id, Path: `/${paths[level]}/${id}`, PatientID: patient, Type: names[level] }
}

/** All resources that were made, as Orthanc's jobs about several resources show them. */
export function allResults({ ids }: MadeResources): Record<string, unknown> {
  const Resources = order.flatMap(level =>
    [...ids[level]].sort().map(id => ({ ID: id, Path: `/${paths[level]}/${id}`, Type: names[level] })),
  )
  return { Resources }
}
