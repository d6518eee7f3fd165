/** From the outputs of a transfer to what its endpoint is given: objects with what they say of themselves, and packages. */

import { type DeliveryFields, deliveryFolder, type NameRules } from '../../endpoints/pack/names.ts'
import { openObject } from '../../endpoints/pack/object-file.ts'
import { pack } from '../../endpoints/pack/pack.ts'
import type { PackageFile } from '../../endpoints/package.ts'
import type { SiteKeys } from '../../peers/keys.ts'
import type { Db } from '../db/db.ts'
import { readInstanceHeader } from '../dicom/instance-header.ts'
import { GatewayError } from '../errors.ts'
import { certify, type SignedCertificate, storeCertificate } from './certificates.ts'
import type { Endpoint } from './endpoint.ts'
import type { DeliveryNames, EndpointObject } from './endpoint-transfer-rows.ts'
import { loadEndpointOutputs, writeFiles } from './endpoint-transfer-rows.ts'
import { lockState, type OutboundRow, writeState } from './outbound-rows.ts'
import type { Outbox } from './outbox.ts'
import { loadOutputs } from './prepared-rows.ts'
import { addStep } from './transfer-steps.ts'

/** What packing needs. */
export interface PackagingParts {
  readonly db: Db
  readonly keys: Pick<SiteKeys, 'siteId' | 'signingKey' | 'sign'>
  readonly outbox: Pick<Outbox, 'path' | 'workFolder'>
}

/** The recipient of projects and certificates; two trials at one endpoint have nothing in common to join on. */
export const recipientOf = (endpoint: string, { protocol }: DeliveryNames): string =>
  protocol === undefined ? `endpoint:${endpoint}` : `endpoint:${endpoint}/${protocol}`

/** What a delivery holds. */
export interface Prepared {
  readonly objects: readonly EndpointObject[]
  readonly fields: DeliveryFields
}

/** Reads the prepared objects' own headers: nothing of the source is asked. @throws GatewayError STORAGE_CORRUPT, STORAGE_IO */
export async function loadPrepared(parts: PackagingParts, row: OutboundRow, names: DeliveryNames): Promise<Prepared> {
  const objects: EndpointObject[] = []
  let pseudonym = ''
  for (const output of await loadEndpointOutputs(parts.db.kysely, row.id)) {
    const { ordinal, sizeBytes: size, isDelivered } = output
    const object = { path: parts.outbox.path(row.id, ordinal), size, sha256: output.sha256.toString('hex') }
    const blob = await openObject({ ...output, ...object, seriesInstanceUid: '', modality: '' })
    try {
      const { seriesInstanceUid, modality = 'OT', patientId } = await readInstanceHeader(blob)
      pseudonym ||= patientId
      objects.push({ ...output, ...object, ordinal, isDelivered, seriesInstanceUid, modality })
    } finally {
      await blob.close()
    }
  }
  if (objects.length !== row.objectCount)
    throw new GatewayError('UNAVAILABLE', 'outputs of the transfer vanished: they are made again')
  const fields = {
    ...names,
    subject: names.subject ?? (pseudonym || undefined),
    transfer: row.id,
    date: row.manifestCreated.toISOString().slice(0, 10).replaceAll('-', ''),
  }
  return { objects, fields }
}

/** Names of an endpoint's deliveries: without a template each has a folder of its own. */
export const namesOf = ({ packaging }: Pick<Endpoint, 'packaging'>): NameRules =>
  packaging.names.template === '' ? { ...packaging.names, template: '{transfer}/' } : packaging.names

/** A delivery as files. */
export interface Packed {
  /** Below the endpoint's root; ends without slash. */
  readonly folder: string
  readonly files: readonly PackageFile[]
}

/**
 * Packs, and fixes what is delivered: rows, certificate and the state `signed` in one transaction. Run again after a
 * crash it finds what was finished.
 *
 * @throws GatewayError as `pack`; STATE_CONFLICT when another delivery has the same names at the endpoint
 */
export async function packDelivery(
  parts: PackagingParts,
  { row, endpoint, prepared }: { row: OutboundRow; endpoint: Endpoint; prepared: Prepared },
  signal: AbortSignal,
): Promise<Packed> {
  const { db, keys, outbox } = parts
  const { objects, fields } = prepared
  const names = namesOf(endpoint)
  const certificate = await certificateOf(parts, row, endpoint)
  const files = await pack(
    objects,
    {
      options: { ...endpoint.packaging, names },
      fields,
      created: row.manifestCreated,
      site: keys,
      certificate: certificate.envelope,
    },
    outbox.workFolder(row.id),
    signal,
  )
  const folder = deliveryFolder(names, fields)
  const placed = files.map(file => ({ ...file, name: placeOf(folder, file.name) }))
  await db.inTransaction(async tx => {
    const state = await lockState(tx, row.id)
    if (state !== 'prepared' && state !== 'signed') throw new GatewayError('UNAVAILABLE', 'the transfer has changed')
    await refuseSameNames(tx, row.id, endpoint.name, placed)
    await storeCertificate(tx, row.id, 'issued', certificate)
    await writeFiles(tx, row.id, placed)
    await tx
      .updateTable('transfers')
      .set({ bytes_total: files.reduce((sum, { size }) => sum + size, 0) })
      .where('id', '=', row.id)
      .execute()
    if (state === 'prepared') {
      await writeState(tx, row.id, 'signed')
      await addStep(tx, row.id, 'packed', { files: files.length })
    }
  })
  return { folder, files }
}

/** Where a file of a delivery is at its endpoint. */
export const placeOf = (folder: string, name: string): string => (folder === '' ? name : `${folder}/${name}`)

/** The certificate of the outputs, for deliveries without packages too. @throws GatewayError STORAGE_CORRUPT, MANIFEST_LIMIT */
export async function certificateOf(
  { db, keys }: PackagingParts,
  row: OutboundRow,
  endpoint: Pick<Endpoint, 'name'>,
): Promise<SignedCertificate> {
  const outputs = await loadOutputs(db.kysely, row.id)
  return certify(
    {
      from: keys.siteId,
      to: `endpoint:${endpoint.name}`,
      created: row.manifestCreated,
      objects: outputs.map(output => ({
        sopInstanceUid: output.sopInstanceUid,
        sopClassUid: '',
        transferSyntaxUid: output.transferSyntaxUid,
        study: 0,
        sizeBytes: output.sizeBytes,
        sha256: output.sha256.toString('hex'),
      })),
    },
    outputs.map(output => output.facts),
    keys,
  )
}

/** Nothing that another delivery has put there is overwritten. */
async function refuseSameNames(
  tx: Parameters<typeof writeFiles>[0],
  transfer: string,
  endpoint: string,
  files: readonly PackageFile[],
): Promise<void> {
  const other = await tx
    .selectFrom('transfer_files')
    .innerJoin('transfers', 'transfers.id', 'transfer_files.transfer')
    .select('transfers.id')
    .where('transfers.endpoint', '=', endpoint)
    .where('transfers.id', '<>', transfer)
    .where('transfers.state', 'in', ['signed', 'delivered', 'receipted', 'held'])
    .where(
      'transfer_files.name',
      'in',
      files.slice(0, 1).map(({ name }) => name),
    )
    .executeTakeFirst()
  if (other)
    throw new GatewayError(
      'STATE_CONFLICT',
      `transfer ${other.id} has the same names at the endpoint: add {transfer} to its path template`,
    )
}
