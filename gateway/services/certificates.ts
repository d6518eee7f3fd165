/** De-identification certificates of transfers: made from what the engine said of each output, kept on both sides. */
import type { Kysely } from 'kysely'
import {
  type DeidCertificate,
  objectsDigest,
  signCertificate,
  type TreatedGroup,
} from '../../peers/deid-certificate.ts'
import type { Signer } from '../../peers/envelope.ts'
import type { Manifest } from '../../peers/manifest.ts'
import type { Db, Tx } from '../db/db.ts'
import type { Schema } from '../db/schema.ts'
import { decode, integer, isObject, list, object, oneOf, record, text } from '../decode.ts'
import { GatewayError } from '../errors.ts'

/** A signed certificate. */
export interface SignedCertificate {
  readonly envelope: Uint8Array
  /** Of the envelope, hex. */
  readonly sha256: string
}

/** A certificate as it is shown. */
export interface CertificateInfo {
  /** `issued` by us, or `received` from the sending site and verified. */
  readonly direction: 'issued' | 'received'
  readonly sha256: string
  readonly createdAt: Date
  /** What was signed, exactly. */
  readonly envelope: string
  /** The same for reading. */
  readonly statement: unknown
}

const facts = object(
  {
    profile: object({ name: text(), sha256: text(), basis: text(), edition: text() }, { unknown: 'keep' }),
    sopClassUid: text(),
    dates: oneOf('removed', 'shifted', 'kept'),
    counts: record(integer({ min: 0 })),
    pixels: object({ outcome: text() }, { unknown: 'keep' }),
    methods: list(text()),
    notDone: list(text()),
  },
  { unknown: 'keep' },
)

/**
 * The certificate of a manifest's objects.
 *
 * @param all  what the engine certified of each output, in the manifest's order
 * @throws GatewayError STORAGE_CORRUPT when that cannot be read, MANIFEST_LIMIT
 */
export function certify(
  manifest: Pick<Manifest, 'from' | 'to' | 'created' | 'objects'>,
  all: readonly unknown[],
  signer: Signer,
): SignedCertificate {
  const counts = new Map<string, number>()
  const groups = new Map<string, TreatedGroup>()
  let common: Pick<DeidCertificate, 'profile' | 'dates' | 'notDone'> | undefined
  for (const raw of all) {
    const decoded = decode(facts, raw)
    if (!decoded.ok) throw new GatewayError('STORAGE_CORRUPT', 'what was certified of an output cannot be read')
    const { profile, dates, notDone, sopClassUid, methods, pixels } = decoded.value
    const { name, sha256, basis, edition } = profile
    common ??= { profile: { name, sha256, basis, edition }, dates, notDone }
    for (const [action, count] of Object.entries(decoded.value.counts))
      counts.set(action, (counts.get(action) ?? 0) + count)
    const key = JSON.stringify([sopClassUid, pixels.outcome, methods])
    const { instances = 0 } = groups.get(key) ?? {}
    groups.set(key, { instances: instances + 1, sopClassUid, pixels: pixels.outcome, methods })
  }
  if (common === undefined) throw new GatewayError('STORAGE_CORRUPT', 'there are no outputs to certify')
  const { from, to, created, objects } = manifest
  return signCertificate(
    {
      from,
      to,
      created,
      ...common,
      counts: Object.fromEntries([...counts].sort(([a], [b]) => (a < b ? -1 : 1))),
      groups: [...groups].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, group]) => group),
      objects: { count: objects.length, sha256: objectsDigest(objects) },
    },
    signer,
  )
}

/** Keeps a transfer's certificate; a new offer of the same transfer has a new one. */
export async function storeCertificate(
  tx: Tx,
  transfer: string,
  direction: 'issued' | 'received',
  certificate: SignedCertificate,
): Promise<void> {
  const values = { envelope: Buffer.from(certificate.envelope), sha256: Buffer.from(certificate.sha256, 'hex') }
  await tx
    .insertInto('deid_certificates')
    .values({ transfer, direction, ...values })
    .onConflict(conflict => conflict.column('transfer').doUpdateSet(values))
    .execute()
}

/** @throws GatewayError NOT_FOUND when the transfer has none */
export async function loadCertificate(db: Kysely<Schema> | Db['kysely'], transfer: string): Promise<CertificateInfo> {
  const row = await db
    .selectFrom('deid_certificates')
    .select(['direction', 'envelope', 'sha256', 'created_at'])
    .where('transfer', '=', transfer)
    .executeTakeFirst()
  if (!row) throw new GatewayError('NOT_FOUND', 'the transfer has no de-identification certificate')
  const envelope = row.envelope.toString('utf8')
  return {
    direction: row.direction,
    sha256: row.sha256.toString('hex'),
    createdAt: row.created_at,
    envelope,
    statement: statementOf(envelope),
  }
}

function statementOf(envelope: string): unknown {
  const parsed: unknown = JSON.parse(envelope)
  const payload = isObject(parsed) ? parsed['payload'] : undefined
  return typeof payload === 'string' ? JSON.parse(Buffer.from(payload, 'base64').toString('utf8')) : null
}
