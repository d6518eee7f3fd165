/**
 * Which blobs the database needs, defined once for the sweeper and for fsck: the bytes of
 * instances, of conflicts that were not discarded, of what waits in quarantine, of transfers
 * that are not over, of attachments, and of recipients' acknowledgements.
 */
import { type RawBuilder, sql } from 'kysely'
import type { Db } from '../db/db.ts'
import type { ReferenceCheck } from './blobs.ts'

/** A digest that rows name. */
export interface Reference {
  readonly sha256: Buffer
  /** The least and the greatest size that rows give it, bytes; null where no row knows. */
  readonly leastBytes: number | null
  readonly mostBytes: number | null
  /** SOP Instance UID of one of the rows; null when none has one. */
  readonly sopInstanceUid: string | null
  /** The kinds of rows: instance, conflict, quarantine, transfer, attachment, acknowledgement. */
  readonly sources: readonly string[]
}

interface Source {
  readonly name: string
  readonly from: RawBuilder<unknown>
  readonly uid: RawBuilder<unknown>
}

const sources: readonly Source[] = [
  { name: 'instance', from: sql`instances r where true`, uid: sql`r.sop_instance_uid` },
  { name: 'conflict', from: sql`conflicts r where r.state <> 'discarded'`, uid: sql`r.sop_instance_uid` },
  { name: 'quarantine', from: sql`quarantine r where r.state = 'held'`, uid: sql`null::text` },
  {
    name: 'transfer',
    from: sql`transfer_items r join transfers t on t.id = r.transfer
      where t.state in ('planned', 'prepared', 'signed', 'sent', 'held')`,
    uid: sql`r.sop_instance_uid`,
  },
  { name: 'attachment', from: sql`resource_attachments r where true`, uid: sql`null::text` },
  { name: 'acknowledgement', from: sql`transfer_acknowledgements r where true`, uid: sql`null::text` },
]

/** Asks the database which digests rows name. */
export function referenceCheck(db: Db): ReferenceCheck {
  return async digests => {
    const list = sql`any(${digests}::bytea[])`
    const parts = sources.map(
      source => sql`select encode(r.file_sha256, 'hex') as hex from ${source.from} and r.file_sha256 = ${list}`,
    )
    const { rows } = await sql<{ hex: string }>`${sql.join(parts, sql` union `)}`.execute(db.kysely)
    return new Set(rows.map(row => row.hex))
  }
}

/** Every digest that rows name, in ascending order, a page at a time. */
export async function* listReferences(db: Db, pageSize = 1_000): AsyncIterable<Reference> {
  let after: Buffer = Buffer.alloc(0)
  for (;;) {
    const page = await loadPage(db, after, pageSize)
    yield* page
    const last = page.at(-1)
    if (!last || page.length < pageSize) return
    after = last.sha256
  }
}

/** Each source gives its first `pageSize` digests, so the first `pageSize` of all are complete. */
async function loadPage(db: Db, after: Buffer, pageSize: number): Promise<readonly Reference[]> {
  const parts = sources.map(
    source => sql`(
      select r.file_sha256, min(r.size_bytes) as least, max(r.size_bytes) as most,
        min(${source.uid}) as uid, ${sql.lit(source.name)} as source
      from ${source.from} and r.file_sha256 > ${after}
      group by r.file_sha256 order by r.file_sha256 limit ${sql.lit(pageSize)})`,
  )
  const { rows } = await sql<Reference>`
    select file_sha256 as sha256, min(least) as "leastBytes", max(most) as "mostBytes",
      min(uid) as "sopInstanceUid", array_agg(source order by source) as sources
    from (${sql.join(parts, sql` union all `)}) refs
    group by file_sha256 order by file_sha256 limit ${sql.lit(pageSize)}`.execute(db.kysely)
  return rows
}
