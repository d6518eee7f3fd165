/** The time line of a transfer that people read: one row per step, either direction. */
import type { Kysely } from 'kysely'
import type { Tx } from '../db/db.ts'
import type { Schema } from '../db/schema.ts'

/** Adds a step; `detail` holds ids, codes and counts, never patient data. */
export async function addStep(
  db: Kysely<Schema> | Tx,
  transfer: string,
  step: string,
  detail: Readonly<Record<string, string | number>> = {},
): Promise<void> {
  await db
    .insertInto('transfer_steps')
    .values({ transfer, step, detail: JSON.stringify(detail) })
    .execute()
}
