/** From a planned transfer to a signed offer: snapshot verified, manifest built, signed and stored, in that order. */
import { createHash } from 'node:crypto'
import { statSync } from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { type Identifying, sealIdentifying } from '../../peers/identifying.ts'
import type { SiteKeys } from '../../peers/keys.ts'
import {
  type CountBasis,
  type Manifest,
  type ManifestAgreement,
  type Priority,
  priorities,
} from '../../peers/manifest.ts'
import { type Offer, readStoredOffer, signOffer } from '../../peers/offer.ts'
import { asIs, canonicalJson } from '../../policy/document.ts'
import { loadPolicy } from '../../policy/versions.ts'
import type { Db } from '../db/db.ts'
import { isObject } from '../decode.ts'
import { GatewayError } from '../errors.ts'
import type { Blobs } from '../store/blobs.ts'
import { certify, type SignedCertificate, storeCertificate } from './certificates.ts'
import {
  loadIdentity,
  loadItems,
  loadOffer,
  lockState,
  type OutboundItem,
  type OutboundRow,
  writeOffer,
} from './outbound-rows.ts'
import { loadOutputs } from './prepared-rows.ts'
import { addStep } from './transfer-steps.ts'

/** What signing needs. */
export interface SigningParts {
  readonly db: Db
  readonly blobs: Pick<Blobs, 'path'>
  readonly keys: Pick<SiteKeys, 'siteId' | 'signingKey' | 'sign'>
}

/** A signed offer with what it says. */
export interface SignedOffer extends Offer {
  readonly manifest: Manifest
}

/**
 * The transfer's signed offer: the stored one, or a new one that is stored before it is returned.
 *
 * @throws GatewayError STORAGE_CORRUPT when a blob of the snapshot is missing, MANIFEST_LIMIT
 */
export async function ensureOffer(
  parts: SigningParts,
  row: OutboundRow,
  to: { siteId: string; sealingKey: Uint8Array },
): Promise<SignedOffer> {
  const { db, keys } = parts
  const stored = await loadOffer(db.kysely, row.id)
  if (stored && row.manifestId !== undefined)
    return { id: row.manifestId, bytes: stored, manifest: readStoredOffer(stored) }

  const { manifest: objects, certificate } =
    row.profile === asIs ? { manifest: await asItIs(parts, row, to) } : await deidentified(parts, row, to)
  const agreement = await agreementOf(db, row)
  const manifest = { ...objects, ...(agreement && { agreement }) }
  const offer = signOffer(manifest, keys)
  await db.inTransaction(async tx => {
    const state = await lockState(tx, row.id)
    if (state !== 'planned' && state !== 'prepared') return
    // As-is there is nothing to make ready: both steps in one transaction.
    if (row.profile === asIs) await addStep(tx, row.id, 'prepared', { objects: manifest.objects.length })
    if (certificate !== undefined) await storeCertificate(tx, row.id, 'issued', certificate)
    await writeOffer(tx, row.id, offer)
    await addStep(tx, row.id, 'signed', { manifest: offer.id })
  })
  // Cancelled, or signed by another run: what is stored counts.
  const bytes = await loadOffer(db.kysely, row.id)
  if (!bytes || !Buffer.from(bytes).equals(offer.bytes)) {
    throw new GatewayError('UNAVAILABLE', 'the transfer changed while it was being signed')
  }
  return { ...offer, manifest }
}

/** The agreement as it stands in the version that decided; names of two words are one word in a manifest. */
async function agreementOf(db: Db, row: OutboundRow): Promise<ManifestAgreement | undefined> {
  const name = row.agreement
  const agreements = name === undefined ? {} : (await loadPolicy(db.kysely, row.policy.version))?.document.agreements
  const agreement = name !== undefined && agreements && Object.hasOwn(agreements, name) ? agreements[name] : undefined
  if (name === undefined || agreement === undefined) return undefined
  const sha256 = createHash('sha256').update(canonicalJson(agreement)).digest('hex')
  return { id: name.replaceAll(' ', '+'), sha256, basis: agreement.basis }
}

async function asItIs(
  parts: SigningParts,
  row: OutboundRow,
  to: { siteId: string; sealingKey: Uint8Array },
): Promise<Manifest> {
  const { db, keys } = parts
  const items = await loadItems(db.kysely, row.id)
  const [identity] = await Promise.all([
    row.study === undefined ? undefined : loadIdentity(db.kysely, row.study),
    verifySnapshot(parts, items),
  ])
  const sealed = identity && sealIdentifying(describe(row, identity), to.sealingKey)
  return { ...buildManifest(row, items, keys.siteId, to.siteId), ...(sealed && { sealed }) }
}

