/**
 * Whether we can commit to instances: answered from their bytes, read and hashed, never from a row alone.
 *
 * An instance fails when other bytes were received under its SOP Instance UID and nobody has decided
 * about them, and when the requestor's own bytes are not the ones that are stored: it would delete
 * something of which we hold another version.
 */
import { createHash } from 'node:crypto'
import { sql } from 'kysely'
import type { Db } from '../db/db.ts'
import { isGatewayError } from '../errors.ts'
import type { Blobs, OpenBlob } from '../store/blobs.ts'
import { type CommitmentItem, failureReason } from './commitment-rows.ts'

/** What was found of one instance. */
export interface Verified {
  readonly ordinal: number
  /** 0, or a Failure Reason (PS3.3 §C.14.1.1). */
  readonly outcome: number
  /** The stored bytes are missing or not what they were. */
  readonly isDamaged: boolean
}

interface Held {
  readonly sopInstanceUid: string
  readonly sopClassUid: string
  readonly fileSha256: Buffer
  readonly isContested: boolean
}

const readBytes = 1_048_576

/**
 * Verifies a page of items; one that two items name is read once. What the disk cannot read now is a
 * processing failure: the requestor keeps its instances and asks again.
 *
 * @throws GatewayError DATABASE_UNAVAILABLE, the signal's reason
 */
export async function verifyItems(
  parts: { readonly db: Db; readonly blobs: Pick<Blobs, 'open'> },
  items: readonly CommitmentItem[],
  requestor: string,
  signal: AbortSignal,
): Promise<Verified[]> {
  const held = await loadHeld(
    parts.db,
    items.map(item => item.sopInstanceUid),
    requestor,
  )
  const states = new Map<string, BlobState>()
  const verified: Verified[] = []
  for (const { ordinal, sopClassUid, sopInstanceUid } of items) {
    signal.throwIfAborted()
    const found = held.get(sopInstanceUid)
    const fail = (outcome: number, isDamaged = false): void => void verified.push({ ordinal, outcome, isDamaged })
    if (!found) fail(failureReason.noSuchInstance)
    else if (found.sopClassUid !== sopClassUid) fail(failureReason.classInstanceConflict)
    else if (found.isContested) fail(failureReason.processingFailure)
    else {
      const state = states.get(sopInstanceUid) ?? (await readBlob(parts.blobs, found.fileSha256, signal))
      states.set(sopInstanceUid, state)
      if (state === 'intact') verified.push({ ordinal, outcome: 0, isDamaged: false })
      else fail(failureReason.processingFailure, state === 'damaged')
    }
  }
  return verified
}

async function loadHeld(db: Db, uids: readonly string[], requestor: string): Promise<Map<string, Held>> {
  const { rows } = await sql<Held>`
    select i.sop_instance_uid as "sopInstanceUid", i.sop_class_uid as "sopClassUid", i.file_sha256 as "fileSha256",
           exists (select from conflicts c where c.sop_instance_uid = i.sop_instance_uid
                      and (c.state = 'held'
                           or (c.origin ->> 'callingAe' = ${requestor}
                               and i.origin ->> 'callingAe' is distinct from ${requestor}))) as "isContested"
      from instances i where i.sop_instance_uid = any(${uids}::text[])`.execute(db.kysely)
  return new Map(rows.map(row => [row.sopInstanceUid, row]))
}

type BlobState = 'intact' | 'damaged' | 'unreadable'

/** Reads a blob to its end; `damaged` when it is missing or has another digest. */
async function readBlob(blobs: Pick<Blobs, 'open'>, sha256: Buffer, signal: AbortSignal): Promise<BlobState> {
  try {
    const blob = await blobs.open(sha256)
    try {
      return (await digestOf(blob, signal)).equals(sha256) ? 'intact' : 'damaged'
    } finally {
      await blob.close()
    }
  } catch (error) {
    if (isGatewayError(error, 'STORAGE_CORRUPT')) return 'damaged'
    if (isGatewayError(error, 'STORAGE_IO')) return 'unreadable'
    throw error
  }
}

async function digestOf(blob: OpenBlob, signal: AbortSignal): Promise<Buffer> {
  const hash = createHash('sha256')
  const buffer = Buffer.allocUnsafe(Math.max(1, Math.min(readBytes, blob.sizeBytes)))
  for (let offset = 0; offset < blob.sizeBytes; offset += buffer.length) {
    signal.throwIfAborted()
    hash.update(await blob.read(offset, buffer.length, buffer))
  }
  return hash.digest()
}
