/** Modification of stored instances: one at once, as a file; or all below resources, as a job. */
import { randomBytes } from 'node:crypto'
import { appendAudits } from '../audit/log.ts'
import { decode, integer, isObject, list, object, oneOf, optional, text } from '../decode.ts'
import type { ByteSource } from '../dicom/byte-source.ts'
import { planModification } from '../dicom/modification.ts'
import { spliceEdits } from '../dicom/part10-splice.ts'
import { GatewayError } from '../errors.ts'
import type { Pixels } from '../pixels/pixels.ts'
import type { Principal } from '../principal.ts'
import type { Blobs, StagedFile } from '../store/blobs.ts'
import type { Level } from '../store/query.ts'
import type { BackgroundJobs } from './background-jobs.ts'
import { assertLevel, bulkLevel, keyTags, type ModifyRequest, readIds, readModifyRequest } from './modify-request.ts'
import { type Rewriter, type Rewritten, type RunParts, runRewrite } from './modify-run.ts'
import {
  accessEvents,
  findResources,
  type Resource,
  type Selection,
  type SourceInstance,
  selectInstances,
  sourceInstances,
} from './modify-sources.ts'
import { derivedUid } from './modify-uids.ts'

/** What a job is asked for with. */
export interface RewriteWishes {
  readonly priority: number
  readonly permissive: boolean
}

/** Modifies instances as Orthanc's API asks for it. */
export interface Modifications {
  /**
   * One instance, modified; nothing is stored. The caller discards the file.
   *
   * @throws GatewayError NOT_FOUND, BAD_REQUEST, TRANSCODE_UNSUPPORTED and what reading and staging throw
   */
  instance(principal: Principal, orthancId: string, body: unknown, signal: AbortSignal): Promise<StagedFile>
  /** Plans the modification of one resource. @returns the job's id; @throws GatewayError NOT_FOUND, BAD_REQUEST */
  resource(principal: Principal, resource: Resource, body: unknown, wishes: RewriteWishes): Promise<string>
  /** Plans the modification of `Resources`. @returns the job's id; @throws GatewayError NOT_FOUND, BAD_REQUEST */
  bulk(principal: Principal, body: unknown, wishes: RewriteWishes): Promise<string>
}

/** What modifying takes. */
export interface ModifyParts extends RunParts {
  readonly blobs: Pick<Blobs, 'open' | 'stageFrom'>
  readonly pixels: Pick<Pixels, 'transcode'>
  readonly jobs: BackgroundJobs
}

/** The parameters of a job that rewrites instances: what was selected, and the body that said how. */
export const rewriteParameters = object({
  resources: list(object({ level: oneOf('patient', 'study', 'series', 'instance'), orthancId: text({ max: 64 }) })),
  upTo: integer({ min: 0 }),
  instanceCount: integer({ min: 0 }),
  level: oneOf('patient', 'study', 'series', 'instance'),
  /** The result names this one resource; without it all that was made. */
  resultLevel: optional(oneOf('patient', 'study', 'series', 'instance')),
  seed: text({ min: 32, max: 128 }),
  body: (raw, path, problems) => {
    if (isObject(raw)) return raw
    problems.add(path, 'expected an object')
    return undefined
  },
})

const jobType = 'ResourceModification'

/** Opens modifications, and defines their jobs. */
export function openModifications(parts: ModifyParts): Modifications {
  const { db, blobs, jobs } = parts

  jobs.define(jobType, ({ principal, permissive, parameters }) => async (progress, signal) => {
    const { level, resultLevel, seed, body, ...selection } = readParameters(rewriteParameters, parameters)
    const request = readModifyRequest(body)
    assertLevel(request, level)
    return await runRewrite(
      parts,
      {
        selection,
        rewrite: rewriter(parts, request, { level, seed }),
        principal,
        permissive,
        keepSource: request.keepSource,
        madeBy: 'modification',
        keepsIssuer: keepsIssuer(request),
        resultLevel,
      },
      progress,
      signal,
    )
  })

  const submit = async (
    principal: Principal,
    job: { resources: readonly Resource[]; body: unknown; level: Level; resultLevel?: Level },
    wishes: RewriteWishes,
  ): Promise<string> => {
    const selection = await selectInstances(db, job.resources)
    return await jobs.submit(principal, {
      type: jobType,
      description: 'REST API',
      ...wishes,
      content: { FailedInstancesCount: 0, InstancesCount: selection.instanceCount, IsAnonymization: false },
      parameters: { ...selection, ...job, seed: randomBytes(32).toString('hex') },
      audit: await accessEvents(db, principal, selection, 'modification'),
    })
  }

  return {
    async instance(principal, orthancId, body, signal) {
      const request = readModifyRequest(body)
      const level = bulkLevel(body, request)
      assertLevel(request, level)
      const resources = await findResources(db, [orthancId], 'instance')
      const selection = await selectInstances(db, resources)
      const source = await firstInstance(parts, principal, selection, 'modification')
      const rewrite = rewriter(parts, request, { level, seed: randomBytes(32).toString('hex') })
      const rewritten = await rewrite(source, signal)
      try {
        return await blobs.stageFrom(rewritten.chunks, { expectedBytes: source.sizeBytes })
      } finally {
        await rewritten.close()
      }
    },

    async resource(principal, { level, orthancId }, body, wishes) {
      const request = readModifyRequest(body)
      assertLevel(request, level)
      const resources = await findResources(db, [orthancId], level)
      return await submit(principal, { resources, body, level, resultLevel: level }, wishes)
    },

    async bulk(principal, body, wishes) {
      const request = readModifyRequest(body)
      const ids = readIds(body, 'Resources')
      const level = bulkLevel(body, request)
      assertLevel(request, level)
      return await submit(principal, { resources: await findResources(db, ids), body, level }, wishes)
    },
  }
}

