/**
 * Instances that come in one request (STOW-RS): each is staged while the ones before it are being committed, and each
 * has its own outcome. What was stored stays stored, whatever becomes of the others.
 */
import { authorize } from '../../policy/authorize.ts'
import type { DicomJson } from '../dicom/json.ts'
import { jsonText } from '../dicom/json-read.ts'
import { type ErrorCode, GatewayError, isGatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { Origin } from '../store/origin.ts'
import type { BulkParts } from './bulk-parts.ts'
import { composeInstance } from './compose-instance.ts'
import type { Ingest, IngestResult } from './ingest.ts'
import { stageFile } from './upload.ts'

/** What became of one instance. */
export type StoreOutcome =
  | {
      readonly kind: IngestResult['kind']
      readonly sopClassUid: string
      readonly sopInstanceUid: string
      readonly studyInstanceUid: string
      readonly seriesInstanceUid: string
    }
  | {
      readonly kind: 'failed'
      readonly code: ErrorCode
      /** Where they are known. */
      readonly sopClassUid: string | undefined
      readonly sopInstanceUid: string | undefined
    }

/** A request's instances. */
export interface StoreSession {
  /** Takes a Part 10 file. @throws GatewayError BAD_REQUEST when `content` breaks off; other errors are outcomes */
  file(content: AsyncIterable<Uint8Array>): Promise<void>
  /** Takes a data set with its bulk data. @throws GatewayError BAD_REQUEST when it is no DICOM JSON */
  dataset(dataset: DicomJson, bulk: BulkParts): Promise<void>
  /** The outcomes, in the order in which the instances came, when all of them are known. */
  finish(): Promise<StoreOutcome[]>
}

/** Instances that wait for their commit at the same time. */
const maxWaiting = 32

/**
 * Begins a session for somebody; instances of other studies than `studyInstanceUid` are refused where it is given.
 *
 * @throws GatewayError FORBIDDEN
 */
export function openStoreSession(
  principal: Principal,
  options: {
    readonly ingest: Ingest
    readonly limitBytes: number
    readonly studyInstanceUid: string | undefined
  },
): StoreSession {
  authorize(principal, 'study.store')
  const { ingest, limitBytes, studyInstanceUid } = options
  const origin: Origin = {
    kind: 'rest',
    principal: principal.id,
    ...(principal.address !== undefined && { remoteAddress: principal.address }),
  }
  const expected = studyInstanceUid === undefined ? {} : { studyInstanceUid }
  const outcomes: Promise<StoreOutcome>[] = []
  const waiting = new Set<Promise<StoreOutcome>>()

  async function take(content: AsyncIterable<Uint8Array>, uids?: KnownUids): Promise<void> {
    while (waiting.size >= maxWaiting) await Promise.race(waiting)
    let outcome: Promise<StoreOutcome>
    try {
      const staged = await stageFile(ingest, content, { limitBytes })
      outcome = ingest.store(staged, origin, expected).then(stored, error => failed(error, uids))
    } catch (error) {
      if (isGatewayError(error, 'BAD_REQUEST')) throw error
      outcome = Promise.resolve(failed(error, uids))
    }
    outcomes.push(outcome)
    const done = outcome.finally(() => waiting.delete(done))
    done.catch(() => undefined)
    waiting.add(done)
  }

  return {
    file: content => take(content),
    async dataset(dataset, bulk) {
      const uids = {
        sopClassUid: jsonText(dataset, 0x00080016) || undefined,
        sopInstanceUid: jsonText(dataset, 0x00080018) || undefined,
      }
      try {
        await take(composeInstance(dataset, bulk).chunks(), uids)
      } catch (error) {
        outcomes.push(Promise.resolve(failed(error, uids)))
      }
    },
    finish: () => Promise.all(outcomes),
  }
}

interface KnownUids {
  readonly sopClassUid: string | undefined
  readonly sopInstanceUid: string | undefined
}

function stored({ kind, header }: IngestResult): StoreOutcome {
  const { sopClassUid, sopInstanceUid, studyInstanceUid, seriesInstanceUid } = header
  return { kind, sopClassUid, sopInstanceUid, studyInstanceUid, seriesInstanceUid }
}

/** Errors that are none of ours are the request's. */
function failed(error: unknown, uids?: KnownUids): StoreOutcome {
  if (!(error instanceof GatewayError)) throw error
  const { sopClassUid, sopInstanceUid } = error.context
  return {
    kind: 'failed',
    code: error.code,
    sopClassUid: uids?.sopClassUid ?? textOf(sopClassUid),
    sopInstanceUid: uids?.sopInstanceUid ?? textOf(sopInstanceUid),
  }
}

const textOf = (value: string | number | boolean | undefined): string | undefined =>
  typeof value === 'string' ? value : undefined
