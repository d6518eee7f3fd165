/**
 * Orthanc's anonymization by the engine of policy/deid: the options of a body become a profile for the Basic Profile, and
 * what the body replaces and removes is done to the engine's verified output.
 */
import { randomUUID } from 'node:crypto'
import { open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { authorize } from '../../policy/authorize.ts'
import { addIdentifiers, type Identifiers, noIdentifiers } from '../../policy/deid/identifiers.ts'
import { edition } from '../../policy/deid/profile.data.ts'
import { decodeProfile, type Profile } from '../../policy/deid/profile.ts'
import { isObject } from '../decode.ts'
import { type ByteSource, fileSource } from '../dicom/byte-source.ts'
import { planModification } from '../dicom/modification.ts'
import { findLayout } from '../dicom/part10-layout.ts'
import type { Edit } from '../dicom/part10-splice.ts'
import { spliceEdits } from '../dicom/part10-splice.ts'
import { formatTag } from '../dicom/tag.ts'
import type { TagPath } from '../dicom/tag-path.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { Blobs, StagedFile } from '../store/blobs.ts'
import { closing } from '../store/closing.ts'
import type { Deidentify, Session } from './deidentify.ts'
import { isKeptApart, keptElements } from './kept-elements.ts'
import { firstInstance, lossyUid, type ModifyParts, transcoded } from './modify.ts'
import { newSeed, type RewriteWishes } from './modify-jobs.ts'
import { keyTags, type ModifyRequest, readFlag, readIds, readModifyRequest, readText } from './modify-request.ts'
import { allResults, type Rewriter, singleResult } from './modify-run.ts'
import { findResources, type Resource, type Selection, selectInstances, sourceInstances } from './modify-sources.ts'
import { inParallel } from './parallel.ts'

/** Anonymizes instances as Orthanc's API asks for it. */
export interface Anonymizations {
  /**
   * One instance, anonymized; nothing is stored. The caller discards the file.
   *
   * @throws GatewayError NOT_FOUND, BAD_REQUEST, DEIDENTIFICATION_HELD when the engine holds it
   */
  instance(principal: Principal, orthancId: string, body: unknown, signal: AbortSignal): Promise<StagedFile>
  /** Plans the anonymization of one resource. @returns the job's id; @throws GatewayError NOT_FOUND, BAD_REQUEST */
  resource(principal: Principal, resource: Resource, body: unknown, wishes: RewriteWishes): Promise<string>
  /** Plans the anonymization of `Resources`. @returns the job's id; @throws GatewayError NOT_FOUND, BAD_REQUEST */
  bulk(principal: Principal, body: unknown, wishes: RewriteWishes): Promise<string>
}

/** What anonymizing takes. */
export interface AnonymizeParts extends ModifyParts {
  readonly blobs: Pick<Blobs, 'open' | 'stageFrom' | 'path'>
  readonly deidentify: Pick<Deidentify, 'inspect' | 'run' | 'threads'>
  /** A directory that is emptied at the start. */
  readonly spoolDir: string
}

const deidentificationMethod = 0x00120063
/** Begins with the interface: clients of Orthanc look for its name there. */
const methodOfApi = `Orthanc API\\DICOM PS3.15 ${edition} Annex E\\Profile rest-api`

/** As Orthanc takes them; the tables are those of the engine, whichever is named. */
const dicomVersions = ['2008', '2017c', '2021b', '2023b', '2026d']

/** Opens anonymizations, and defines their jobs. */
export function openAnonymizations(parts: AnonymizeParts): Anonymizations {
  const { db, blobs, rewrites } = parts

  rewrites.define('anonymization', async ({ resultLevel, seed, body, ...selection }, signal) => {
    const request = readAnonymization(body)
    return {
      rewrite: await rewriter(parts, request, { selection, seed, signal }),
      keepSource: request.keepSource,
      issuerOf: () => undefined,
      fields: made => ({
        IsAnonymization: true,
        ...(request.transcode !== undefined && { Transcode: request.transcode }),
        ...(resultLevel ? singleResult(made, resultLevel) : allResults(made)),
      }),
    }
  })

  return {
    async instance(principal, orthancId, body, signal) {
      authorize(principal, 'study.deidentify')
      const request = readAnonymization(body)
      const selection = await selectInstances(db, await findResources(db, [orthancId], 'instance'))
      const source = await firstInstance(parts, principal, selection, 'anonymization')
      const rewrite = await rewriter(parts, request, { selection, seed: newSeed(), signal })
      const rewritten = await rewrite(source, signal)
      try {
        return await blobs.stageFrom(rewritten.chunks, { expectedBytes: source.sizeBytes })
      } finally {
        await rewritten.close()
      }
    },

    async resource(principal, { level, orthancId }, body, wishes) {
      authorize(principal, 'study.deidentify')
      readAnonymization(body)
      const resources = await findResources(db, [orthancId], level)
      const request = { kind: 'anonymization', resources, body, level, resultLevel: level } as const
      return await rewrites.submit(principal, request, wishes)
    },

    async bulk(principal, body, wishes) {
      authorize(principal, 'study.deidentify')
      readAnonymization(body)
      const resources = await findResources(db, readIds(body, 'Resources'))
      return await rewrites.submit(principal, { kind: 'anonymization', resources, body, level: 'patient' }, wishes)
    },
  }
}

interface Anonymization extends ModifyRequest {
  readonly profile: Profile
  /** Kept of the source beside what the profile keeps. */
  readonly keptApart: readonly TagPath[]
}

/** @throws GatewayError BAD_REQUEST */
function readAnonymization(body: unknown): Anonymization {
  const request = readModifyRequest(body)
  if (!isObject(body)) throw new GatewayError('BAD_REQUEST', 'expected a JSON object')
  const version = readText(body, 'DicomVersion')
  if (version !== undefined && !dicomVersions.includes(version))
    throw new GatewayError('BAD_REQUEST', 'DicomVersion: expected a version of the standard that is known')
  const { kept, keep } = request
  if (kept.has('patient')) throw new GatewayError('BAD_REQUEST', 'Keep: the PatientID is required to be changed')
  const isEveryUidKept = kept.has('study') && kept.has('series') && kept.has('instance')
  if (kept.has('instance') && !isEveryUidKept)
    throw new GatewayError('BAD_REQUEST', 'Keep: SOPInstanceUID can only be kept with those of study and series')
  const options = [
    ...(isEveryUidKept ? ['retainUIDs'] : []),
    ...(readFlag(body, 'KeepPrivateTags') ? ['retainSafePrivate'] : []),
  ]
  const keptApart = keep.filter(isKeptApart)
  const attributes = keep.filter(path => !isKeptApart(path) && path.tag !== keyTags.instance).map(({ tag }) => tag)
  try {
    const profile = decodeProfile({
      format: 'hanse-deid-1',
      name: 'rest-api',
      basis: 'expert-determination',
      options,
      overrides: (isEveryUidKept ? [] : [...new Set(attributes)]).map(tag => ({
        attribute: formatTag(tag),
        action: 'keep',
        justification: 'asked for by the request',
      })),
    })
    return { ...request, profile, keptApart }
  } catch (error) {
    if (isGatewayError(error, 'POLICY_INVALID')) throw new GatewayError('BAD_REQUEST', `Keep: ${error.message}`)
    throw error
  }
}

/**
 * Writes instances anonymized. The identifiers of all instances are read first, so that the text of each is searched for
 * those of its whole study.
 */
async function rewriter(
  { db, blobs, pixels, deidentify, spoolDir }: AnonymizeParts,
  request: Anonymization,
  job: { readonly selection: Selection; readonly seed: string; readonly signal: AbortSignal },
): Promise<Rewriter> {
  const key = Buffer.from(job.seed, 'hex')
  const sessionOf = (study: string, identifiers?: Identifiers): Session => ({
    id: `${job.seed} ${study}${identifiers ? '' : ' unread'}`,
    profile: request.profile,
    key,
    ...(identifiers && { identifiers }),
  })
  const byStudy = new Map<string, Identifiers>()
  for await (const page of sourceInstances(db, job.selection)) {
    await inParallel(page, deidentify.threads, async ({ fileSha256, studyInstanceUid }) => {
      job.signal.throwIfAborted()
      const found = await deidentify.inspect(sessionOf(studyInstanceUid), blobs.path(fileSha256))
      if (!found) return
      const known = byStudy.get(studyInstanceUid) ?? noIdentifiers()
      addIdentifiers(known, found.identifiers)
      byStudy.set(studyInstanceUid, known)
    })
  }

  return async (source, signal) => {
    const targetPath = join(spoolDir, `anonymized-${randomUUID()}`)
    const remove = (): Promise<void> => rm(targetPath, { force: true })
    const { patientId, issuer, studyInstanceUid, fileSha256, orthancId } = source
    const outcome = await deidentify.run(
      sessionOf(studyInstanceUid, byStudy.get(studyInstanceUid) ?? noIdentifiers()),
      {
        sourcePath: blobs.path(fileSha256),
        expectedSha256: fileSha256.toString('hex'),
        targetPath,
        isDurable: false,
        subject: { id: patientId, issuer },
      },
    )
    if (outcome.kind !== 'done')
      throw new GatewayError('DEIDENTIFICATION_HELD', `${orthancId} cannot be anonymized: ${outcome.reason}`)
    const file = await open(targetPath, 'r')
    const close = async (): Promise<void> => {
      await file.close()
      await remove()
    }
    try {
      const made = fileSource(file, (await file.stat()).size)
      const kept = await keptOf(blobs, fileSha256, made, request.keptApart)
      const { edits, isRecoded } = await planModification(made, wantedOf(request), kept)
      const chunks = spliceEdits(made, edits, isRecoded ? 'recoded' : 'kept')
      const { transferSyntaxUid: from } = await findLayout(made)
      const { transcode: to, lossyQuality: quality, keys } = request
      if (to === undefined || to === from) return { chunks, close }
      const edited = await blobs.stageFrom(chunks, { expectedBytes: made.sizeBytes })
      await close()
      // What it comes of is not named: nobody is to find the way back.
      const derived =
        request.kept.has('instance') && !keys.instance ? lossyUid(source, source.sopInstanceUid, job.seed) : {}
      return await transcoded(pixels, edited, { from, to, quality, isStrict: false, ...derived }, signal)
    } catch (error) {
      await close()
      throw error
    }
  }
}

async function keptOf(
  blobs: Pick<Blobs, 'open'>,
  fileSha256: Buffer,
  made: ByteSource,
  paths: readonly TagPath[],
): Promise<readonly Edit[]> {
  if (paths.length === 0) return []
  const original = await blobs.open(fileSha256)
  await using _original = closing(original)
  return await keptElements(original, made, paths)
}

/** What is replaced and removed of the engine's output. */
function wantedOf({ modification, keys }: Anonymization) {
  const levels = ['patient', 'study', 'series', 'instance'] as const
  const method = { path: { within: [], tag: deidentificationMethod }, value: methodOfApi }
  const replaced = levels.flatMap(level => {
    const value = keys[level]
    return value === undefined ? [] : [{ path: { within: [], tag: keyTags[level] }, value }]
  })
  return { ...modification, replace: [method, ...modification.replace, ...replaced] }
}
