/** Metadata, labels and protection of resources, as people and scripts set them: audited, and told in the feed. */

import { createHash } from 'node:crypto'
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import type { Db, Tx } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import { recordChanges } from '../store/changes.ts'
import { findResource, type ResourceRow } from '../store/hierarchy.ts'
import { addLabel, labelPattern, loadAllLabels, loadLabels, removeLabel } from '../store/labels.ts'
import {
  deleteMetadatum,
  loadMetadata,
  lockMetadatum,
  type Metadatum,
  setMetadatum,
  userMetadata,
} from '../store/metadata.ts'
import type { Level } from '../store/query.ts'
import { auditResource } from './resource-audit.ts'

/** A resource by its level and Orthanc id. */
export interface ResourceName {
  readonly level: Level
  readonly orthancId: string
}

/** What a writer has seen: an entry with this revision and content. */
export interface SeenRevision {
  readonly revision: number
  readonly md5: string
}

/** What is said of resources. */
export interface ResourceMetadata {
  /** @throws GatewayError NOT_FOUND */
  list(resource: ResourceName): Promise<readonly Metadatum[]>
  /**
   * Sets an entry of the users' numbers; answers it.
   *
   * @param seen  what the writer has seen, to change only that
   * @throws GatewayError NOT_FOUND; FORBIDDEN for the store's own; STATE_CONFLICT when it is another by now
   */
  set(
    principal: Principal,
    resource: ResourceName,
    name: number,
    value: string,
    seen?: SeenRevision,
  ): Promise<Metadatum>
  /** @throws GatewayError NOT_FOUND, FORBIDDEN, STATE_CONFLICT */
  remove(principal: Principal, resource: ResourceName, name: number, seen?: SeenRevision): Promise<void>
  /** @throws GatewayError NOT_FOUND */
  labels(resource: ResourceName): Promise<readonly string[]>
  /** Every label that any resource has. */
  allLabels(): Promise<readonly string[]>
  /** @throws GatewayError NOT_FOUND, BAD_REQUEST for what is no label */
  addLabel(principal: Principal, resource: ResourceName, label: string): Promise<void>
  /** @throws GatewayError NOT_FOUND */
  removeLabel(principal: Principal, resource: ResourceName, label: string): Promise<void>
  /** Is a patient marked as protected? @throws GatewayError NOT_FOUND */
  isProtected(patient: string): Promise<boolean>
  /** @throws GatewayError NOT_FOUND */
  protect(principal: Principal, patient: string, isProtected: boolean): Promise<void>
}

/**
 * @param requireSeen  changes of what exists must name what the writer has seen (Orthanc's CheckRevisions)
 */
export function openResourceMetadata(options: { readonly db: Db; readonly requireSeen?: boolean }): ResourceMetadata {
  const { db, requireSeen = false } = options

  const change = async <T>(resource: ResourceName, deed: (tx: Tx, row: ResourceRow) => Promise<T>): Promise<T> =>
    await db.inTransaction(async tx => await deed(tx, await need(tx, resource)))
  const check = (name: number): void => {
    if (name < userMetadata.first || name > userMetadata.last) {
      throw new GatewayError('FORBIDDEN', 'this metadata is not for users to change')
    }
  }
  const told = async (tx: Tx, { level, orthancId }: ResourceName): Promise<void> =>
    await recordChanges(tx, [{ kind: 'UpdatedMetadata', level, orthancId }])

  return {
    async list({ level, orthancId }) {
      const found = (await loadMetadata(db, level, [orthancId])).get(orthancId)
      if (!found) throw missing(level)
      return found
    },

    set: (principal, resource, name, value, seen) =>
      change(resource, async (tx, row) => {
        authorize(principal, 'study.annotate')
        check(name)
        const before = await lockMetadatum(tx, row, name)
        checkSeen(before && { revision: before.revision, md5: md5Of(before.value) }, seen, requireSeen)
        const revision = await setMetadatum(tx, row, name, value)
        await told(tx, row)
        await auditResource(tx, principal, row, { action: 'U', reason: 'metadata', detail: { metadata: name } })
        return { name, value, revision }
      }),

    remove: (principal, resource, name, seen) =>
      change(resource, async (tx, row) => {
        authorize(principal, 'study.annotate')
        check(name)
        const before = await lockMetadatum(tx, row, name)
        if (!before) throw new GatewayError('NOT_FOUND', 'no such metadata')
        checkSeen({ revision: before.revision, md5: md5Of(before.value) }, seen, requireSeen)
        await deleteMetadatum(tx, row, name)
        await told(tx, row)
        await auditResource(tx, principal, row, { action: 'U', reason: 'metadata-removed', detail: { metadata: name } })
      }),

    async labels({ level, orthancId }) {
      if (!(await findResource(db, level, orthancId))) throw missing(level)
      return (await loadLabels(db, level, [orthancId])).get(orthancId) ?? []
    },

    allLabels: () => loadAllLabels(db),

    addLabel: (principal, resource, label) =>
      change(resource, async (tx, row) => {
        authorize(principal, 'study.annotate')
        if (!labelPattern.test(label)) {
          throw new GatewayError('BAD_REQUEST', 'expected a label of 1 to 64 letters, digits, underscores and hyphens')
        }
        if (!(await addLabel(tx, row, label))) return
        await auditResource(tx, principal, row, { action: 'U', reason: 'label', detail: { label } })
      }),

    removeLabel: (principal, resource, label) =>
      change(resource, async (tx, row) => {
        authorize(principal, 'study.annotate')
        if (!(await removeLabel(tx, row, label))) return
        await auditResource(tx, principal, row, { action: 'U', reason: 'label-removed', detail: { label } })
      }),

    async isProtected(patient) {
      const { rows } = await sql<{ protected: boolean }>`
        select is_protected as protected from patients where orthanc_id = ${patient}
      `.execute(db.kysely)
      if (!rows[0]) throw missing('patient')
      return rows[0].protected
    },

    protect: (principal, patient, isProtected) =>
      change({ level: 'patient', orthancId: patient }, async (tx, row) => {
        authorize(principal, 'study.annotate')
        await sql`update patients set is_protected = ${isProtected} where id = ${row.id}`.execute(tx)
        await auditResource(tx, principal, row, { action: 'U', reason: isProtected ? 'protected' : 'unprotected' })
      }),
  }
}

/** @throws GatewayError STATE_CONFLICT unless what is there is what the writer has seen */
export function checkSeen(before: SeenRevision | undefined, seen: SeenRevision | undefined, isRequired: boolean): void {
  if (!before || (!seen && !isRequired)) return
  if (!seen)
    throw new GatewayError('STATE_CONFLICT', 'expected an If-Match header with the entity tag of what is changed')
  if (seen.revision !== before.revision || seen.md5 !== before.md5) {
    throw new GatewayError('STATE_CONFLICT', 'it was changed by somebody else meanwhile')
  }
}

/** MD5 of a text in UTF-8, as hex: Orthanc's entity tags hold it. */
export function md5Of(value: string): string {
  return createHash('md5').update(value).digest('hex')
}

async function need(tx: Tx, { level, orthancId }: ResourceName): Promise<ResourceRow> {
  const row = await findResource(tx, level, orthancId)
  if (!row) throw missing(level)
  return row
}

const missing = (level: Level): GatewayError => new GatewayError('NOT_FOUND', `no such ${level}`)