/** The parameters of a job. @throws GatewayError BAD_REQUEST when they are not what was stored */
export function readParameters<T>(decoder: Parameters<typeof decode<T>>[0], parameters: unknown): T {
  const decoded = decode(decoder, parameters)
  if (!decoded.ok) throw new GatewayError('BAD_REQUEST', 'the stored parameters of a job cannot be read')
  return decoded.value
}

/** The one instance of a selection; that it is read is on record then. @throws GatewayError NOT_FOUND */
export async function firstInstance(
  { db }: Pick<RunParts, 'db'>,
  principal: Principal,
  selection: Selection,
  reason: string,
): Promise<SourceInstance> {
  const events = await accessEvents(db, principal, selection, reason)
  await db.inTransaction(tx => appendAudits(tx, events))
  for await (const [source] of sourceInstances(db, selection)) if (source) return source
  throw new GatewayError('NOT_FOUND', 'no such instance')
}

const keepsIssuer = ({ modification }: ModifyRequest): boolean =>
  !modification.replace.some(({ path }) => path.tag === 0x00100021 && path.within.length === 0)

/** Writes instances as a request wants them, with the keys that it gives them at a level. */
function rewriter(
  { blobs, pixels }: Pick<ModifyParts, 'blobs' | 'pixels'>,
  request: ModifyRequest,
  { level, seed }: { readonly level: Level; readonly seed: string },
): Rewriter {
  return async (source, signal) => {
    const { modification, transcode } = request
    const replace = [...modification.replace, ...keyChanges(request, source, level, seed)]
    const blob = await blobs.open(source.fileSha256)
    try {
      const { edits, isRecoded } = await planModification(blob, { ...modification, replace })
      const chunks = spliceEdits(blob, edits, isRecoded ? 'recoded' : 'kept')
      if (transcode === undefined || transcode === source.transferSyntaxUid)
        return { chunks, close: () => blob.close() }
      const edited = await blobs.stageFrom(chunks, { expectedBytes: source.sizeBytes })
      await blob.close()
      return await transcoded(pixels, edited, source.transferSyntaxUid, transcode, signal)
    } catch (error) {
      await blob.close().catch(() => undefined)
      throw error
    }
  }
}

async function transcoded(
  pixels: Pick<Pixels, 'transcode'>,
  edited: StagedFile,
  from: string,
  to: string,
  signal: AbortSignal,
): Promise<Rewritten> {
  try {
    const result = await pixels.transcode(edited, from, to, signal)
    return {
      chunks: chunksOf(result.open()),
      close: async () => {
        await result.close()
        await edited.discard()
      },
    }
  } catch (error) {
    await edited.discard()
    throw error
  }
}

const copyBytes = 1_048_576

/** The bytes of a source, a megabyte at a time. */
export async function* chunksOf(source: ByteSource): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < source.sizeBytes; at += copyBytes) {
    yield await source.read(at, Math.min(copyBytes, source.sizeBytes - at))
  }
}

const levels = ['patient', 'study', 'series', 'instance'] as const

/** The keys that an instance gets: those asked for, and new ones from the level on, unless they are kept. */
function keyChanges({ keys, kept }: ModifyRequest, source: SourceInstance, level: Level, seed: string) {
  const old = {
    study: source.studyInstanceUid,
    series: source.seriesInstanceUid,
    instance: source.sopInstanceUid,
  }
  return levels.flatMap(key => {
    const isNew = levels.indexOf(key) >= levels.indexOf(level) && !kept.has(key)
    const value = keys[key] ?? (isNew && key !== 'patient' ? derivedUid(seed, key, old[key]) : undefined)
    return value === undefined ? [] : [{ path: { within: [], tag: keyTags[key] }, value }]
  })
}
