/** Sends to the archive as the services want them, and the archive's own count. */
import { type Dataset, numbersOf } from '../dicom/dataset.ts'
import { isGatewayError } from '../errors.ts'
import type { ArchiveResult, ArchiveSend, ArchiveWire } from '../services/archive.ts'
import { findScu } from './find-scu.ts'
import type { Converter, StoreResult } from './outgoing.ts'
import { queryRetrieveSopClass } from './query-retrieve.ts'
import { storeScu } from './scu.ts'
import type { ScuTarget } from './scu-association.ts'
import { isStored, status } from './status.ts'

/** What it needs. */
export interface ArchiveWireOptions {
  /** A registered modality. @throws GatewayError NOT_FOUND, STATE_CONFLICT when it cannot be called */
  readonly target: (modality: string) => ScuTarget
  /** For what the archive does not take as it is stored. */
  readonly converter?: (modality: string) => Converter | undefined
}

const studyInstanceUidTag = 0x0020000d
const levelTag = 0x00080052
/** Number of Study Related and of Series Related Instances, PS3.4 Tables C.3-1 and C.3-2. */
const countTag = { STUDY: 0x00201208, SERIES: 0x00201209 } as const

export function archiveWire({ target, converter }: ArchiveWireOptions): ArchiveWire {
  return {
    async send(modality, items, onResult, { stop, abort }) {
      await storeScu(
        { ...target(modality), signal: abort },
        items,
        async (item: ArchiveSend, result) => await onResult(item, resultOf(result)),
        { stop, converter: converter?.(modality) },
      )
    },

    async count(modality, studyInstanceUid, signal) {
      const to = { ...target(modality), signal }
      const ask = async (level: keyof typeof countTag): Promise<(number | undefined)[]> => {
        const identifier = [
          { tag: levelTag, value: level },
          { tag: studyInstanceUidTag, value: studyInstanceUid },
          { tag: countTag[level], value: new Uint8Array() },
        ]
        const counts: (number | undefined)[] = []
        for await (const match of findScu(to, {
          sopClassUid: queryRetrieveSopClass('study-root', 'find'),
          identifier,
        })) {
          counts.push(countIn(match, countTag[level]))
        }
        return counts
      }
      const studies = await ask('STUDY')
      if (studies.length === 0) return 0
      if (studies[0] !== undefined) return studies[0]
      const series = await ask('SERIES')
      return series.reduce<number | undefined>(
        (sum, count) => (sum === undefined || count === undefined ? undefined : sum + count),
        0,
      )
    },
  }
}

function countIn(match: Dataset, tag: number): number | undefined {
  const [count] = numbersOf(match, tag)
  return count !== undefined && Number.isSafeInteger(count) && count >= 0 ? count : undefined
}

function resultOf(result: StoreResult): ArchiveResult {
  switch (result.kind) {
    case 'responded': {
      if (isStored(result.status)) return { kind: 'taken' }
      const problem = `STATUS_${result.status.toString(16).toUpperCase().padStart(4, '0')}`
      return { kind: 'failed', problem, isFinal: isFinal(result.status) }
    }
    case 'not-accepted':
      return { kind: 'failed', problem: 'NOT_ACCEPTED', isFinal: true }
    case 'unreadable': {
      const { error } = result
      if (!isGatewayError(error)) return { kind: 'failed', problem: 'UNREADABLE', isFinal: false }
      return { kind: 'failed', problem: error.code, isFinal: error.meaning.retry === 'no' }
    }
    default:
      return result satisfies never
  }
}

/** PS3.4 Table B.2-1: what speaks of the instance stays; out of resources and processing failures may pass. */
function isFinal(code: number): boolean {
  const isOutOfResources = (code & 0xff00) === status.outOfResources
  return !isOutOfResources && code !== status.processingFailure && code !== status.resourceLimitation
}
