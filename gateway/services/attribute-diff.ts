/**
 * What a de-identification profile makes of an instance, attribute by attribute: the engine's own run, its output kept in
 * memory and compared with the source. Replacements are made with a key of that run, so that nothing seen here can be
 * joined with what leaves.
 */
import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { authorize } from '../../policy/authorize.ts'
import { Deidentifier, memorySpool, type PixelCodec } from '../../policy/deid/engine.ts'
import { addIdentifiers, type Identifiers, noIdentifiers } from '../../policy/deid/identifiers.ts'
import { projectKeyBytes } from '../../policy/deid/project.ts'
import { asIs, profileOfDocument } from '../../policy/document.ts'
import { instancesAccessed } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { type ByteSource, bufferSource } from '../dicom/byte-source.ts'
import { type DicomJson, type JsonElement, toJson } from '../dicom/json.ts'
import { readPart10 } from '../dicom/part10-reader.ts'
import { keywordOf, parseTag } from '../dicom/tag.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { Blobs } from '../store/blobs.ts'
import type { Policies, PolicyName } from './policies.ts'

/** One attribute that is not what it was. */
export interface AttributeChange {
  /** Tags from the top, items by number: `00081140[0].00081155`. */
  readonly path: string
  readonly keyword: string | undefined
  readonly vr: string
  readonly kind: 'removed' | 'emptied' | 'replaced' | 'added'
  /** DICOM JSON of the value, at most 1000 characters; undefined where there is none. */
  readonly before: string | undefined
  readonly after: string | undefined
}

export interface AttributeDiff {
  readonly sopInstanceUid: string | undefined
  /** `held`: nothing of it would leave. */
  readonly outcome: 'go' | 'held'
  /** Why it would be held. */
  readonly reason: string | undefined
  readonly changes: readonly AttributeChange[]
  /** There are more than are told. */
  readonly isCut: boolean
}

export interface AttributeDiffs {
  /** Of an instance of a stored study: the named one, or its first. @throws GatewayError NOT_FOUND, DICOM_LIMIT */
  ofStudy(
    principal: Principal,
    study: number,
    under: { readonly policy: PolicyName; readonly profile: string; readonly sopInstanceUid?: string },
  ): Promise<AttributeDiff>
  /** The same for who prepares an upload of a trial, under the active policy. */
  ofTrialStudy(
    principal: Principal,
    study: number,
    under: { readonly profile: string; readonly sopInstanceUid: string },
  ): Promise<AttributeDiff>
  /** Of a file. @throws GatewayError NOT_FOUND, DICOM_UNREADABLE */
  ofFile(
    principal: Principal,
    bytes: Uint8Array,
    under: { readonly policy: PolicyName; readonly profile: string },
  ): Promise<AttributeDiff>
}

/** What somebody does who looks. */
type LookAction = 'policy.dry-run' | 'trial.upload'

/** Larger instances are not held in memory for a look. */
export const maxDiffBytes = 64 * 1024 * 1024
const mostChanges = 5_000
const maxShown = 1_000
/** Instances of the study that are read for identifiers, so that its text is searched as it would be in earnest. */
const mostNeighbours = 20

