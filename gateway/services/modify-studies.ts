/**
 * Studies merged and split: instances get another study, with new series and SOP Instance UIDs. What the patient and study
 * modules say comes from the study that they go to.
 */
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import type { Db } from '../db/db.ts'
import { isObject } from '../decode.ts'
import { findElement, stringsOf } from '../dicom/dataset.ts'
import type { Modification } from '../dicom/modification.ts'
import { readPart10 } from '../dicom/part10-reader.ts'
import { formatTag, type Tag } from '../dicom/tag.ts'
import type { TagPath } from '../dicom/tag-path.ts'
import { vrFacts } from '../dicom/vr.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { Blobs } from '../store/blobs.ts'
import { issuerOfSource, type ModifyParts, rewriter } from './modify.ts'
import type { RewriteWishes } from './modify-jobs.ts'
import { keyTags, readFlag, readIds, readPaths, readTagValues } from './modify-request.ts'
import {
  findKnownResources,
  findResources,
  type Resource,
  type SourceInstance,
  selectInstances,
  sourceInstances,
} from './modify-sources.ts'
import { derivedUid } from './modify-uids.ts'

/** Merges and splits studies as Orthanc's API asks for it. */
export interface StudyChanges {
  /** Plans to move `Resources` into a study. @returns the job's id; @throws GatewayError NOT_FOUND, BAD_REQUEST */
  merge(principal: Principal, study: string, body: unknown, wishes: RewriteWishes): Promise<string>
  /** Plans to move `Series` and `Instances` of a study into a new one. @returns the job's id; @throws as `merge` */
  split(principal: Principal, study: string, body: unknown, wishes: RewriteWishes): Promise<string>
}

/**
 * Of the modules Patient (PS3.3 §C.7.1.1) and General Study (§C.7.2.1), those that Orthanc 1.10.1 moves with a study;
 * without the Study Instance UID.
 */
const moduleTags: ReadonlySet<Tag> = new Set([
  ...[0x00080020, 0x00080030, 0x00080050, 0x00080051, 0x00080090, 0x00080096, 0x00081030, 0x00081032, 0x00081048],
  ...[0x00081049, 0x00081060, 0x00081062, 0x00081110, 0x00081120, 0x00100010, 0x00100020, 0x00100021, 0x00100024],
  ...[0x00100030, 0x00100032, 0x00100040, 0x00101000, 0x00101001, 0x00101002, 0x00102160, 0x00102201, 0x00102202],
  ...[0x00102292, 0x00102293, 0x00102294, 0x00102297, 0x00102298, 0x00102299, 0x00104000, 0x00120062, 0x00120063],
  ...[0x00120064, 0x00200010, 0x00401012],
])

/** Opens them, and defines their jobs. */
export function openStudyChanges(parts: ModifyParts): StudyChanges {
  const { db, rewrites } = parts

  rewrites.define('merge', async ({ study = '', seed, body }) => {
    const target = await firstOf(study)
    const request = {
      modification: moved(await modulesOf(parts, target, moduleTags)),
      keys: keysOf(target),
      kept: new Set<never>(),
    }
    return {
      rewrite: rewriter(parts, { ...request, transcode: undefined }, { level: 'series', seed }),
      keepSource: readKeepSource(body),
      issuerOf: () => target.issuer || undefined,
      fields: () => ({ TargetStudy: study }),
    }
  })

  rewrites.define('split', ({ study = '', seed, body }) => {
    const request = { modification: readSplit(body), keys: {}, kept: new Set<never>(), transcode: undefined }
    return {
      rewrite: rewriter(parts, request, { level: 'study', seed }),
      keepSource: readKeepSource(body),
      issuerOf: issuerOfSource,
      fields: ({ last }) => ({ TargetStudy: last?.study ?? '', TargetStudyUID: derivedUid(seed, 'study', study) }),
    }
  })

  const firstOf = (study: string): Promise<SourceInstance> => firstBelow(parts, { level: 'study', orthancId: study })

  return {
    async merge(principal, study, body, wishes) {
      authorize(principal, 'study.modify')
      const ids = readIds(body, 'Resources')
      readKeepSource(body)
      await findResources(db, [study], 'study')
      const resources = await findResources(db, ids)
      if (resources.some(({ level }) => level === 'patient'))
        throw new GatewayError('BAD_REQUEST', 'Resources: expected studies, series and instances')
      for (const [id, parent] of await studiesOf(parts, resources)) {
        if (parent === study) throw new GatewayError('NOT_FOUND', `${id} is in the study that it would be merged into`)
      }
      return await rewrites.submit(principal, { kind: 'merge', resources, level: 'series', study, body }, wishes)
    },

    async split(principal, study, body, wishes) {
      authorize(principal, 'study.modify')
      const series = readPart(body, 'Series')
      const instances = readPart(body, 'Instances')
      if (series.length + instances.length === 0)
        throw new GatewayError('BAD_REQUEST', 'expected series in Series, or instances in Instances')
      await findResources(db, [study], 'study')
      const resources = [
        ...(await findResources(db, series, 'series')),
        ...(await findResources(db, instances, 'instance')),
      ]
      for (const [id, parent] of await studiesOf(parts, resources)) {
        if (parent !== study) throw new GatewayError('NOT_FOUND', `${id} is not in the study that is to be split`)
      }
      readSplit(body)
      readKeepSource(body)
      const { studyInstanceUid } = await firstOf(study)
      const request = { kind: 'split', resources, level: 'study', study: studyInstanceUid, body } as const
      return await rewrites.submit(principal, request, wishes)
    },
  }
}

