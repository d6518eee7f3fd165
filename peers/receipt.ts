/**
 * Receipts: what the receiver signs about a transfer, one after the other. Each names the manifest and
 * the receipt before it, and carries the receiver's audit checkpoint, so that neither side can later
 * tell another story (`PROTOCOL.md` §Receipts).
 */
import {
  type Decoder,
  decode,
  describeExpected,
  integer,
  list,
  object,
  oneOf,
  optional,
  text,
} from '../gateway/decode.ts'
import { type ErrorCode, errorTable, GatewayError } from '../gateway/errors.ts'
import { encodePayload, openEnvelope, type Signer, type SigningKey, sha256Hex, signEnvelope } from './envelope.ts'
import { definedFields, instant, sha256, siteId, uid } from './fields.ts'

/** DSSE payload type of a receipt. */
export const receiptType = 'application/vnd.hanse.receipt.v1+json'
const maxReceiptBytes = 4 * 1024 * 1024
/** Most objects that a receipt names one by one; `counts.refused` is exact beyond that. */
export const maxListedRefusals = 1_000

/**
 * What has happened: offer accepted; all bytes durable and verified; visible to the receiver's users;
 * kept for a person; refused, cancelled, expired for good; and what may follow an import. The kind
 * `range-refused` answers one range and is no link of the chain.
 */
export const receiptKinds = [
  'accepted',
  'custody',
  'imported',
  'held',
  'refused',
  'cancelled',
  'expired',
  'archived',
  'opened',
  'deleted',
  'range-refused',
] as const
export type ReceiptKind = (typeof receiptKinds)[number]

/** Why one object of the manifest was refused. */
export interface ObjectRefusal {
  /** Place of the object in the manifest. */
  readonly object: number
  readonly sopInstanceUid: string
  readonly code: string
}

export interface ReceiptCounts {
  readonly objects: number
  /** New at the receiver. */
  readonly stored: number
  /** Already there, with the same content. */
  readonly duplicates: number
  /** Already there in another encoding; both are kept. */
  readonly variants: number
  readonly refused: number
}

export interface Receipt {
  readonly kind: ReceiptKind
  /** Id of the manifest. */
  readonly manifest: string
  /** Site that signs, and site that sent. */
  readonly from: string
  readonly to: string
  /** SHA-256 of the envelope of the receipt before, hex; absent on the first. */
  readonly previous?: string
  readonly time: Date
  readonly counts?: ReceiptCounts
  readonly refusals?: readonly ObjectRefusal[]
  /** Why, for held and the refusing kinds: a code of the error table (a newer peer may know more). */
  readonly code?: string
  /** The refused range, `{from}-{to}`. */
  readonly range?: string
  /** The receiver's audit log at that moment: a signed note (C2SP tlog-checkpoint). */
  readonly checkpoint: string
}

/** A receipt whose signature verified, with the bytes that are kept. */
export interface SignedReceipt {
  readonly receipt: Receipt
  readonly envelope: Uint8Array
  /** SHA-256 of the envelope, hex: what the next receipt names. */
  readonly sha256: string
}

/** Signs a receipt. */
export function signReceipt(receipt: Receipt, signer: Signer): SignedReceipt {
  const { refusals } = receipt
  const payload = {
    version: 1,
    kind: receipt.kind,
    manifest: receipt.manifest,
    from: receipt.from,
    to: receipt.to,
    previous: receipt.previous,
    time: receipt.time.toISOString(),
    counts: receipt.counts,
    refusals: refusals?.slice(0, maxListedRefusals),
    code: receipt.code,
    range: receipt.range,
    checkpoint: receipt.checkpoint,
  }
  const envelope = signEnvelope(receiptType, encodePayload(payload), signer)
  return { receipt, envelope, sha256: sha256Hex(envelope) }
}

/** What a receipt must say to be about our transfer. */
export interface ReceiptExpectation {
  readonly manifest: string
  /** The receiver: whose signature counts, and who we are. */
  readonly from: string
  readonly to: string
  readonly keys: readonly SigningKey[]
}

