/** Unlinks the bytes of what was deleted, after a grace period, if no row names them by then. */
import { sql } from 'kysely'
import type { Db } from '../db/db.ts'
import type { Blobs } from './blobs.ts'
import { referenceCheck } from './references.ts'

/** Whoever reads a deleted instance has so long to open its file. */
const defaultGraceMs = 10 * 60_000
const batchSize = 1000

/**
 * One round; how many blobs went. A blob that was written or named again meanwhile stays: `blobs.sweep` looks at what
 * ingest holds in the same step in which it unlinks.
 */
export async function sweepRemoved(
  db: Db,
  blobs: Pick<Blobs, 'sweep'>,
  options: { readonly graceMs?: number; readonly signal?: AbortSignal } = {},
): Promise<number> {
  const { graceMs = defaultGraceMs, signal } = options
  let removed = 0
  for (;;) {
    signal?.throwIfAborted()
    const { rows } = await sql<{ sha256: Buffer }>`
      select file_sha256 as sha256 from removed_blobs
       where removed_at <= now() - ${graceMs} * interval '1 millisecond' order by removed_at limit ${batchSize}
    `.execute(db.kysely)
    if (rows.length === 0) return removed
    const only = rows.map(row => row.sha256)
    const report = await blobs.sweep(referenceCheck(db), { only, graceMs, ...(signal && { signal }) })
    removed += report.removed
    // What stays is named again, or came again a moment ago: then the sweep of orphans sees to it.
    await sql`delete from removed_blobs where file_sha256 = any(${only}::bytea[])
      and removed_at <= now() - ${graceMs} * interval '1 millisecond'`.execute(db.kysely)
  }
}
