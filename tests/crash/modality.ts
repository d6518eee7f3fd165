/** A modality as a hospital has it: studies to send, sent again until each instance is acknowledged. */
import { createHash } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { type OutgoingInstance, storeScu } from '../../gateway/dimse/scu.ts'
import { type BuiltInstance, buildInstance, seededUid } from '../support/dicom-builder.ts'
import type { ProcessGateway } from '../support/process-gateway.ts'

/** An instance to send: its bytes are made when they are needed, the same ones each time. */
export interface Exposure {
  readonly sopInstanceUid: string
  readonly sizeBytes: number
  /** Of the whole Part 10 file, hex. */
  readonly sha256: string
  build(): BuiltInstance
}

export interface Study {
  readonly studyInstanceUid: string
  readonly exposures: readonly Exposure[]
  readonly sizeBytes: number
}

/** A CT study of two series; an instance has about `rows * rows * 2` bytes. */
export function planStudy(seed: number, instances: number, rows: number): Study {
  const studyInstanceUid = seededUid('crash study', seed)
  const exposures = Array.from({ length: instances }, (_, index): Exposure => {
    const build = (): BuiltInstance =>
      buildInstance({
        seed: seed * 10_000 + index,
        rows,
        cols: rows,
        studyInstanceUid,
        seriesInstanceUid: seededUid('crash series', seed * 2 + (index % 2)),
        patientId: `TEST-${seed}`,
        patientName: `TEST^PATIENT^${seed}`,
        instanceNumber: index + 1,
      })
    const { bytes, sopInstanceUid } = build()
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    return { sopInstanceUid, sizeBytes: bytes.length, sha256, build }
  })
  return { studyInstanceUid, exposures, sizeBytes: exposures.reduce((sum, each) => sum + each.sizeBytes, 0) }
}

/** How instances go over an association. */
export function outgoing(exposure: Exposure): OutgoingInstance & { readonly exposure: Exposure } {
  const { sopClassUid, sopInstanceUid, transferSyntaxUid } = exposure.build()
  return {
    exposure,
    sopClassUid,
    sopInstanceUid,
    transferSyntaxUid,
    open: () => {
      const { bytes, dataset } = exposure.build()
      return { source: bufferSource(bytes), datasetOffset: bytes.length - dataset.length }
    },
  }
}

/** The association that a test's modality opens. */
export function targetOf(gateway: ProcessGateway): {
  host: string
  port: number
  callingAe: string
  calledAe: string
} {
  return { host: '127.0.0.1', port: gateway.ports.dicom, callingAe: 'CRASH_CT', calledAe: 'HANSE' }
}

/** What a sending came to. */
export interface Sending {
  /** Instances sent once more because their acknowledgement did not come. */
  readonly repeats: number
}

/**
 * Sends a study and, like any modality, sends again what was not acknowledged; gives up after
 * `deadlineMs` without any progress.
 */
export async function sendStudy(
  gateway: ProcessGateway,
  study: Study,
  onStored: (exposure: Exposure) => Promise<void> | void = () => undefined,
  deadlineMs = 180_000,
): Promise<Sending> {
  const pending = new Set(study.exposures)
  let repeats = 0
  let trouble: unknown = 'nothing was tried'
  let progressAt = Date.now()
  for (let round = 0; pending.size > 0; round++) {
    if (round > 0) await delay(100)
    try {
      await storeScu(targetOf(gateway), [...pending].map(outgoing), async ({ exposure }, result) => {
        if (result.kind === 'responded' && result.status === 0) {
          pending.delete(exposure)
          progressAt = Date.now()
          await onStored(exposure)
        } else {
          trouble = result
          repeats++
        }
      })
    } catch (error) {
      trouble = error
      repeats++
    }
    if (Date.now() - progressAt > deadlineMs) {
      throw new Error(`${gateway.site} acknowledges nothing for ${deadlineMs} ms`, { cause: trouble })
    }
  }
  return { repeats }
}