/** Opens the service. */
export function openAttributeDiffs(options: {
  db: Db
  blobs: Pick<Blobs, 'path'>
  policies: Pick<Policies, 'documentOf'>
  codec?: PixelCodec
}): AttributeDiffs {
  const { db, blobs, policies, codec } = options

  const engineFor = async (
    principal: Principal,
    { policy, profile }: { policy: PolicyName; profile: string },
    action: LookAction,
  ): Promise<Deidentifier> => {
    authorize(principal, action)
    const document = await policies.documentOf(principal, policy)
    if (profile === asIs) throw new GatewayError('BAD_REQUEST', `${asIs} changes nothing`)
    const known = profileOfDocument(document, profile)
    if (!known) throw new GatewayError('NOT_FOUND', 'the policy has no profile of this name')
    return new Deidentifier(known, randomBytes(projectKeyBytes), () => 'PSEUDONYM')
  }

  const diff = async (engine: Deidentifier, bytes: Uint8Array, known: Identifiers): Promise<AttributeDiff> => {
    const source = bufferSource(bytes)
    const before = flatten(await readJson(source))
    const sopInstanceUid = before.find(({ path }) => path === '00080018')?.text
    const outcome = await engine.run(source, memorySpool, { knownOfStudy: () => known, ...(codec && { codec }) })
    const uid = sopInstanceUid && /"([0-9.]+)"/.exec(sopInstanceUid)?.[1]
    if (outcome.kind === 'held')
      return { sopInstanceUid: uid, outcome: 'held', reason: outcome.reason, changes: [], isCut: false }
    const changes = compare(before, flatten(await readJson(outcome.output)))
    const isCut = changes.length > mostChanges
    return { sopInstanceUid: uid, outcome: 'go', reason: undefined, changes: changes.slice(0, mostChanges), isCut }
  }

  const ofStudy = async (
    principal: Principal,
    study: number,
    { sopInstanceUid, ...under }: { policy: PolicyName; profile: string; sopInstanceUid?: string },
    action: LookAction,
  ): Promise<AttributeDiff> => {
    const engine = await engineFor(principal, under, action)
    const rows = await db.kysely
      .selectFrom('instances')
      .innerJoin('series', 'series.id', 'instances.series')
      .innerJoin('studies', 'studies.id', 'series.study')
      .select(['sop_instance_uid', 'file_sha256', 'instances.size_bytes', 'study_instance_uid', 'domain'])
      .where('series.study', '=', study)
      .orderBy('series.series_instance_uid')
      .orderBy('sop_instance_uid')
      .execute()
    const chosen = rows.find(row => sopInstanceUid === undefined || row.sop_instance_uid === sopInstanceUid)
    if (!chosen) throw new GatewayError('NOT_FOUND', 'no such instance in the study')
    authorize(principal, 'study.read', chosen.domain)
    if (chosen.size_bytes > maxDiffBytes)
      throw new GatewayError('DICOM_LIMIT', `expected an instance of at most ${maxDiffBytes} bytes`)
    await db.inTransaction(tx =>
      appendAudit(
        tx,
        instancesAccessed({
          action: 'R',
          reason: action === 'policy.dry-run' ? 'policy-dry-run' : 'trial-preview',
          participants: [{ userId: principal.id, requestor: true }],
          objects: [{ kind: 'study', studyInstanceUid: chosen.study_instance_uid, instanceCount: 1 }],
        }),
      ),
    )
    const known = noIdentifiers()
    const neighbours = rows.filter(row => row.size_bytes <= maxDiffBytes).slice(0, mostNeighbours)
    for (const { file_sha256 } of [chosen, ...neighbours]) {
      const found = await engine.identifiersOf(bufferSource(await readFile(blobs.path(file_sha256))))
      if (found) addIdentifiers(known, found.identifiers)
    }
    return await diff(engine, await readFile(blobs.path(chosen.file_sha256)), known)
  }

  return {
    ofStudy: (principal, study, under) => ofStudy(principal, study, under, 'policy.dry-run'),
    ofTrialStudy: (principal, study, under) =>
      ofStudy(principal, study, { policy: 'active', ...under }, 'trial.upload'),
    async ofFile(principal, bytes, under) {
      return await diff(await engineFor(principal, under, 'policy.dry-run'), bytes, noIdentifiers())
    },
  }
}

const readJson = async (source: ByteSource): Promise<DicomJson> =>
  toJson((await readPart10(source)).dataset, {
    decimals: 'text',
    bulkDataUri: ({ length }) => `${length} bytes`,
  })

interface Flat {
  readonly path: string
  readonly keyword: string | undefined
  readonly vr: string
  /** Undefined for an empty value. */
  readonly text: string | undefined
}

/** Every element that has no items, by its path. */
function flatten(json: DicomJson, prefix = ''): Flat[] {
  return Object.entries(json).flatMap(([name, element]) => {
    const path = `${prefix}${name}`
    if (element.vr === 'SQ')
      return (element.Value ?? []).flatMap((item, index) => (isItem(item) ? flatten(item, `${path}[${index}].`) : []))
    const tag = parseTag(name)
    return [{ path, keyword: tag === undefined ? undefined : keywordOf(tag), vr: element.vr, text: textOf(element) }]
  })
}

const isItem = (value: NonNullable<JsonElement['Value']>[number]): value is DicomJson =>
  typeof value === 'object' &&
  value !== null &&
  !('Alphabetic' in value || 'Ideographic' in value || 'Phonetic' in value)

function textOf({ Value, InlineBinary, BulkDataURI }: JsonElement): string | undefined {
  if (BulkDataURI !== undefined) return BulkDataURI
  const text = InlineBinary ?? (Value === undefined || Value.length === 0 ? undefined : JSON.stringify(Value))
  return text === '' ? undefined : text
}

function compare(before: readonly Flat[], after: readonly Flat[]): AttributeChange[] {
  const now = new Map(after.map(entry => [entry.path, entry]))
  const known = new Set(before.map(({ path }) => path))
  const shown = (text: string | undefined): string | undefined => text?.slice(0, maxShown)
  const changes = before.flatMap(({ path, keyword, vr, text }): AttributeChange[] => {
    const then = now.get(path)
    if (then && then.text === text) return []
    const kind = then === undefined ? 'removed' : then.text === undefined ? 'emptied' : 'replaced'
    return [{ path, keyword, vr, kind, before: shown(text), after: shown(then?.text) }]
  })
  const added = after
    .filter(({ path }) => !known.has(path))
    .map(({ path, keyword, vr, text }) => ({
      path,
      keyword,
      vr,
      kind: 'added' as const,
      before: undefined,
      after: shown(text),
    }))
  return [...changes, ...added].sort((a, b) => (a.path < b.path ? -1 : 1))
}
