/**
 * Storage commitment on associations that we open (PS3.4 Annex J): as its user we ask an archive, as its
 * provider we tell a requestor the outcome, for which the provider's role is negotiated (PS3.7 §D.3.3.4).
 */
import { explicitVrLittleEndian, implicitVrLittleEndian } from '../dicom/uid.ts'
import { GatewayError } from '../errors.ts'
import type { CommitmentReport, CommitmentRequest } from '../services/commitment-rows.ts'
import { encodeActionRequest, encodeEventReportRequest } from './command.ts'
import { encodeReport, encodeRequest, readReport } from './commitment-data.ts'
import { openAssociation, type RequestedAssociation, type ScuTarget } from './scu-association.ts'
import type { Proposal } from './scu-contexts.ts'
import type { EventReport, IncomingServices } from './scu-incoming.ts'
import { type Outcome, outcomeOfError, status } from './status.ts'

/** The SOP class and its one well-known instance, PS3.4 §J.3.5. */
export const commitmentSopClass = '1.2.840.10008.1.20.1'
export const commitmentSopInstance = '1.2.840.10008.1.20.1.1'
/** Request Storage Commitment, PS3.4 Table J.3-1. */
export const requestActionType = 1
/** Storage Commitment Request Successful; Complete - Failures Exist, PS3.4 Table J.3-2. */
export const reportEventType = { successful: 1, failuresExist: 2 } as const

/** The transfer syntaxes in which commitments go. */
export const commitmentSyntaxes = [explicitVrLittleEndian, implicitVrLittleEndian] as const

const instance = { sopClassUid: commitmentSopClass, sopInstanceUid: commitmentSopInstance } as const

/**
 * Asks for commitment, then keeps the association for a while: some archives answer on it.
 *
 * @param onReport           takes an answer that comes on this association; what it throws is the archive's response
 * @param options.lingerMs   how long the association stays open for it
 * @throws GatewayError PEER_UNREACHABLE, ASSOCIATION_REFUSED, PEER_PROTOCOL, REMOTE_STATUS for a refusal
 */
export async function requestCommitment(
  target: ScuTarget,
  request: CommitmentRequest,
  onReport: (report: CommitmentReport) => Promise<void>,
  options: { readonly lingerMs: number },
): Promise<void> {
  const answered = Promise.withResolvers<void>()
  const onEvent = async (event: EventReport): Promise<Outcome> => {
    const outcome = await takeReport(event, onReport)
    if (outcome.status === status.success) answered.resolve()
    return outcome
  }
  const association = await openFor(target, { role: 'user', services: { onEvent } })
  try {
    const context = contextOf(association)
    const { status: code } = await association.ask({
      context,
      command: messageId => encodeActionRequest(messageId, { ...instance, actionTypeId: requestActionType }),
      dataset: encodeRequest(request, context.transferSyntaxUid),
    })
    refuseFailure(code)
    await firstOf([answered.promise, association.closed], options.lingerMs)
  } finally {
    await association.release()
  }
}

/**
 * Tells a requestor the outcome.
 *
 * @throws GatewayError PEER_UNREACHABLE, ASSOCIATION_REFUSED, PEER_PROTOCOL, REMOTE_STATUS for a refusal
 */
export async function reportCommitment(target: ScuTarget, report: CommitmentReport): Promise<void> {
  const association = await openFor(target, { role: 'provider', services: {} })
  try {
    const context = contextOf(association)
    const { status: code } = await association.ask({
      context,
      command: messageId => encodeReportRequest(messageId, report),
      dataset: encodeReport(report, context.transferSyntaxUid),
    })
    refuseFailure(code)
  } finally {
    await association.release()
  }
}

/** The command set of the event that tells a report. */
export function encodeReportRequest(messageId: number, report: CommitmentReport): Buffer {
  const eventTypeId = report.failed.length === 0 ? reportEventType.successful : reportEventType.failuresExist
  return encodeEventReportRequest(messageId, { ...instance, eventTypeId })
}

/** Takes an N-EVENT-REPORT, in whichever role it came; its lists count, not its event type. */
export async function takeReport(
  event: Pick<EventReport, 'command' | 'dataset' | 'transferSyntaxUid'>,
  onReport: (report: CommitmentReport) => Promise<void>,
): Promise<Outcome> {
  const { eventTypeId, sopInstanceUid } = event.command
  if (sopInstanceUid !== commitmentSopInstance) return { status: status.noSuchInstance }
  if (eventTypeId !== reportEventType.successful && eventTypeId !== reportEventType.failuresExist) {
    return { status: status.noSuchEventType }
  }
  if (!event.dataset) return { status: status.invalidArgument, comment: 'no event information' }
  try {
    await onReport(await readReport(event.dataset, event.transferSyntaxUid))
    return { status: status.success }
  } catch (error) {
    return outcomeOfCommitment(error)
  }
}

/** Outcomes of PS3.7 §10.1.1.1.8 and §10.1.4.1.10, where those of storage would mean something else. */
export function outcomeOfCommitment(error: unknown): Outcome {
  if (!(error instanceof GatewayError)) return outcomeOfError(error)
  switch (error.code) {
    case 'BAD_REQUEST':
    case 'DICOM_UNREADABLE':
      return { status: status.invalidArgument, comment: 'the data set is not one of storage commitment' }
    case 'DICOM_LIMIT':
    case 'TOO_LARGE':
      return { status: status.resourceLimitation, comment: 'too many instances in one request' }
    case 'NOT_FOUND':
      return { status: status.invalidArgument, comment: 'no such transaction' }
    default:
      return { status: status.processingFailure, comment: 'temporarily unavailable, ask again later' }
  }
}

function openFor(
  target: ScuTarget,
  { role, services }: { readonly role: 'user' | 'provider'; readonly services: IncomingServices },
): Promise<RequestedAssociation> {
  const proposal = { sopClassUid: commitmentSopClass, transferSyntaxUids: commitmentSyntaxes }
  return openAssociation(target, [role === 'user' ? proposal : { ...proposal, role: 'scp' }], services)
}

function contextOf(association: RequestedAssociation): Proposal {
  const [transferSyntaxUid] = association.syntaxesOf(commitmentSopClass)
  if (transferSyntaxUid === undefined) {
    throw new GatewayError('ASSOCIATION_REFUSED', 'the node does not offer storage commitment')
  }
  return { sopClassUid: commitmentSopClass, transferSyntaxUid }
}

function refuseFailure(code: number): void {
  if (code === status.success) return
  const hex = code.toString(16).toUpperCase().padStart(4, '0')
  throw new GatewayError('REMOTE_STATUS', `the node answered storage commitment with status ${hex}`, {
    context: { status: hex },
  })
}

/** Waits for one of them, or for so long. */
async function firstOf(events: readonly Promise<void>[], ms: number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  const timer = setTimeout(resolve, ms)
  await Promise.race([...events, promise])
  clearTimeout(timer)
}
