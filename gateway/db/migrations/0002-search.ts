/** Indexes for queries by name, id, date and accession number, and the patient's name as each study has it. */
import { type Kysely, sql } from 'kysely'

const statements = [
  `alter table studies add column name_folded text not null default ''`,
  'update studies set name_folded = patients.name_folded from patients where patients.id = studies.patient',
  // `text_pattern_ops` serves `like 'abc%'` and `=` whatever the collation.
  'create index patients_by_id on patients (patient_id text_pattern_ops)',
  'create index patients_by_name on patients (name_folded text_pattern_ops)',
  `create index patients_with_groups on patients (id) where name_folded like '%=%'`,
  'create index studies_by_name on studies (name_folded text_pattern_ops)',
  `create index studies_with_groups on studies (id) where name_folded like '%=%'`,
  'create index studies_by_date on studies (study_date text_pattern_ops)',
  'create index studies_odd_date on studies (id) where length(study_date) <> 8',
  'create index studies_by_accession on studies (accession_number text_pattern_ops)',
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}
