/** The receipts of transfers in the database: ours as issued, theirs as received; exact envelopes. */
import { type Kysely, sql } from 'kysely'
import type { Signer } from '../../peers/envelope.ts'
import { type Receipt, type SignedReceipt, signReceipt } from '../../peers/receipt.ts'
import type { Tx } from '../db/db.ts'
import type { Schema } from '../db/schema.ts'

export type Direction = 'issued' | 'received'

/** Envelopes of a transfer's receipts, oldest first. */
export async function loadReceipts(
  db: Kysely<Schema> | Tx,
  transfer: string,
  direction: Direction,
): Promise<Uint8Array[]> {
  const rows = await db
    .selectFrom('receipts')
    .select('envelope')
    .where('transfer', '=', transfer)
    .where('direction', '=', direction)
    .orderBy('id')
    .execute()
  return rows.map(row => new Uint8Array(row.envelope))
}

/**
 * Signs the next receipt of a chain and stores it. One of each kind: a transfer that is held a second
 * time keeps its first receipt of that. The caller holds the transfer's row lock.
 */
export async function issueReceipt(
  tx: Tx,
  transfer: string,
  receipt: Omit<Receipt, 'previous'>,
  signer: Signer,
): Promise<void> {
  const last = await tx
    .selectFrom('receipts')
    .select('sha256')
    .where('transfer', '=', transfer)
    .where('direction', '=', 'issued')
    .orderBy('id', 'desc')
    .limit(1)
    .executeTakeFirst()
  const signed = signReceipt({ ...receipt, ...(last && { previous: last.sha256.toString('hex') }) }, signer)
  await storeReceipt(tx, transfer, 'issued', signed)
}

/** Stores a verified receipt; false when it is there already. */
export async function storeReceipt(
  tx: Tx,
  transfer: string,
  direction: Direction,
  signed: SignedReceipt,
): Promise<boolean> {
  const { rows } = await sql`
    insert into receipts (transfer, direction, kind, envelope, sha256)
    values (${transfer}, ${direction}, ${signed.receipt.kind}, ${Buffer.from(signed.envelope)}, ${Buffer.from(signed.sha256, 'hex')})
    on conflict (transfer, direction, kind) do nothing returning 1`.execute(tx)
  return rows.length > 0
}
