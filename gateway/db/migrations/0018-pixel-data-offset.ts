/** Where the pixel data of an instance begin: Orthanc's clients read a file's attributes by asking for the bytes before. */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  await sql.raw('alter table instances add column pixel_data_offset bigint').execute(db)
}
