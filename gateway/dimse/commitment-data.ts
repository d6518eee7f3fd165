/** Action and event information of the Storage Commitment Push Model, PS3.4 Tables J.3-1 and J.3-2. */
import { bufferSource } from '../dicom/byte-source.ts'
import { type Dataset, itemsOf, numbersOf, stringOf } from '../dicom/dataset.ts'
import { DatasetBuilder } from '../dicom/dataset-builder.ts'
import { walk } from '../dicom/element-walker.ts'
import { encodeDataset, type NewElement } from '../dicom/part10-writer.ts'
import { transferSyntax } from '../dicom/uid.ts'
import { GatewayError } from '../errors.ts'
import {
  type CommitmentReport,
  type CommitmentRequest,
  failureReason,
  type InstanceReference,
} from '../services/commitment-rows.ts'

const tag = {
  referencedSopClassUid: 0x00081150,
  referencedSopInstanceUid: 0x00081155,
  transactionUid: 0x00081195,
  failureReason: 0x00081197,
  failedSopSequence: 0x00081198,
  referencedSopSequence: 0x00081199,
} as const

/** A data set of 1 MiB has fewer; what is nested deeper than the sequences of these tables is not read. */
const limits = { maxDepth: 8, maxElements: 200_000 }

/** Encodes what is asked. */
export function encodeRequest({ transactionUid, instances }: CommitmentRequest, transferSyntaxUid: string): Uint8Array {
  return encodeDataset(
    [
      { tag: tag.transactionUid, value: transactionUid },
      { tag: tag.referencedSopSequence, items: instances.map(referenceItem) },
    ],
    transferSyntaxUid,
  )
}

/** Encodes an answer; a sequence without items is left out. */
export function encodeReport(report: CommitmentReport, transferSyntaxUid: string): Uint8Array {
  const { transactionUid, committed, failed } = report
  const failedItems = failed.map(item => [...referenceItem(item), { tag: tag.failureReason, value: item.reason }])
  return encodeDataset(
    [
      { tag: tag.transactionUid, value: transactionUid },
      ...(failed.length > 0 ? [{ tag: tag.failedSopSequence, items: failedItems }] : []),
      ...(committed.length > 0 ? [{ tag: tag.referencedSopSequence, items: committed.map(referenceItem) }] : []),
    ],
    transferSyntaxUid,
  )
}

/**
 * Reads what is asked.
 *
 * @throws GatewayError DICOM_UNREADABLE, DICOM_LIMIT, BAD_REQUEST for what lacks an attribute of type 1
 */
export async function readRequest(bytes: Uint8Array, transferSyntaxUid: string): Promise<CommitmentRequest> {
  const dataset = await read(bytes, transferSyntaxUid)
  const instances = itemsOf(dataset, tag.referencedSopSequence).map(readReference)
  if (instances.length === 0) throw new GatewayError('BAD_REQUEST', 'expected a Referenced SOP Sequence with items')
  return { transactionUid: readTransaction(dataset), instances }
}

/**
 * Reads an answer.
 *
 * @throws as `readRequest`
 */
export async function readReport(bytes: Uint8Array, transferSyntaxUid: string): Promise<CommitmentReport> {
  const dataset = await read(bytes, transferSyntaxUid)
  return {
    transactionUid: readTransaction(dataset),
    committed: itemsOf(dataset, tag.referencedSopSequence).map(readReference),
    failed: itemsOf(dataset, tag.failedSopSequence).map(item => ({
      ...readReference(item),
      reason: readReason(item),
    })),
  }
}

const referenceItem = ({ sopClassUid, sopInstanceUid }: InstanceReference): NewElement[] => [
  { tag: tag.referencedSopClassUid, value: sopClassUid },
  { tag: tag.referencedSopInstanceUid, value: sopInstanceUid },
]

async function read(bytes: Uint8Array, transferSyntaxUid: string): Promise<Dataset> {
  const encoding = transferSyntax(transferSyntaxUid) ?? { explicitVr: true, bigEndian: false }
  const builder = new DatasetBuilder(
    (_element, _depth, holdsItems) => (holdsItems ? 'enter' : 'value'),
    value => value,
  )
  await walk(bufferSource(bytes), { offset: 0, encoding }, builder, limits)
  return builder.dataset
}

function readTransaction(dataset: Dataset): string {
  return readUid(dataset, tag.transactionUid, 'Transaction UID')
}

function readReference(item: Dataset): InstanceReference {
  return {
    sopClassUid: readName(item, tag.referencedSopClassUid, 'Referenced SOP Class UID'),
    sopInstanceUid: readName(item, tag.referencedSopInstanceUid, 'Referenced SOP Instance UID'),
  }
}

/** What is no UID names no instance: it is among those that are missing, and does not spoil the others. */
function readName(dataset: Dataset, uid: number, name: string): string {
  const value = stringOf(dataset, uid)?.trim() ?? ''
  if (!/^[!-[\]-~]{1,64}$/.test(value)) throw new GatewayError('BAD_REQUEST', `expected a ${name}`)
  return value
}

/** Leading zeros in components are tolerated, as at the storage SCP. */
function readUid(dataset: Dataset, uid: number, name: string): string {
  const value = stringOf(dataset, uid)?.trim()
  if (value === undefined || !/^[0-9.]{1,64}$/.test(value)) throw new GatewayError('BAD_REQUEST', `expected a ${name}`)
  return value
}

/** Failure Reason is a number of 16 bits; without one it is a failure all the same. */
function readReason(item: Dataset): number {
  const [reason] = numbersOf(item, tag.failureReason)
  return typeof reason === 'number' && reason !== 0 ? reason : failureReason.processingFailure
}
