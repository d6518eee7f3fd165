/** C-FIND as its user: asks a node for patients, studies, series, instances or worklist items. */
import { bufferSource } from '../dicom/byte-source.ts'
import type { Dataset } from '../dicom/dataset.ts'
import { DatasetBuilder } from '../dicom/dataset-builder.ts'
import { walk } from '../dicom/element-walker.ts'
import { encodeDataset, type NewElement } from '../dicom/part10-writer.ts'
import { explicitVrLittleEndian, implicitVrLittleEndian, transferSyntax } from '../dicom/uid.ts'
import { GatewayError } from '../errors.ts'
import { commandField, encodeQueryRequest } from './command.ts'
import { openAssociation, type RequestedAssociation, type ScuTarget } from './scu-association.ts'
import type { Proposal } from './scu-contexts.ts'
import { status } from './status.ts'

/** A query. */
export interface FindRequest {
  /** Query/Retrieve or Modality Worklist. */
  readonly sopClassUid: string
  /** Matching and return keys, Query/Retrieve Level among them. */
  readonly identifier: readonly NewElement[]
  /** Ends the query by C-CANCEL; the iteration then throws its reason. */
  readonly cancel?: AbortSignal | undefined
}

/** The transfer syntaxes in which identifiers go. */
export const identifierSyntaxes = [explicitVrLittleEndian, implicitVrLittleEndian] as const

/** Bounds of an identifier that a peer sends. */
const limits = { maxDepth: 16, maxElements: 10_000 }

/**
 * The matches, as they come; who stops reading cancels the query.
 *
 * @throws GatewayError REMOTE_STATUS when the node ends with a failure, PEER_UNREACHABLE, ASSOCIATION_REFUSED,
 *   PEER_PROTOCOL, DICOM_UNREADABLE when a match cannot be read
 */
export async function* findScu(target: ScuTarget, request: FindRequest): AsyncGenerator<Dataset, void, void> {
  const { sopClassUid, identifier, cancel } = request
  cancel?.throwIfAborted()
  const association = await openAssociation(target, [{ sopClassUid, transferSyntaxUids: identifierSyntaxes }])
  try {
    const context = contextFor(association, sopClassUid)
    const responses = association.request({
      context,
      command: messageId => encodeQueryRequest(commandField.findRequest, messageId, sopClassUid),
      dataset: encodeDataset(identifier, context.transferSyntaxUid),
      cancel,
    })
    for await (const response of responses) {
      if (response.dataset) yield await readIdentifier(response.dataset, response.transferSyntaxUid)
      else checkFinal(response.status, 'query', cancel)
    }
  } finally {
    await association.release()
  }
}

/** The context in which a query or retrieval goes. @throws GatewayError ASSOCIATION_REFUSED */
export function contextFor(association: RequestedAssociation, sopClassUid: string): Proposal {
  const [transferSyntaxUid] = association.syntaxesOf(sopClassUid)
  if (transferSyntaxUid === undefined) {
    throw new GatewayError('ASSOCIATION_REFUSED', 'the node does not offer this query or retrieve service')
  }
  return { sopClassUid, transferSyntaxUid }
}

/** An identifier as received. */
export async function readIdentifier(bytes: Uint8Array, transferSyntaxUid: string): Promise<Dataset> {
  const encoding = transferSyntax(transferSyntaxUid) ?? { explicitVr: true, bigEndian: false }
  const builder = new DatasetBuilder(
    (_element, _depth, holdsItems) => (holdsItems ? 'enter' : 'value'),
    value => value,
  )
  await walk(bufferSource(bytes), { offset: 0, encoding }, builder, limits)
  return builder.dataset
}

/** Throws for a final status that is neither success nor our own cancellation. */
export function checkFinal(code: number, what: 'query' | 'retrieval', cancel: AbortSignal | undefined): void {
  if (code === status.success) return
  if (code === status.cancel) cancel?.throwIfAborted()
  const hex = code.toString(16).toUpperCase().padStart(4, '0')
  throw new GatewayError('REMOTE_STATUS', `the node ended the ${what} with status ${hex}`, { context: { status: hex } })
}
