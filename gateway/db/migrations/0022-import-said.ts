/** An import also takes what is said of resources: metadata, labels, attachments. */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  // Null for a file; else the digest of what was said of the resource when it was taken.
  await sql.raw('alter table orthanc_import_items add column said_sha256 bytea').execute(db)
}
