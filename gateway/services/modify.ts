/** Modification of stored instances: one at once, as a file; or all below resources, as a job. */
import { authorize } from '../../policy/authorize.ts'
import { appendAudits } from '../audit/log.ts'
import type { ByteSource } from '../dicom/byte-source.ts'
import { planModification } from '../dicom/modification.ts'
import { spliceEdits } from '../dicom/part10-splice.ts'
import { GatewayError } from '../errors.ts'
import type { Derived } from '../pixels/lossy.ts'
import type { NamedSyntax } from '../pixels/pixels.ts'
import type { Principal } from '../principal.ts'
import type { Blobs, StagedFile } from '../store/blobs.ts'
import type { Level } from '../store/query.ts'
import { newSeed, type RewriteJobs, type RewriteWishes } from './modify-jobs.ts'
import { assertLevel, bulkLevel, keyTags, type ModifyRequest, readIds, readModifyRequest } from './modify-request.ts'
import { allResults, type Rewriter, type Rewritten, type RunParts, singleResult } from './modify-run.ts'
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
import { isLeftAsItIs, type NamedPixels } from './named-syntax.ts'

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
  readonly pixels: NamedPixels
  readonly rewrites: RewriteJobs
}

/** Opens modifications, and defines their jobs. */
export function openModifications(parts: ModifyParts): Modifications {
  const { db, blobs, rewrites } = parts

  rewrites.define('modification', ({ level, resultLevel, seed, body }) => {
    const request = readModifyRequest(body)
    assertLevel(request, level)
    return {
      rewrite: rewriter(parts, request, { level, seed }),
      keepSource: request.keepSource,
      issuerOf: keepsIssuer(request) ? issuerOfSource : () => undefined,
      fields: made => ({
        IsAnonymization: false,
        ...(request.transcode !== undefined && { Transcode: request.transcode }),
        ...(resultLevel ? singleResult(made, resultLevel) : allResults(made)),
      }),
    }
  })

  return {
    async instance(principal, orthancId, body, signal) {
      authorize(principal, 'study.modify')
      const request = readModifyRequest(body)
      const level = bulkLevel(body, request)
      assertLevel(request, level)
      const resources = await findResources(db, [orthancId], 'instance')
      const selection = await selectInstances(db, resources)
      const source = await firstInstance(parts, principal, selection, 'modification')
      const rewrite = rewriter(parts, request, { level, seed: newSeed(), isStrict: true })
      const rewritten = await rewrite(source, signal)
      try {
        return await blobs.stageFrom(rewritten.chunks, { expectedBytes: source.sizeBytes })
      } finally {
        await rewritten.close()
      }
    },

    async resource(principal, { level, orthancId }, body, wishes) {
      authorize(principal, 'study.modify')
      assertLevel(readModifyRequest(body), level)
      const resources = await findResources(db, [orthancId], level)
      const request = { kind: 'modification', resources, body, level, resultLevel: level } as const
      return await rewrites.submit(principal, request, wishes)
    },

    async bulk(principal, body, wishes) {
      authorize(principal, 'study.modify')
      const request = readModifyRequest(body)
      const ids = readIds(body, 'Resources')
      const level = bulkLevel(body, request)
      assertLevel(request, level)
      const resources = await findResources(db, ids)
      return await rewrites.submit(principal, { kind: 'modification', resources, body, level }, wishes)
    },
  }
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

/** Patients stay those of whom they are: two hospitals' 12345 are two people. */
export const issuerOfSource = ({ issuer }: SourceInstance): string | undefined => issuer || undefined

const keepsIssuer = ({ modification }: ModifyRequest): boolean =>
  !modification.replace.some(({ path }) => path.tag === 0x00100021 && path.within.length === 0)

/**
 * Writes instances as a request wants them, with the keys that it gives them at a level. What the transfer syntax has no
 * room for stays in its own, as Orthanc's jobs have it, unless strict.
 */
export function rewriter(
  { blobs, pixels }: Pick<ModifyParts, 'blobs' | 'pixels'>,
  request: Pick<ModifyRequest, 'modification' | 'keys' | 'kept'> &
    Partial<Pick<ModifyRequest, 'transcode' | 'lossyQuality'>>,
  { level, seed, isStrict = false }: { readonly level: Level; readonly seed: string; readonly isStrict?: boolean },
): Rewriter {
  return async (source, signal) => {
    const { modification, transcode, lossyQuality: quality } = request
    const keys = keyChanges(request, source, level, seed)
    const replace = [...modification.replace, ...keys]
    const blob = await blobs.open(source.fileSha256)
    try {
      const { edits, isRecoded } = await planModification(blob, { ...modification, replace })
      const chunks = spliceEdits(blob, edits, isRecoded ? 'recoded' : 'kept')
      if (transcode === undefined || transcode === source.transferSyntaxUid)
        return { chunks, close: () => blob.close() }
      const edited = await blobs.stageFrom(chunks, { expectedBytes: source.sizeBytes })
      await blob.close()
      const uid = keys.find(({ path }) => path.tag === keyTags.instance)?.value ?? source.sopInstanceUid
      const derived = { ...lossyUid(source, uid, seed), predecessor: source.sopInstanceUid }
      const how = { from: source.transferSyntaxUid, to: transcode, quality, isStrict, ...derived }
      return await transcoded(pixels, edited, how, signal)
    } catch (error) {
      await blob.close().catch(() => undefined)
      throw error
    }
  }
}

/** The UID of what is compressed with loss: a new one where the modification has kept that of its source. */
export function lossyUid(source: SourceInstance, uid: string, seed: string): Derived {
  return uid === source.sopInstanceUid ? { sopInstanceUid: derivedUid(seed, 'lossy', uid) } : {}
}

/**
 * A rewritten file in the transfer syntax that was named; takes the file over.
 *
 * @throws GatewayError as `Pixels.recodeAsNamed`
 */
export async function transcoded(
  pixels: NamedPixels,
  edited: ByteSource & Pick<StagedFile, 'discard'>,
  how: Derived & NamedSyntax & { readonly from: string; readonly isStrict: boolean },
  signal: AbortSignal,
): Promise<Rewritten> {
  try {
    const result = await pixels.recodeAsNamed(edited, how, signal)
    return {
      chunks: chunksOf(result.open()),
      close: async () => {
        await result.close()
        await edited.discard()
      },
    }
  } catch (error) {
    if (!how.isStrict && isLeftAsItIs(error)) return { chunks: chunksOf(edited), close: () => edited.discard() }
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
function keyChanges(
  { keys, kept }: Pick<ModifyRequest, 'keys' | 'kept'>,
  source: SourceInstance,
  level: Level,
  seed: string,
) {
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
