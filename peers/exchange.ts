/**
 * The state of a pairing in `invitations.exchange`: what a site must remember between the steps, so
 * that each step can be repeated after a crash with the same bytes. Bytes are base64 in the column.
 */
import type { Tx } from '../gateway/db/db.ts'
import type { Row } from '../gateway/db/schema.ts'
import { type Decoder, decode, describeExpected, object, oneOf, optional, text } from '../gateway/decode.ts'
import { GatewayError } from '../gateway/errors.ts'
import { base64 } from './json.ts'

/** What the inviting site remembers. */
export interface InviterExchange {
  readonly role: 'inviter'
  /** Our name for the peer, when the administrator gave one. */
  readonly name?: string | undefined
  /** The card in the invitation file, and the nonce for an answer by file. */
  readonly card: Uint8Array
  readonly nonce: Uint8Array
  /** The one commitment that was answered, and the answer. */
  readonly commitment?: Uint8Array | undefined
  readonly offer?: Uint8Array | undefined
  /** SHA-256 of the answer file's payload, hex, when it was redeemed by file. */
  readonly answer?: string | undefined
}

/** What the joining site remembers. The invitation's credential is not kept: the administrator has the file. */
export interface JoinerExchange {
  readonly role: 'joiner'
  readonly mode: 'online' | 'file'
  readonly name?: string | undefined
  /** Our card and nonce, fixed before anything is sent. */
  readonly card: Uint8Array
  readonly nonce: Uint8Array
  /** The one offer we answer, and our signed reveal. */
  readonly offer?: Uint8Array | undefined
  readonly reveal?: Uint8Array | undefined
  /** Our signed answer file. */
  readonly answer?: Uint8Array | undefined
}

export type Exchange = InviterExchange | JoinerExchange

/** An invitation's row with its exchange decoded. */
export interface ExchangeRow {
  readonly id: string
  readonly state: Row<'invitations'>['state']
  readonly exchange: Exchange
  readonly peer: string | undefined
  readonly expiresAt: Date
}

const bytes = base64()
const name = optional(text({ max: 200 }))
const shapes = {
  inviter: object({
    role: oneOf('inviter'),
    name,
    card: bytes,
    nonce: bytes,
    commitment: optional(bytes),
    offer: optional(bytes),
    answer: optional(text({ max: 64 })),
  }),
  joiner: object({
    role: oneOf('joiner'),
    mode: oneOf('online', 'file'),
    name,
    card: bytes,
    nonce: bytes,
    offer: optional(bytes),
    reveal: optional(bytes),
    answer: optional(bytes),
  }),
}
const exchange: Decoder<Exchange> = (raw, path, problems) => {
  const role = object({ role: oneOf('inviter', 'joiner') }, { unknown: 'keep' })(raw, path, problems)?.role
  return role && shapes[role](raw, path, problems)
}

/** The column's text; absent fields are left out. */
export function encodeExchange(value: Exchange): string {
  const fields = Object.entries(value).map(([key, field]: [string, unknown]) =>
    // Not a JSON.stringify replacer: that sees what Buffer's own toJSON made.
    field instanceof Uint8Array ? [key, Buffer.from(field).toString('base64')] : [key, field],
  )
  return JSON.stringify(Object.fromEntries(fields))
}

/** Loads an invitation and locks it for the rest of the transaction. */
export async function lockExchange(tx: Tx, id: string): Promise<ExchangeRow | undefined> {
  const row = await tx.selectFrom('invitations').selectAll().where('id', '=', id).forUpdate().executeTakeFirst()
  if (row === undefined) return undefined
  const result = decode(exchange, row.exchange)
  if (!result.ok)
    throw new GatewayError('PAIRING_INVALID', `invitation ${id} is damaged: ${describeExpected(result.problems)}`)
  return {
    id: row.id,
    state: row.state,
    exchange: result.value,
    peer: row.peer ?? undefined,
    expiresAt: row.expires_at,
  }
}

/** Stores the next state of a locked exchange. */
export async function saveExchange(
  tx: Tx,
  id: string,
  next: { state: ExchangeRow['state']; exchange: Exchange; peer?: string },
): Promise<void> {
  await tx
    .updateTable('invitations')
    .set({
      state: next.state,
      exchange: encodeExchange(next.exchange),
      ...(next.peer === undefined ? {} : { peer: next.peer }),
    })
    .where('id', '=', id)
    .execute()
}
