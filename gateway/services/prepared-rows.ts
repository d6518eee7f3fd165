/** The rows of prepared transfers: outputs, and what was held instead. */
import { type Kysely, sql } from 'kysely'
import type { Certificate } from '../../policy/deid/certificate.ts'
import type { Held } from '../../policy/deid/hold.ts'
import type { Subject } from '../../policy/deid/project.ts'
import type { Tx } from '../db/db.ts'
import type { Schema } from '../db/schema.ts'

type Executor = Kysely<Schema> | Tx

/** What is sent in the place of an item. */
export interface OutputRow {
  readonly ordinal: number
  readonly sopInstanceUid: string
  readonly studyInstanceUid: string
  readonly transferSyntaxUid: string
  readonly sizeBytes: number
  readonly sha256: Buffer
  readonly facts: unknown
}

/** Outputs of a transfer in its order. */
export async function loadOutputs(db: Executor, transfer: string): Promise<OutputRow[]> {
  return await db
    .selectFrom('transfer_outputs')
    .select([
      'ordinal',
      'sop_instance_uid as sopInstanceUid',
      'study_instance_uid as studyInstanceUid',
      'transfer_syntax_uid as transferSyntaxUid',
      'size_bytes as sizeBytes',
      'sha256',
      'facts',
    ])
    .where('transfer', '=', transfer)
    .orderBy('ordinal')
    .execute()
}

/** Keeps an output whose bytes are durable. The digest of its source stays out of what may be told others. */
export async function insertOutput(
  db: Executor,
  transfer: string,
  ordinal: number,
  transferSyntaxUid: string,
  certificate: Certificate,
): Promise<void> {
  const { sourceSha256: _, ...facts } = certificate
  await sql`
    insert into transfer_outputs (transfer, ordinal, sop_instance_uid, study_instance_uid, transfer_syntax_uid, size_bytes,
           sha256, facts)
    values (${transfer}, ${ordinal}, ${facts.sopInstanceUid}, ${facts.studyInstanceUid}, ${transferSyntaxUid},
            ${facts.outputBytes}, ${Buffer.from(facts.outputSha256, 'hex')}, ${JSON.stringify(facts)}::jsonb)
    on conflict (transfer, ordinal) do nothing`.execute(db)
}

/** Forgets outputs: they are made again, or not at all. */
export async function deleteOutputs(tx: Executor, transfer: string): Promise<void> {
  await tx.deleteFrom('transfer_outputs').where('transfer', '=', transfer).execute()
}

/** One instance that stops its transfer. */
export interface HeldItem {
  readonly sopInstanceUid: string
  readonly fileSha256: Buffer
  readonly sizeBytes: number
  readonly held: Held
}

/** Keeps why a transfer is held, instance by instance; what an earlier attempt found does not count any more. */
export async function insertHeld(tx: Tx, transfer: string, items: readonly HeldItem[]): Promise<void> {
  await tx.deleteFrom('quarantine').where('transfer', '=', transfer).where('state', '=', 'held').execute()
  for (const { sopInstanceUid, fileSha256, sizeBytes, held } of items) {
    await tx
      .insertInto('quarantine')
      .values({
        transfer,
        sop_instance_uid: sopInstanceUid,
        file_sha256: fileSha256,
        size_bytes: sizeBytes,
        reason_code: held.code,
        reason: held.reason,
        evidence: JSON.stringify(held.evidence),
        is_alert: held.isAlert,
      })
      .execute()
  }
}

/** Whose study it is, as the store has filed it; undefined when the study is gone or its patient has no ID. */
export async function loadSubject(db: Executor, study: number): Promise<Subject | undefined> {
  const row = await db
    .selectFrom('studies')
    .innerJoin('patients', 'patients.id', 'studies.patient')
    .select(['issuer', 'patient_id'])
    .where('studies.id', '=', study)
    .executeTakeFirst()
  return row === undefined || row.patient_id === '' ? undefined : { issuer: row.issuer, id: row.patient_id }
}

/** Of these transfers, the ones whose outputs may still be wanted. */
export async function findWanted(db: Executor, transfers: readonly string[]): Promise<ReadonlySet<string>> {
  const { rows } = await sql<{ id: string }>`
    select id::text from transfers where id::text = any(${[...transfers]}::text[])
       and (state in ('planned', 'prepared', 'signed', 'sent', 'held')
            -- what an endpoint does not commit to is sent again
            or (state = 'delivered'
                and exists (select from commitments c where c.transfer = transfers.id
                             and c.state in ('asking', 'waiting', 'failed', 'unanswered'))))`.execute(db)
  return new Set(rows.map(row => row.id))
}