/** Of what the engine has made, and without anything that identifies: there is no sealed section. */
async function deidentified(
  { db, keys }: SigningParts,
  row: OutboundRow,
  to: { siteId: string },
): Promise<{ manifest: Manifest; certificate: SignedCertificate }> {
  const [items, outputs] = await Promise.all([loadItems(db.kysely, row.id), loadOutputs(db.kysely, row.id)])
  if (outputs.length !== row.objectCount || items.length !== outputs.length)
    throw new GatewayError('POLICY_DENIED', `nothing may leave as it is under the profile ${row.profile}`)
  const studies = [...new Set(outputs.map(output => output.studyInstanceUid))]
  const manifest: Manifest = {
    ...buildManifest(row, [], keys.siteId, to.siteId),
    studies: studies.map(studyInstanceUid => ({
      studyInstanceUid,
      instances: outputs.filter(output => output.studyInstanceUid === studyInstanceUid).length,
      basis: basisOf(row),
    })),
    objects: outputs.map((output, ordinal) => ({
      sopInstanceUid: output.sopInstanceUid,
      // Well-known classes only get through the engine, and they stay what they are.
      sopClassUid: items[ordinal]?.sopClassUid ?? '',
      transferSyntaxUid: output.transferSyntaxUid,
      study: studies.indexOf(output.studyInstanceUid),
      sizeBytes: output.sizeBytes,
      sha256: output.sha256.toString('hex'),
    })),
  }
  const certificate = certify(
    manifest,
    outputs.map(output => output.facts),
    keys,
  )
  const text = Buffer.from(certificate.envelope).toString('base64')
  return { manifest: { ...manifest, deidentification: certificate.sha256, certificate: text }, certificate }
}

/** Every blob of the snapshot is there with its size; the receiver verifies each digest. */
async function verifySnapshot({ blobs }: SigningParts, items: readonly OutboundItem[]): Promise<void> {
  for (const [index, item] of items.entries()) {
    // A look takes 5 us, in another thread ten times that; others have their turn in between.
    if (index % looksInARow === looksInARow - 1) await nextTurn()
    const found = statSync(blobs.path(item.fileSha256), { throwIfNoEntry: false })
    if (found?.size !== item.sizeBytes) {
      throw new GatewayError('STORAGE_CORRUPT', `the bytes of an instance are ${found ? 'not whole' : 'missing'}`, {
        context: { sopInstanceUid: item.sopInstanceUid, sha256: item.fileSha256.toString('hex') },
      })
    }
  }
}

const looksInARow = 100

/** The manifest of a transfer: the same row gives the same manifest. */
export function buildManifest(row: OutboundRow, items: readonly OutboundItem[], from: string, to: string): Manifest {
  return {
    from,
    to,
    created: row.manifestCreated,
    expires: row.expiresAt,
    priority: isPriority(row.priority) ? row.priority : 'normal',
    purpose: row.purpose,
    policy: { version: row.policy.version, sha256: row.policy.sha256.toString('hex') },
    rule: row.rule,
    profile: row.profile,
    studies: [
      {
        studyInstanceUid: row.studyInstanceUid,
        instances: items.length,
        basis: basisOf(row),
      },
    ],
    objects: items.map(item => ({
      sopInstanceUid: item.sopInstanceUid,
      sopClassUid: item.sopClassUid,
      transferSyntaxUid: item.transferSyntaxUid,
      study: 0,
      sizeBytes: item.sizeBytes,
      sha256: item.fileSha256.toString('hex'),
    })),
    attachments: [],
    nonce: createHash('sha256').update('manifest nonce\0').update(row.nonce).update(row.id).digest('base64'),
  }
}

function basisOf(row: OutboundRow): CountBasis {
  return row.trigger.startsWith('manual') ? 'person' : 'timer'
}

function isPriority(text: string): text is Priority {
  return priorities.some(priority => priority === text)
}

function describe(row: OutboundRow, identity: NonNullable<Awaited<ReturnType<typeof loadIdentity>>>): Identifying {
  const { patient_id, birth_date, sex, study_date, study_description, accession_number } = identity
  return {
    patient: {
      id: patient_id,
      name: patientName(identity.patient_attributes),
      ...(birth_date !== null && { birthDate: birth_date }),
      ...(sex !== null && { sex }),
    },
    studies: [
      {
        studyInstanceUid: row.studyInstanceUid,
        ...(study_date !== null && { date: study_date }),
        ...(study_description !== null && { description: study_description.slice(0, 1_000) }),
        ...(accession_number !== null && { accessionNumber: accession_number }),
      },
    ],
  }
}

/** Alphabetic group of (0010,0010) in DICOM JSON (PS3.18 F.2.2). */
function patientName(attributes: unknown): string {
  const element = isObject(attributes) ? attributes['00100010'] : undefined
  const values = isObject(element) ? element['Value'] : undefined
  const first: unknown = Array.isArray(values) ? values[0] : undefined
  const name = isObject(first) ? first['Alphabetic'] : undefined
  return typeof name === 'string' ? name.slice(0, 500) : ''
}
