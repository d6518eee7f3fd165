/**
 * What a caller may do, applied to what it proposes: a context for a service that it may not use is answered
 * "user-rejection" (PS3.8 Table 9-18), so that its log says the same as ours.
 */
import { storageSopClasses } from '../dicom/uid.ts'
import { type ModalityService, modalityServices } from '../services/modality.ts'
import type { Admission } from './callers.ts'
import { contextResult, type NegotiatedContext } from './contexts.ts'

/** The answers after the caller's permissions, and what it asked for in vain. */
export interface PermittedContexts {
  readonly contexts: readonly NegotiatedContext[]
  readonly refused: ReadonlySet<ModalityService>
}

/**
 * Rejects accepted contexts of services that the caller may not use.
 *
 * @param providers  SOP classes of which the caller proposes to be the SCP, for C-GET
 */
export function permit(
  contexts: readonly NegotiatedContext[],
  { services }: Pick<Admission, 'services'>,
  providers: ReadonlySet<string>,
): PermittedContexts {
  const refused = new Set<ModalityService>()
  const permitted = contexts.map((context): NegotiatedContext => {
    if (context.result !== contextResult.accepted) return context
    const { id, abstractSyntaxUid } = context
    const service = serviceOf(abstractSyntaxUid)
    // Who may retrieve by C-GET receives in contexts of the storage service; see `mayAsk`.
    const isReceiving = service === 'store' && services.has('get') && providers.has(abstractSyntaxUid)
    if (services.has(service) || isReceiving) return context
    refused.add(service)
    return { id, abstractSyntaxUid, result: contextResult.userRejection }
  })
  return { contexts: permitted, refused }
}

/** May the caller send requests in a context that was accepted? Not where it is there to receive only. */
export function mayAsk(sopClassUid: string, { services }: Pick<Admission, 'services'>): boolean {
  return services.has(serviceOf(sopClassUid))
}

/** For the log: what was refused and how it is permitted. */
export function refusalOf(refused: ReadonlySet<ModalityService>, { modality, services }: Admission): string {
  const asked = modalityServices.filter(service => refused.has(service)).join(', ')
  const needed = modalityServices.filter(service => refused.has(service) || services.has(service)).join(',')
  return modality
    ? `not permitted to ${modality.name}: ${asked}; permit it (hanse modality add '${modality.name}' --allow ${needed})`
    : `not permitted to callers that are not registered: ${asked}; register it (hanse modality add AETITLE ` +
        `--host ADDRESS --allow ${needed})`
}

/** The service to which a SOP class that we accept belongs. */
function serviceOf(sopClassUid: string): ModalityService {
  if (storageSopClasses.has(sopClassUid)) return 'store'
  return serviceClasses.get(sopClassUid) ?? 'store'
}

const queryRetrieve = '1.2.840.10008.5.1.4.1.2.'

/** SOP classes that are not of the storage service: PS3.4 Annexes A, C (Patient, Study, Patient/Study Only Root), F, J, K. */
const serviceClasses: ReadonlyMap<string, ModalityService> = new Map([
  ['1.2.840.10008.1.1', 'echo'],
  ...['1', '2', '3'].flatMap(root => [
    [`${queryRetrieve}${root}.1`, 'find'] as const,
    [`${queryRetrieve}${root}.2`, 'move'] as const,
    [`${queryRetrieve}${root}.3`, 'get'] as const,
  ]),
  ['1.2.840.10008.1.20.1', 'commit'],
  ['1.2.840.10008.5.1.4.31', 'worklist'],
  ['1.2.840.10008.3.1.2.3.3', 'mpps'],
])
