/** C-FIND as its provider, PS3.4 §C.4.1: the store's matches as pending responses. */

import { findElement, stringOf } from '../dicom/dataset.ts'
import { type DicomJson, tagOfName, toJson } from '../dicom/json.ts'
import type { Level } from '../dicom/levels.ts'
import { matchKeys } from '../dicom/matching.ts'
import type { Tag } from '../dicom/tag.ts'
import { isGatewayError } from '../errors.ts'
import type { Query } from '../services/query.ts'
import type { FindLimits } from '../services/resource-find.ts'
import { isSearchable } from '../store/searchable.ts'
import { commandField } from './command.ts'
import { instanceAvailability, matchEncoder, notKeys } from './find-answer.ts'
import { identifierSyntaxes, readIdentifier } from './find-scu.ts'
import { type InformationModel, levelOf, modelOf, queryRetrieveSopClass } from './query-retrieve.ts'
import type { ServiceChannel, ServiceClass, ServiceRequest, ServiceResponse } from './service.ts'
import { outcomeOfError, status } from './status.ts'

/** What the service needs. */
export interface FindOptions {
  readonly query: Query
  /** Our own title, where instances can be retrieved from (0008,0054). */
  readonly aeTitle: string
  /** Most answers; what is cut off ends as a match that was cancelled. */
  readonly limits?: FindLimits
}

const levels: Readonly<Record<InformationModel, readonly Level[]>> = {
  'patient-root': ['patient', 'study', 'series', 'instance'],
  'study-root': ['study', 'series', 'instance'],
  'patient-study-only': ['patient', 'study'],
}

/** The C-FIND SCP. Queries are relational: unique keys of the levels above may be left out (PS3.4 §C.4.1.3.2.1). */
export function findService(options: FindOptions): ServiceClass {
  return {
    sopClassUids: (['patient-root', 'study-root', 'patient-study-only'] as const).map(model =>
      queryRetrieveSopClass(model, 'find'),
    ),
    transferSyntaxes: identifierSyntaxes,
    commandFields: [commandField.findRequest],
    handle: async (request, channel) => {
      try {
        return await answer(options, request, channel)
      } catch (error) {
        return failure(error, request.signal)
      }
    },
  }
}

async function answer(
  { query, aeTitle, limits }: FindOptions,
  request: ServiceRequest,
  channel: ServiceChannel,
): Promise<ServiceResponse> {
  const { dataset = new Uint8Array(), transferSyntaxUid, sopClassUid, signal, principal } = request
  const identifier = await readIdentifier(dataset, transferSyntaxUid)
  const named = stringOf(identifier, 0x00080052)
  const level = levelOf(named, levels[modelOf(sopClassUid) ?? 'study-root'])
  if (level === undefined) {
    return {
      status: status.dataSetMismatch,
      comment: 'query/retrieve level is missing or not of this information model',
    }
  }
  // File meta elements and those of commands are no attributes of what is stored.
  const isKey = (tag: Tag): boolean => tag >>> 16 >= 0x0008 && !notKeys.has(tag)
  const keys = Object.fromEntries(
    Object.entries(toJson(identifier, { decimals: 'text' })).filter(([tag]) => isKey(tagOfName(tag))),
  )
  const supported: DicomJson = Object.fromEntries(
    Object.entries(keys).filter(([tag]) => isSearchable(tagOfName(tag), level)),
  )
  const hasUnsupported = Object.keys(supported).length < Object.keys(keys).length
  const encode = matchEncoder({
    keys,
    level,
    aeTitle,
    isAvailabilityAsked: findElement(identifier, instanceAvailability) !== undefined,
    terms: identifier.charset.terms,
    transferSyntaxUid,
  })
  const returned = new Set(Object.keys(supported).map(tagOfName))
  const spec = { level, keys: matchKeys(supported) }
  let left = limits?.(level) ?? Number.POSITIVE_INFINITY
  for await (const matches of query.find(principal, spec, { returned, signal })) {
    for (const { attributes } of matches) {
      if (left-- === 0) return { status: status.cancel, comment: 'there are more: ask for less' }
      const pending = hasUnsupported ? status.pendingWithWarning : status.pending
      await channel.send({ status: pending, dataset: encode(attributes) })
    }
  }
  return { status: signal.aborted ? status.cancel : status.success }
}

/** PS3.4 Table C.4-1. */
function failure(error: unknown, signal: AbortSignal): ServiceResponse {
  if (signal.aborted) return { status: status.cancel }
  if (isGatewayError(error, 'DICOM_UNREADABLE') || isGatewayError(error, 'DICOM_LIMIT')) {
    return { status: status.dataSetMismatch, comment: 'identifier cannot be read' }
  }
  if (isGatewayError(error, 'DATABASE_UNAVAILABLE')) {
    return { status: status.outOfResources, comment: 'temporarily unavailable, ask again later' }
  }
  return outcomeOfError(error)
}
