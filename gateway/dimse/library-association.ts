/** A negotiated association as dcmjs-dimse's object, from which the library writes the A-ASSOCIATE-AC. */
import dimse from 'dcmjs-dimse'
import { contextResult, type NegotiatedContext } from './contexts.ts'
import type { AssociateRequest } from './pdu.ts'
import type { Association } from './upper-layer.ts'

/**
 * @param maxPduLength  what we advertise, whatever the peer offered; at most the library's own 262,144,
 *   because its writer takes the smaller one
 * @param receivedByPeer  SOP classes of which the peer is to be the SCP
 */
export function libraryAssociation(
  request: AssociateRequest,
  answers: readonly NegotiatedContext[],
  maxPduLength: number,
  receivedByPeer: ReadonlySet<string>,
): Association {
  const association = new dimse.association.Association(request.callingAe, request.calledAe)
  association.setMaxPduLength(maxPduLength)
  const roles = new Map(request.roles.map(role => [role.sopClassUid, role]))
  for (const answer of answers) {
    const context = new dimse.association.PresentationContext(answer.id, answer.abstractSyntaxUid)
    if (answer.result === contextResult.accepted) context.setResult(answer.result, answer.transferSyntaxUid)
    else context.setResult(answer.result)
    const role = roles.get(answer.abstractSyntaxUid)
    // One answer for each SOP class: we take the SCU's part on a peer's association only to answer a C-GET.
    if (role && answer.result === contextResult.accepted && roles.delete(answer.abstractSyntaxUid)) {
      context.setUserRole(role.scu)
      context.setProviderRole(receivedByPeer.has(answer.abstractSyntaxUid))
    }
    // Put in directly: `addPresentationContext` would renumber ids that do not ascend.
    association.getPresentationContexts().push({ id: answer.id, context })
  }
  return association
}