/**
 * Verifies one receipt: signature, parties, manifest; its place in a chain is `verifyChain`'s.
 *
 * @throws GatewayError RECEIPT_INVALID
 */
export function openReceipt(envelope: Uint8Array, expected: ReceiptExpectation): SignedReceipt {
  const { value } = openEnvelope(envelope, {
    context: receiptType,
    maxBytes: maxReceiptBytes,
    maxDepth: 8,
    keys: expected.keys,
    malformed: 'RECEIPT_INVALID',
    untrusted: 'RECEIPT_INVALID',
  })
  const decoded = decode(receiptDecoder, value)
  if (!decoded.ok) throw invalid(describeExpected(decoded.problems.slice(0, 10)))
  const receipt = decoded.value
  if (receipt.manifest !== expected.manifest) throw invalid('expected a receipt for the manifest that was sent')
  if (receipt.from !== expected.from || receipt.to !== expected.to) {
    throw invalid('expected a receipt by the receiver for this site')
  }
  return { receipt, envelope, sha256: sha256Hex(envelope) }
}

/** What may follow what; `start` is the state before the first receipt. */
const followers: Record<ReceiptKind | 'start', readonly ReceiptKind[]> = {
  start: ['accepted', 'refused'],
  accepted: ['custody', 'held', 'refused', 'cancelled', 'expired'],
  custody: ['imported', 'held', 'refused', 'cancelled', 'expired'],
  held: ['custody', 'imported', 'held', 'refused', 'cancelled', 'expired'],
  imported: ['archived', 'opened', 'deleted'],
  archived: ['opened', 'deleted'],
  opened: ['archived', 'deleted'],
  refused: [],
  cancelled: [],
  expired: [],
  deleted: [],
  'range-refused': [],
}

/**
 * Verifies that receipts, oldest first, form one chain from its beginning.
 *
 * @throws GatewayError RECEIPT_INVALID naming the place of the first one that does not fit
 */
export function verifyChain(envelopes: readonly Uint8Array[], expected: ReceiptExpectation): SignedReceipt[] {
  const chain: SignedReceipt[] = []
  for (const [place, envelope] of envelopes.entries()) {
    const next = openReceipt(envelope, expected)
    const last = chain.at(-1)
    if (next.receipt.previous !== last?.sha256) throw invalid(`receipt ${place} does not name the one before it`)
    const before = last?.receipt.kind ?? 'start'
    if (!followers[before].includes(next.receipt.kind)) {
      throw invalid(`receipt ${place} is ${next.receipt.kind} after ${before}`)
    }
    chain.push(next)
  }
  return chain
}

/** The code of a refusal as one of ours; what a newer peer made up becomes OFFER_REFUSED. */
export function knownCode(code: string | undefined): ErrorCode {
  return isErrorCode(code) ? code : 'OFFER_REFUSED'
}

const isErrorCode = (code: string | undefined): code is ErrorCode =>
  code !== undefined && Object.hasOwn(errorTable, code)

const code = text({ min: 1, max: 64, pattern: /^[A-Z][A-Z0-9_]*$/, expected: 'an error code' })
const count = integer({ min: 0, max: 10_000_000 })
const receiptFields = object(
  {
    kind: oneOf(...receiptKinds),
    manifest: sha256,
    from: siteId,
    to: siteId,
    previous: optional(sha256),
    time: instant,
    counts: optional(
      object(
        { objects: count, stored: count, duplicates: count, variants: count, refused: count },
        { unknown: 'keep' },
      ),
    ),
    refusals: optional(
      list(object({ object: count, sopInstanceUid: uid, code }, { unknown: 'keep' }), { max: maxListedRefusals }),
    ),
    code: optional(code),
    range: optional(text({ max: 24, pattern: /^\d+-\d+$/, expected: '{from}-{to}' })),
    checkpoint: text({ min: 1, max: 8_192 }),
  },
  { unknown: 'keep' },
)
const receiptDecoder: Decoder<Receipt> = (raw, path, problems) => {
  const fields = receiptFields(raw, path, problems)
  return fields && definedFields(fields)
}

const invalid = (message: string): GatewayError => new GatewayError('RECEIPT_INVALID', message)
