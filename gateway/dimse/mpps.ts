/** Modality Performed Procedure Step as its provider, PS3.4 §F.7: N-CREATE and N-SET. */
import { randomUUID } from 'node:crypto'
import { type DicomJson, toJson } from '../dicom/json.ts'
import type { StepProblem } from '../dicom/procedure-step.ts'
import { formatTag } from '../dicom/tag.ts'
import { isUid } from '../dicom/uid.ts'
import { isGatewayError } from '../errors.ts'
import type { Mpps, StepOutcome } from '../services/mpps.ts'
import { commandField } from './command.ts'
import { identifierSyntaxes, readIdentifier } from './find-scu.ts'
import type { ServiceClass, ServiceRequest, ServiceResponse } from './service.ts'
import { outcomeOfError, status } from './status.ts'

/** Modality Performed Procedure Step SOP class, PS3.4 §F.7. */
export const mppsSopClass = '1.2.840.10008.3.1.2.3.3'

/** "Performed Procedure Step Object may no longer be updated", Error ID of PS3.4 §F.7.2.2.4. */
const noLongerUpdated = 0xa710

/** The MPPS SCP. */
export function mppsService({ mpps }: { readonly mpps: Mpps }): ServiceClass {
  return {
    sopClassUids: [mppsSopClass],
    transferSyntaxes: identifierSyntaxes,
    commandFields: [commandField.createRequest, commandField.setRequest],
    handle: async request => {
      try {
        return await perform(mpps, request)
      } catch (error) {
        return failure(error)
      }
    },
  }
}

async function perform(mpps: Mpps, request: ServiceRequest): Promise<ServiceResponse> {
  const { command, principal, association } = request
  const isCreate = command.commandField === commandField.createRequest
  // Without one in N-CREATE the provider names the instance (PS3.7 §10.1.5).
  const sopInstanceUid = command.sopInstanceUid ?? (isCreate ? newUid() : '')
  if (!isUid(sopInstanceUid)) return { status: status.invalidObjectInstance, comment: 'SOP Instance UID is none' }
  const document = await documentOf(request)
  const outcome = isCreate
    ? await mpps.begin(principal, { sopInstanceUid, callingAe: association.callingAe, document })
    : await mpps.change(principal, sopInstanceUid, document)
  return { ...responseOf(outcome), sopInstanceUid }
}

/** Text is decoded by the request's own character set, so that the record has just one. */
async function documentOf({ dataset = new Uint8Array(), transferSyntaxUid }: ServiceRequest): Promise<DicomJson> {
  const identifier = await readIdentifier(dataset, transferSyntaxUid)
  const { '00080005': _, ...document } = toJson(identifier, { decimals: 'text' })
  return document
}

function responseOf(outcome: StepOutcome): ServiceResponse {
  switch (outcome.kind) {
    case 'done':
      return { status: status.success }
    case 'duplicate':
      return { status: status.duplicateSopInstance, comment: 'procedure step exists' }
    case 'unknown':
      return { status: status.noSuchInstance, comment: 'procedure step is not known' }
    case 'final':
      return {
        status: status.processingFailure,
        errorId: noLongerUpdated,
        comment: 'Performed Procedure Step Object may no longer be updated',
      }
    case 'refused':
      return refusal(outcome.problem)
    default:
      return outcome satisfies never
  }
}

const problems: Readonly<Record<StepProblem['kind'], { readonly status: number; readonly text: string }>> = {
  'missing-attribute': { status: status.missingAttribute, text: 'missing attribute' },
  'missing-value': { status: status.missingAttributeValue, text: 'missing value of' },
  'invalid-value': { status: status.invalidAttributeValue, text: 'value that is not allowed of' },
}

function refusal({ kind, tag }: StepProblem): ServiceResponse {
  const { status, text } = problems[kind]
  const name = formatTag(tag)
  return { status, comment: `${text} (${name.slice(0, 4)},${name.slice(4)})` }
}

function failure(error: unknown): ServiceResponse {
  if (isGatewayError(error, 'DICOM_UNREADABLE') || isGatewayError(error, 'DICOM_LIMIT'))
    return { status: status.processingFailure, comment: 'attribute list cannot be read' }
  if (isGatewayError(error, 'TOO_LARGE'))
    return { status: status.resourceLimitation, comment: 'procedure step exceeds a limit' }
  // The statuses of storage are none of DIMSE-N (PS3.7 Annex C).
  const { comment } = outcomeOfError(error)
  return { status: status.processingFailure, comment }
}

/** PS3.5 §B.2. */
function newUid(): string {
  return `2.25.${BigInt(`0x${randomUUID().replaceAll('-', '')}`)}`
}
