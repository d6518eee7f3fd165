/** C-GET as its user: instances come on the association that asks for them, PS3.4 §C.4.3. */
import { encodeDataset } from '../dicom/part10-writer.ts'
import { commandField, encodeQueryRequest } from './command.ts'
import { contextFor, identifierSyntaxes } from './find-scu.ts'
import { receivingContexts, usualStorageClasses } from './receiving-contexts.ts'
import {
  followRetrieve,
  type RetrieveCounts,
  type RetrieveRequest,
  type RetrieveResult,
  retrieveQuietMs,
} from './retrieve-scu.ts'
import type { StoreService } from './scp.ts'
import { openAssociation, type ScuTarget } from './scu-association.ts'
import { maxContexts } from './scu-contexts.ts'

/**
 * Retrieves into a store; success is answered for an instance when it is durable there.
 *
 * @param request.store          takes the instances
 * @param request.sopClassUids   what may come, where that is known; else the usual storage classes
 * @param onProgress             called for each pending response
 * @throws GatewayError PEER_UNREACHABLE, ASSOCIATION_REFUSED, PEER_PROTOCOL
 */
export async function getScu(
  target: ScuTarget,
  request: RetrieveRequest & { readonly store: StoreService; readonly sopClassUids?: readonly string[] | undefined },
  onProgress: (counts: RetrieveCounts) => void,
): Promise<RetrieveResult> {
  const { sopClassUid, identifier, priority, cancel, store } = request
  cancel?.throwIfAborted()
  const proposals = [
    { sopClassUid, transferSyntaxUids: identifierSyntaxes },
    ...receivingContexts(request.sopClassUids ?? usualStorageClasses, maxContexts - 1),
  ]
  const association = await openAssociation(target, proposals, { store })
  try {
    const context = contextFor(association, sopClassUid)
    const responses = association.request({
      context,
      command: messageId => encodeQueryRequest(commandField.getRequest, messageId, sopClassUid, priority),
      dataset: encodeDataset(identifier, context.transferSyntaxUid),
      cancel,
      quietMs: retrieveQuietMs,
    })
    return await followRetrieve(responses, onProgress)
  } finally {
    await association.release()
  }
}
