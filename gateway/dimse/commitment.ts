/**
 * Storage commitment on associations that others open (PS3.4 §J.3): requests of our users, and answers of
 * archives that we asked.
 */
import { GatewayError } from '../errors.ts'
import type { Commitments, CommitmentWire } from '../services/commitment.ts'
import type { ModalityTarget } from '../services/modality-target.ts'
import { commandField } from './command.ts'
import { encodeReport, readRequest } from './commitment-data.ts'
import {
  commitmentSopClass,
  commitmentSopInstance,
  commitmentSyntaxes,
  encodeReportRequest,
  outcomeOfCommitment,
  reportCommitment,
  requestActionType,
  requestCommitment,
  takeReport,
} from './commitment-scu.ts'
import type { Notifier } from './notices.ts'
import type { ServiceClass, ServiceRequest, ServiceResponse } from './service.ts'
import { status } from './status.ts'

/** How long a requestor has to release its association, and how long one that does not is told on it. */
const leaveMs = 500
const attendMs = 10_000

/** The service class for our SCP, in both roles of the SOP class. */
export function commitmentService(commitments: Commitments): ServiceClass {
  return {
    sopClassUids: [commitmentSopClass],
    transferSyntaxes: commitmentSyntaxes,
    commandFields: [commandField.actionRequest, commandField.eventReportRequest],
    peerMayProvide: true,
    handle: request =>
      request.command.commandField === commandField.actionRequest
        ? takeRequest(commitments, request)
        : takeReport(request, report => {
            const { callingAe, remoteAddress } = request.association
            return commitments.answered({ id: callingAe, address: remoteAddress }, report)
          }),
  }
}

async function takeRequest(commitments: Commitments, request: ServiceRequest): Promise<ServiceResponse> {
  const { command, dataset, transferSyntaxUid, association, principal } = request
  if (command.sopInstanceUid !== commitmentSopInstance) return { status: status.noSuchInstance }
  if (command.actionTypeId !== requestActionType) return { status: status.noSuchAction }
  if (!dataset) return { status: status.invalidArgument, comment: 'no action information' }
  try {
    const { callingAe, remoteAddress } = association
    const asked = await readRequest(dataset, transferSyntaxUid)
    const { id } = await commitments.receive(principal, { aeTitle: callingAe, remoteAddress }, asked)
    return { status: status.success, after: notifier => tell(commitments, id, transferSyntaxUid, notifier) }
  } catch (error) {
    return outcomeOfCommitment(error)
  }
}

/**
 * Tells the outcome on the association of the request, where the requestor keeps it open: at first it may be about to
 * release it, and after a while a new association is due.
 */
async function tell(
  commitments: Commitments,
  id: string,
  transferSyntaxUid: string,
  notifier: Notifier,
): Promise<void> {
  const { signal } = notifier
  const report = await commitments.awaitReport(id, { fromMs: leaveMs, toMs: attendMs }, signal)
  if (!report) return
  try {
    const dataset = encodeReport(report, transferSyntaxUid)
    const { status: code } = await notifier.notify(messageId => encodeReportRequest(messageId, report), dataset)
    if (code !== status.success) throw new GatewayError('REMOTE_STATUS', 'the requestor did not take the outcome')
    await commitments.reported(id)
  } catch (error) {
    await commitments.unreported(id)
    throw error
  }
}

/** Whom a commitment is asked of, or told: a registered modality, or an endpoint. */
export interface CommitmentNodes {
  target(aeTitle: string): ModalityTarget | Promise<ModalityTarget>
}

/** Commitments on their way. */
export function commitmentWire(
  nodes: CommitmentNodes,
  {
    lingerMs = 3_000,
  }: { /** How long an association on which we asked stays open for the answer. */ readonly lingerMs?: number } = {},
): CommitmentWire {
  return {
    async report(aeTitle, report, signal) {
      await reportCommitment({ ...(await targetOf(nodes, aeTitle)), signal }, report)
    },
    async ask(aeTitle, request, onReport, signal) {
      await requestCommitment({ ...(await targetOf(nodes, aeTitle)), signal }, request, onReport, { lingerMs })
    },
  }
}

/** Whoever is registered later can be told later. */
async function targetOf(nodes: CommitmentNodes, aeTitle: string): Promise<ModalityTarget> {
  try {
    return await nodes.target(aeTitle)
  } catch (cause) {
    const message = 'no modality with host and port is registered under this AE title'
    throw new GatewayError('PEER_UNREACHABLE', message, { cause })
  }
}
