/** Puts what another Orthanc says of a resource at the same resource here. */
import { createHash } from 'node:crypto'
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import type { Db } from '../db/db.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import { recordChanges } from '../store/changes.ts'
import { findResource } from '../store/hierarchy.ts'
import { addLabel, labelPattern } from '../store/labels.ts'
import { lockMetadatum, setMetadatum, systemMetadata, userMetadata } from '../store/metadata.ts'
import type { Said } from './orthanc-said.ts'
import type { ResourceAttachments } from './resource-attachments.ts'
import { auditResource } from './resource-audit.ts'
import type { ResourceName } from './resource-metadata.ts'

/** Orthanc's own metadata that no other store can know: when and from whom an instance came, and what it was made of. */
const takenOver: ReadonlySet<number> = new Set([
  systemMetadata.ReceptionDate,
  systemMetadata.RemoteAET,
  systemMetadata.ModifiedFrom,
  systemMetadata.AnonymizedFrom,
])

/** What of it is taken over: users' metadata and attachments, labels, and what speaks of the resource's origin. */
export function worthTaking({ metadata, labels, attachments, isProtected }: Said): Said {
  const isOfUsers = (name: number): boolean => name >= userMetadata.first && name <= userMetadata.last
  return {
    metadata: metadata.filter(({ name, value }) => isOfUsers(name) || (takenOver.has(name) && value !== '')),
    labels,
    attachments: attachments.filter(({ name }) => isOfUsers(name)),
    isProtected,
  }
}

/** Nothing is said. */
export function isEmpty({ metadata, labels, attachments, isProtected }: Said): boolean {
  return metadata.length + labels.length + attachments.length === 0 && !isProtected
}

/** The same for the same sayings. */
export function digestOf({ metadata, labels, attachments, isProtected }: Said): Buffer {
  const files = attachments.map(({ name, md5 }) => [name, md5 ?? ''])
  const values = metadata.map(({ name, value }) => [name, value])
  return createHash('sha256')
    .update(JSON.stringify([values, labels, files, isProtected]))
    .digest()
}

/**
 * Sets it all; what is the same already stays as it is. Attachments are durable, and compared with their MD5, before
 * anything names them.
 *
 * @throws GatewayError NOT_FOUND when the resource is not here, STORAGE_CORRUPT, TOO_LARGE, STORAGE_FULL, BAD_REQUEST
 */
export async function annotate(
  { db, attachments }: { readonly db: Db; readonly attachments: ResourceAttachments },
  principal: Principal,
  resource: ResourceName,
  said: Said,
  signal: AbortSignal,
): Promise<void> {
  authorize(principal, 'study.annotate')
  if (!said.labels.every(label => labelPattern.test(label)))
    throw new GatewayError('BAD_REQUEST', 'a label is not of 1 to 64 letters, digits, underscores and hyphens')
  for (const { name, md5, open } of said.attachments) {
    const here = await attachments.get(resource, name).catch(notFound)
    if (here && md5 !== undefined && here.contentMd5 === md5) continue
    const seen = here && { revision: here.revision, md5: here.contentMd5 ?? '' }
    await attachments.put(principal, resource, name, { bytes: await open(signal), seen })
  }
  await db.inTransaction(async tx => {
    const row = await findResource(tx, resource.level, resource.orthancId)
    if (!row) throw new GatewayError('NOT_FOUND', `no such ${resource.level}`)
    let changes = 0
    for (const { name, value } of said.metadata) {
      const before = await lockMetadatum(tx, row, name)
      if (before?.value === value) continue
      await setMetadatum(tx, row, name, value)
      changes += 1
    }
    if (changes > 0) await recordChanges(tx, [{ kind: 'UpdatedMetadata', ...resource }])
    for (const label of said.labels) if (await addLabel(tx, row, label)) changes += 1
    if (said.isProtected) {
      await sql`update patients set is_protected = true where id = ${row.id}`.execute(tx)
      changes += 1
    }
    if (changes > 0) await auditResource(tx, principal, row, { action: 'U', reason: 'imported', detail: { changes } })
  })
}

function notFound(error: unknown): undefined {
  if (!isGatewayError(error) || error.code !== 'NOT_FOUND') throw error
  return undefined
}
