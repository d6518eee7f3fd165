/** Modality Worklist as its provider, PS3.4 §K.4: scheduled procedure steps as the answers of C-FIND. */
import { type DicomJson, toJson } from '../dicom/json.ts'
import { jsonItems, jsonText } from '../dicom/json-read.ts'
import { rangeOf } from '../dicom/match-range.ts'
import { type MatchKey, matches, matchKeys } from '../dicom/matching.ts'
import { formatTag } from '../dicom/tag.ts'
import { isGatewayError } from '../errors.ts'
import type { Worklist } from '../services/worklist.ts'
import type { WorklistFilter } from '../store/worklist.ts'
import { commandField } from './command.ts'
import { answerEncoder } from './find-answer.ts'
import { identifierSyntaxes, readIdentifier } from './find-scu.ts'
import type { ServiceChannel, ServiceClass, ServiceRequest, ServiceResponse } from './service.ts'
import { outcomeOfError, status } from './status.ts'

/** Modality Worklist Information Model - FIND, PS3.4 Annex K. */
export const worklistSopClass = '1.2.840.10008.5.1.4.31'

const scheduledStepSequence = 0x00400100
const startDate = 0x00400002
const startTime = 0x00400003
const stepStatus = 0x00400020
/** Elements of an identifier that say how to ask, not what for. */
const notKeys: ReadonlySet<string> = new Set(['00080005', '00080201'])

/** The Modality Worklist SCP. Every attribute of an item is a matching key and a return key. */
export function worklistService({ worklist }: { readonly worklist: Worklist }): ServiceClass {
  return {
    sopClassUids: [worklistSopClass],
    transferSyntaxes: identifierSyntaxes,
    commandFields: [commandField.findRequest],
    handle: async (request, channel) => {
      try {
        return await answer(worklist, request, channel)
      } catch (error) {
        return failure(error, request.signal)
      }
    },
  }
}

async function answer(worklist: Worklist, request: ServiceRequest, channel: ServiceChannel): Promise<ServiceResponse> {
  const { dataset = new Uint8Array(), transferSyntaxUid, signal, principal } = request
  const identifier = await readIdentifier(dataset, transferSyntaxUid)
  const keys = Object.fromEntries(
    Object.entries(toJson(identifier, { decimals: 'text' })).filter(([tag]) => !notKeys.has(tag)),
  )
  const period = periodOf(keys)
  const conditions = matchKeys(period ? withoutPeriod(keys) : keys)
  const encode = answerEncoder({ keys, terms: identifier.charset.terms, transferSyntaxUid }, [])
  const query = { keys: namesOf(conditions), filter: filterOf(keys, conditions, period), signal }
  for await (const page of worklist.find(principal, query)) {
    for (const { document } of page) {
      signal.throwIfAborted()
      if (!matches(conditions, document) || (period && !isWithin(period, document))) continue
      await channel.send({ status: status.pending, dataset: encode(document) })
    }
  }
  return { status: signal.aborted ? status.cancel : status.success }
}

/** Statuses of PS3.4 §K.4.1.1. */
function failure(error: unknown, signal: AbortSignal): ServiceResponse {
  if (signal.aborted) return { status: status.cancel }
  if (isGatewayError(error, 'DICOM_UNREADABLE') || isGatewayError(error, 'DICOM_LIMIT'))
    return { status: status.dataSetMismatch, comment: 'identifier cannot be read' }
  if (isGatewayError(error, 'DATABASE_UNAVAILABLE'))
    return { status: status.outOfResources, comment: 'temporarily unavailable, ask again later' }
  return outcomeOfError(error)
}

/** From one moment to another, as digits of date and time; undefined is open. */
interface Period {
  readonly from: string | undefined
  readonly to: string | undefined
}

/**
 * Ranges of start date and start time together name one period, from the first date at the first time to the last
 * date at the last time (PS3.4 Table K.6-1); undefined when not both are ranges.
 */
function periodOf(keys: DicomJson): Period | undefined {
  const [step = {}] = jsonItems(keys, scheduledStepSequence)
  const [date, time] = [jsonText(step, startDate), jsonText(step, startTime)]
  if (!date.includes('-') || !time.includes('-')) return undefined
  const [dates, times] = [rangeOf('DA', date), rangeOf('TM', time)]
  if (!dates || !times) return undefined
  return {
    from: dates.from === undefined ? undefined : dates.from + (times.from ?? '000000000000'),
    to: dates.to === undefined ? undefined : dates.to + (times.to ?? '235959999999'),
  }
}

function withoutPeriod(keys: DicomJson): DicomJson {
  const [step = {}] = jsonItems(keys, scheduledStepSequence)
  const { '00400002': _date, '00400003': _time, ...rest } = step
  return { ...keys, '00400100': { vr: 'SQ', Value: [rest] } }
}

function isWithin({ from, to }: Period, document: DicomJson): boolean {
  const [step = {}] = jsonItems(document, scheduledStepSequence)
  const time = rangeOf('TM', jsonText(step, startTime))?.from
  if (time === undefined) return false
  const at = jsonText(step, startDate) + time
  return (from === undefined || at >= from) && (to === undefined || at <= to)
}

/** What the database narrows down by: a superset of what matches. Only what is scheduled, unless a status is asked for. */
function filterOf(keys: DicomJson, conditions: readonly MatchKey[], period: Period | undefined): WorklistFilter {
  const step = conditions.find(({ tag }) => tag === scheduledStepSequence)?.condition
  const ofStep = step?.kind === 'item' ? step.keys : []
  const [asked = {}] = jsonItems(keys, scheduledStepSequence)
  const dates = ofStep.find(({ tag }) => tag === startDate)?.condition
  const [range, ...others] = dates?.kind === 'range' ? dates.ranges : []
  const span = period ?? (others.length === 0 ? range : undefined)
  return {
    states: jsonText(asked, stepStatus) === '' ? ['scheduled'] : undefined,
    stationAe: singleValue(ofStep, 0x00400001),
    modality: singleValue(ofStep, 0x00080060),
    patientId: singleValue(conditions, 0x00100020),
    accessionNumber: singleValue(conditions, 0x00080050),
    startFrom: span?.from?.slice(0, 8),
    startTo: span?.to?.slice(0, 8),
  }
}

/** Longer values may have been cut in the columns. */
const mostColumnCharacters = 128

function singleValue(conditions: readonly MatchKey[], tag: number): string | undefined {
  const condition = conditions.find(key => key.tag === tag)?.condition
  if (condition?.kind !== 'text') return undefined
  const [pattern, ...others] = condition.patterns
  const isSingle = pattern && others.length === 0 && !pattern.isWildcard
  return isSingle && pattern.literal.length <= mostColumnCharacters ? pattern.literal : undefined
}

/** Which attributes were matched, for the audit log; those of the step behind its sequence. */
function namesOf(conditions: readonly MatchKey[]): string[] {
  return conditions.flatMap(({ tag, condition }) => {
    const inner = condition.kind === 'item' ? condition.keys.map(key => formatTag(key.tag)) : []
    return [formatTag(tag), ...inner]
  })
}
