/** Checkpoints: the Merkle log's head, signed by the site (C2SP tlog-checkpoint). */
import { sql } from 'kysely'
import type { Db } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import { sequenceAll } from './leaves.ts'
import { MerkleTree } from './merkle.ts'
import { checkpointText, type NoteSigner } from './note.ts'

/** A stored checkpoint. */
export interface Checkpoint {
  /** Leaves covered. */
  readonly size: number
  /** 32 bytes. */
  readonly root: Buffer
  /** The signed note, as receipts carry it. */
  readonly note: string
  readonly createdAt: Date
}

/**
 * Appends every event committed before the call to the log and signs its head; the stored one when the
 * log has not grown since. Call it after the commit of what a receipt is about, and before its
 * signature: so the receipt vouches for the record of the deed.
 *
 * @throws GatewayError DATABASE_UNAVAILABLE, or what the signer throws
 */
export async function checkpoint(options: { db: Db; signer: NoteSigner }): Promise<Checkpoint> {
  const { db, signer } = options
  await sequenceAll(db)
  const { rows } = await sql<{ size: number; frontier: Buffer[] }>`
    select size, frontier from audit_tree
  `.execute(db.kysely)
  const tree = rows[0]
  if (!tree) throw new GatewayError('AUDIT_BROKEN', 'the audit tree has no row')
  const stored = await loadCheckpoint(db, tree.size)
  if (stored) return stored

  const root = new MerkleTree(tree.size, tree.frontier).root()
  const text = checkpointText({ origin: signer.origin, size: tree.size, root })
  const note = `${text}\n${await signer.sign(text)}`
  // Of two that sign the same head at once one is kept; both notes are true.
  await sql`
    insert into audit_checkpoints (size, root, note) values (${tree.size}, ${root}, ${note}) on conflict do nothing
  `.execute(db.kysely)
  const kept = await loadCheckpoint(db, tree.size)
  if (!kept)
    throw new GatewayError('AUDIT_BROKEN', 'a stored checkpoint is not there', { context: { size: tree.size } })
  return kept
}

/** The newest stored checkpoint, or that of a given size. */
export async function loadCheckpoint(db: Db, size?: number): Promise<Checkpoint | undefined> {
  const { rows } = await sql<Checkpoint>`
    select size, root, note, created_at as "createdAt" from audit_checkpoints
     where ${size === undefined ? sql`true` : sql`size = ${size}`} order by size desc limit 1
  `.execute(db.kysely)
  return rows[0]
}
