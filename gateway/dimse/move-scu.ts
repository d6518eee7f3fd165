/** C-MOVE as its user: asks a node to send instances to a destination that it knows, PS3.4 §C.4.2. */
import { encodeDataset } from '../dicom/part10-writer.ts'
import { encodeMoveRequest } from './command.ts'
import { contextFor, identifierSyntaxes } from './find-scu.ts'
import {
  followRetrieve,
  type RetrieveCounts,
  type RetrieveRequest,
  type RetrieveResult,
  retrieveQuietMs,
} from './retrieve-scu.ts'
import { openAssociation, type ScuTarget } from './scu-association.ts'

/**
 * Retrieves to another application entity, or to ourselves where the node knows us.
 *
 * @param request.destination  AE title under which the node knows the receiver
 * @param request.messageId    shows up as Move Originator Message ID in what arrives
 * @param onProgress           called for each pending response
 * @throws GatewayError PEER_UNREACHABLE, ASSOCIATION_REFUSED, PEER_PROTOCOL
 */
export async function moveScu(
  target: ScuTarget,
  request: RetrieveRequest & { readonly destination: string; readonly messageId?: number },
  onProgress: (counts: RetrieveCounts) => void,
): Promise<RetrieveResult> {
  const { sopClassUid, identifier, destination, messageId, priority, cancel } = request
  cancel?.throwIfAborted()
  const association = await openAssociation(target, [{ sopClassUid, transferSyntaxUids: identifierSyntaxes }])
  try {
    const context = contextFor(association, sopClassUid)
    const responses = association.request({
      context,
      messageId,
      command: id => encodeMoveRequest(id, sopClassUid, destination, priority),
      dataset: encodeDataset(identifier, context.transferSyntaxUid),
      cancel,
      quietMs: retrieveQuietMs,
    })
    return await followRetrieve(responses, onProgress)
  } finally {
    await association.release()
  }
}
