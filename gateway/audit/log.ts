/**
 * Appends audit events, in the transaction of the fact they record: both commit or neither does.
 *
 * An event is stored with a commitment `sha256(salt || payload)`, and only the commitment enters the
 * Merkle log (`sequencer.ts`, after commit). So a record can be erased, salt and payload, and the log
 * still verifies; the random salt keeps an erased payload from being guessed back from its digest.
 */
import { createHash, randomBytes } from 'node:crypto'
import { type RawBuilder, sql } from 'kysely'
import type { Tx } from '../db/db.ts'
import type { AuditEvent } from './event.ts'

/** A row of `audit_events` but for its id. */
export interface SealedEvent {
  readonly at: Date
  /** 16 random bytes. */
  readonly salt: Buffer
  /** Compact JSON of the event; the exact text is what the commitment covers. */
  readonly payload: string
  /** 32 bytes. */
  readonly commitment: Buffer
}

/** Appends one event in the caller's transaction. */
export async function appendAudit(tx: Tx, event: AuditEvent): Promise<void> {
  await appendAudits(tx, [event])
}

/** Appends events with one statement, in their order, in the caller's transaction. */
export async function appendAudits(tx: Tx, events: readonly AuditEvent[]): Promise<void> {
  if (events.length > 0) await auditInsertion(events).execute(tx)
}

/** The statement that appends events in their order, for callers that make it part of a larger one. */
export function auditInsertion(events: readonly AuditEvent[]): RawBuilder<unknown> {
  const rows = events.map(event => sealEvent(event))
  return sql`
    insert into audit_events (at, salt, payload, commitment)
    select at, salt, payload, commitment
      from unnest(${rows.map(row => row.at)}::timestamptz[], ${rows.map(row => row.salt)}::bytea[],
                  ${rows.map(row => row.payload)}::text[], ${rows.map(row => row.commitment)}::bytea[])
           with ordinality as event (at, salt, payload, commitment, place)
     order by place
  `
}

/** The row of an event, for callers that insert it inside a larger statement (group-committed ingest). */
export function sealEvent(event: AuditEvent): SealedEvent {
  const at = event.at ?? new Date()
  const salt = randomBytes(16)
  const payload = encodeEvent(event, at)
  return { at, salt, payload, commitment: commitmentOf(salt, payload) }
}

/** What an event commits to: SHA-256 over salt, then payload in UTF-8. */
export function commitmentOf(salt: Uint8Array, payload: string): Buffer {
  return createHash('sha256').update(salt).update(payload, 'utf8').digest()
}

/** Longest value kept in a payload, in UTF-16 units: hostile values must not bloat the log. */
const maxValueLength = 1024

/** The event as compact JSON with fixed key order; NUL and lone surrogates come out escaped. */
function encodeEvent(event: AuditEvent, at: Date): string {
  const { event: id, type, action, outcome, reason, participants, objects, detail } = event
  return JSON.stringify(
    { event: id, type, action, outcome, at: at.toISOString(), reason, participants, objects, detail },
    (_key, value: unknown) =>
      typeof value === 'string' && value.length > maxValueLength ? value.slice(0, maxValueLength) : value,
  )
}
