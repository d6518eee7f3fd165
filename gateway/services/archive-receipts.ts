/**
 * The receipt that tells a sending site that the archive here has committed to what it sent: signed when, and
 * only when, every object of its manifest was committed to.
 */
import { sql } from 'kysely'
import { readStoredOffer } from '../../peers/offer.ts'
import type { Tx } from '../db/db.ts'
import type { InboundParts } from './inbound-context.ts'
import { lockInbound } from './inbound-rows.ts'
import { issueReceipt } from './receipts.ts'
import { addStep } from './transfer-steps.ts'

/** What signing needs. */
export interface ReceiptParts extends Pick<InboundParts, 'keys'> {
  /** The audit log's newest signed checkpoint, made before the transaction. */
  readonly checkpoint: string
  readonly time: Date
}

/** Signs `archived` for each inbound transfer that this transfer to the archive was the last part of; their ids. */
export async function issueArchived(tx: Tx, transfer: string, parts: ReceiptParts): Promise<readonly string[]> {
  const { rows } = await sql<{ id: string; manifest: Buffer; manifestId: string; siteId: string }>`
    select t.id, t.manifest, t.manifest_id as "manifestId", p.site_id as "siteId"
      from inbound_transfers t join peers p on p.id = t.peer
     where t.state = 'imported'
       and t.id::text in (select distinct i.origin ->> 'transferId' from transfer_items x
                            join instances i on i.sop_instance_uid = x.sop_instance_uid
                           where x.transfer = ${transfer} and i.origin ->> 'kind' = 'peer')
       and not exists (select from receipts r where r.transfer = t.id and r.direction = 'issued' and r.kind = 'archived')
     order by t.id`.execute(tx)
  const issued: string[] = []
  for (const { id, manifest, manifestId, siteId } of rows) {
    const { objects } = readStoredOffer(manifest)
    if (
      !(await isArchived(
        tx,
        objects.map(object => object.sopInstanceUid),
      ))
    )
      continue
    await lockInbound(tx, id)
    const statement = { kind: 'archived', manifest: manifestId, from: parts.keys.siteId, to: siteId } as const
    await issueReceipt(tx, id, { ...statement, time: parts.time, checkpoint: parts.checkpoint }, parts.keys)
    await addStep(tx, id, 'archived', { objects: objects.length })
    issued.push(id)
  }
  return issued
}

/** True when an archive has committed to the stored bytes of all of them, and to no others in their place. */
async function isArchived(tx: Tx, sopInstanceUids: readonly string[]): Promise<boolean> {
  const { rows } = await sql<{ missing: boolean }>`
    select exists (
      select from unnest(${sopInstanceUids}::text[]) as object (uid)
       where not exists (select from instances i join transfer_items x
                            on x.sop_instance_uid = i.sop_instance_uid and x.file_sha256 = i.file_sha256
                          where i.sop_instance_uid = object.uid and x.archived_at is not null)
          or exists (select from conflicts c where c.sop_instance_uid = object.uid and c.state = 'held')) as missing
  `.execute(tx)
  return rows[0]?.missing === false
}