/** The first instance below a resource. @throws GatewayError NOT_FOUND */
async function firstBelow({ db }: Pick<ModifyParts, 'db'>, { level, orthancId }: Resource): Promise<SourceInstance> {
  const selection = await selectInstances(db, await findResources(db, [orthancId], level))
  for await (const [first] of sourceInstances(db, selection)) if (first) return first
  throw new GatewayError('NOT_FOUND', `the ${level} has no instances`)
}

/** What an instance says in these tags; sequences are left out, as in Orthanc. */
async function modulesOf(
  { blobs }: Pick<CreationSource, 'blobs'>,
  { fileSha256 }: SourceInstance,
  tags: ReadonlySet<Tag>,
): Promise<Modification['replace']> {
  const blob = await blobs.open(fileSha256)
  try {
    const { dataset } = await readPart10(blob, { stopBefore: 0x00401013 })
    return [...tags].flatMap(tag => {
      const element = findElement(dataset, tag)
      const isText = element && vrFacts(element.vr).kind !== 'sequence' && !element.items
      return isText ? [{ path: top(tag), value: stringsOf(dataset, tag).join('\\') }] : []
    })
  } finally {
    await blob.close()
  }
}

/** What the target says; what it does not say goes. */
const moved = (replace: Modification['replace']): Modification => ({
  remove: [...moduleTags].map(top),
  replace,
  removePrivateTags: false,
})

/** What a new instance takes over from the resources that it is put below. */
export interface Inherited {
  readonly tags: Modification['replace']
  readonly issuer: string
}

interface CreationSource {
  readonly db: Db
  readonly blobs: Pick<Blobs, 'open'>
}

/** The tags of a patient, a study or a series and of what is above it; undefined where there is none of this id. */
export async function inheritFrom(parts: CreationSource, orthancId: string): Promise<Inherited | undefined> {
  const [resource] = await findKnownResources(parts.db, [orthancId])
  if (!resource || resource.level === 'instance') return undefined
  const first = await firstBelow(parts, resource)
  const tags = new Set([...moduleTags].filter(tag => resource.level !== 'patient' || isOfPatient(tag)))
  if (resource.level !== 'patient') tags.add(keyTags.study)
  if (resource.level === 'series') for (const tag of seriesTags) tags.add(tag)
  return { tags: await modulesOf(parts, first, tags), issuer: first.issuer }
}

const isOfPatient = (tag: Tag): boolean => tag >>> 16 === 0x0010 || tag >>> 16 === 0x0012

/** Of the General Series module (PS3.3 §C.7.3.1). */
const seriesTags: readonly Tag[] = [
  ...[0x00080021, 0x00080031, 0x00080060, 0x0008103e, 0x00081050, 0x00081070, 0x00180015, 0x00181030, 0x00185100],
  ...[keyTags.series, 0x00200011, 0x00200060, 0x00280108, 0x00280109, 0x00400244, 0x00400245, 0x00400253, 0x00400254],
]

const top = (tag: Tag): TagPath => ({ within: [], tag })

const keysOf = ({ patientId, studyInstanceUid }: SourceInstance) => ({ patient: patientId, study: studyInstanceUid })

/** Sources go unless they are to be kept: that is what merging and splitting mean. */
function readKeepSource(body: unknown): boolean {
  return (isObject(body) ? readFlag(body, 'KeepSource') : undefined) ?? false
}

function readPart(body: unknown, field: string): string[] {
  return isObject(body) && body[field] !== undefined ? readIds(body, field) : []
}

/** @throws GatewayError BAD_REQUEST for a tag that is not of the patient or the study */
function readSplit(body: unknown): Modification {
  if (!isObject(body)) throw new GatewayError('BAD_REQUEST', 'expected a JSON object')
  const remove = readPaths(body, 'Remove')
  const replace = body['Replace'] === undefined ? [] : readTagValues(body['Replace'], 'Replace')
  for (const { within, tag } of [...remove, ...replace.map(({ path }) => path)]) {
    if (within.length > 0 || !moduleTags.has(tag) || tag === keyTags.study)
      throw new GatewayError('BAD_REQUEST', `${formatTag(tag)} is not of the patient or study modules`)
  }
  return { remove, replace, removePrivateTags: false }
}

/** The study of each resource, by the resource's id. */
async function studiesOf(
  { db }: Pick<ModifyParts, 'db'>,
  resources: readonly Resource[],
): Promise<Map<string, string>> {
  const ids = resources.map(({ orthancId }) => orthancId)
  const { rows } = await sql<{ id: string; study: string }>`
    select s.orthanc_id as id, s.orthanc_id as study from studies s where s.orthanc_id = any(${ids}::text[])
    union all
    select c.orthanc_id, s.orthanc_id from series c join studies s on s.id = c.study
     where c.orthanc_id = any(${ids}::text[])
    union all
    select i.orthanc_id, s.orthanc_id from instances i join series c on c.id = i.series join studies s on s.id = c.study
     where i.orthanc_id = any(${ids}::text[])
  `.execute(db.kysely)
  return new Map(rows.map(({ id, study }) => [id, study]))
}
