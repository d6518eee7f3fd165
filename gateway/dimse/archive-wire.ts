/** Sends to the archive as the services want them, and the archive's own count. */

import type { DicomJson } from '../dicom/json.ts'
import { isGatewayError } from '../errors.ts'
import type { ArchiveResult, ArchiveSend, ArchiveWire } from '../services/archive.ts'
import type { DicomNode, NodeTarget } from '../services/dicom-node.ts'
import type { Converter, StoreResult } from './outgoing.ts'
import { storeScu } from './scu.ts'
import { isStored, status } from './status.ts'

/** What it needs. */
export interface ArchiveWireOptions {
  /** A registered modality. @throws GatewayError NOT_FOUND, STATE_CONFLICT when it cannot be called */
  readonly target: (modality: string) => NodeTarget
  readonly node: Pick<DicomNode, 'find'>
  /** For what the archive does not take as it is stored. */
  readonly converter?: (to: NodeTarget) => Converter | undefined
}

const studyInstanceUidTag = 0x0020000d
const studyCount = { tag: 0x00201208, key: '00201208' } as const
const seriesCount = { tag: 0x00201209, key: '00201209' } as const
const noValue = new Uint8Array()

export function archiveWire({ target, node, converter }: ArchiveWireOptions): ArchiveWire {
  return {
    async send(modality, items, onResult, { stop, abort }) {
      const to = target(modality)
      await storeScu(
        { ...to, signal: abort },
        items,
        async (item: ArchiveSend, result) => await onResult(item, resultOf(result)),
        { stop, converter: converter?.(to) },
      )
    },

    async count(modality, studyInstanceUid, signal) {
      const to = target(modality)
      const study = { tag: studyInstanceUidTag, value: studyInstanceUid }
      const ask = (level: 'study' | 'series', tag: number) =>
        node.find(to, { level, keys: [study, { tag, value: noValue }] }, signal)
      let isKnown = false
      for await (const match of ask('study', studyCount.tag)) {
        isKnown = true
        const count = numberIn(match, studyCount.key)
        if (count !== undefined) return count
      }
      if (!isKnown) return 0
      let sum = 0
      for await (const match of ask('series', seriesCount.tag)) {
        const count = numberIn(match, seriesCount.key)
        if (count === undefined) return undefined
        sum += count
      }
      return sum
    },
  }
}

function numberIn(match: DicomJson, key: string): number | undefined {
  const value = Number(match[key]?.Value?.[0] ?? Number.NaN)
  return Number.isSafeInteger(value) && value >= 0 ? value : undefined
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
