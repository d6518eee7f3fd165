/** A negotiated association as dcmjs-dimse's object, from which the library writes the A-ASSOCIATE-AC. */
import dimse from 'dcmjs-dimse'
import { type AcceptedContext, contextResult, type NegotiatedContext } from './contexts.ts'
import type { AssociateRequest } from './pdu.ts'
import type { Association } from './upper-layer.ts'

/**
 * @param maxPduLength  what we advertise, whatever the peer offered; at most the library's own 262,144,
 *   because its writer takes the smaller one
 */
export function libraryAssociation(
  request: AssociateRequest,
  answers: readonly NegotiatedContext[],
  maxPduLength: number,
): Association {
  const association = new dimse.association.Association(request.callingAe, request.calledAe)
  association.setMaxPduLength(maxPduLength)
  const roles = new Map(request.roles.map(role => [role.sopClassUid, role]))
  for (const answer of answers) {
    const context = new dimse.association.PresentationContext(answer.id, answer.abstractSyntaxUid)
    if (answer.result === contextResult.accepted) context.setResult(answer.result, answer.transferSyntaxUid)
    else context.setResult(answer.result)
    const role = roles.get(answer.abstractSyntaxUid)
    // One answer for each SOP class.
    if (role && answer.result === contextResult.accepted && roles.delete(answer.abstractSyntaxUid)) {
      context.setUserRole(role.scu)
      context.setProviderRole(role.scp && mayProvide(answer))
    }
    // Put in directly: `addPresentationContext` would renumber ids that do not ascend.
    association.getPresentationContexts().push({ id: answer.id, context })
  }
  return association
}

/**
 * May the peer be the SCP for this class (PS3.7 §D.3.3.4)? For storage it receives the instances of its C-GETs;
 * for a service of ours that says so it sends us the reports of what we asked for elsewhere.
 */
export function mayProvide({ service }: AcceptedContext): boolean {
  return service === 'storage' || (service !== 'verification' && service.peerMayProvide === true)
}
