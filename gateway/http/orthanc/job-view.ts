/** Jobs as Orthanc shows them. */
import type { Job } from '../../services/jobs-rows.ts'
import type { ModalityJob } from '../../services/modality-jobs.ts'

/** `GET /jobs/{id}`; times are UTC, `20261123T043821.254000`. */
export interface JobView {
  readonly CompletionTime?: string
  readonly Content: Readonly<Record<string, unknown>>
  readonly CreationTime: string
  /** Seconds. */
  readonly EffectiveRuntime: number
  readonly ErrorCode: number
  readonly ErrorDescription: string
  readonly ErrorDetails: string
  readonly EstimatedTimeOfArrival?: string
  readonly ID: string
  readonly Priority: number
  readonly Progress: number
  readonly State: 'Pending' | 'Running' | 'Success' | 'Failure' | 'Paused' | 'Retry'
  readonly Timestamp: string
  readonly Type: string
}

const states = {
  pending: 'Pending',
  running: 'Running',
  paused: 'Paused',
  success: 'Success',
  failure: 'Failure',
} as const

/** One of the gateway's own jobs. */
export function ownJobView(job: Job, now: Date): JobView {
  const { state, progress, runtimeMs } = job
  const isUnderWay = state === 'running' && progress > 0
  const remainingMs = isUnderWay ? (runtimeMs * (100 - progress)) / progress : 0
  return {
    ...(job.endedAt && { CompletionTime: jobTime(job.endedAt) }),
    Content: job.content,
    CreationTime: jobTime(job.createdAt),
    EffectiveRuntime: runtimeMs / 1000,
    ...errorOf(job.errorCode, job.error),
    ...(isUnderWay && { EstimatedTimeOfArrival: jobTime(new Date(now.getTime() + remainingMs)) }),
    ID: job.id,
    Priority: job.priority,
    Progress: progress,
    State: states[state],
    Timestamp: jobTime(now),
    Type: job.type,
  }
}

const modalityStates = {
  waiting: 'Pending',
  running: 'Running',
  done: 'Success',
  failed: 'Failure',
  cancelled: 'Failure',
} as const

/** Work with a registered modality: a retrieval, or a send. */
export function modalityJobView(job: ModalityJob, now: Date): JobView {
  const { state, completed, failed, warning, remaining, attempts } = job
  const isEnded = state === 'done' || state === 'failed' || state === 'cancelled'
  const isAgain = state === 'waiting' && attempts > 0
  const done = completed + failed + warning
  const total = done + (remaining ?? 0)
  return {
    ...(isEnded && { CompletionTime: jobTime(job.updatedAt) }),
    Content: {
      Description: 'REST API',
      FailedInstancesCount: failed,
      InstancesCount: total,
      RemoteAet: job.modality,
      ...(job.kind === 'retrieve' && { Level: job.keys.level }),
    },
    CreationTime: jobTime(job.createdAt),
    EffectiveRuntime: (isEnded ? job.updatedAt.getTime() - job.createdAt.getTime() : 0) / 1000,
    ...errorOf(state === 'cancelled' ? 'CANCELLED' : job.errorCode, job.error),
    ID: job.id,
    Priority: 0,
    Progress: state === 'done' ? 100 : total > 0 ? Math.min(99, Math.floor((100 * done) / total)) : 0,
    State: isAgain ? 'Retry' : modalityStates[state],
    Timestamp: jobTime(now),
    Type: job.kind === 'retrieve' ? 'DicomMoveScu' : 'DicomModalityStore',
  }
}

const jobTime = (at: Date): string =>
  at
    .toISOString()
    .replace(/[-:]/g, '')
    .replace(/\.(\d{3})Z$/, '.$1000')

const internal = [-1, 'Internal error'] as const

/** Orthanc's numbers and words for what our codes say. */
const errors: Readonly<Record<string, readonly [number, string]>> = {
  CANCELLED: [37, 'This job was canceled'],
  BAD_REQUEST: [8, 'Bad request'],
  NOT_FOUND: [17, 'Unknown resource'],
  DICOM_UNREADABLE: [15, 'Bad file format'],
  DICOM_MISMATCH: [15, 'Bad file format'],
  TRANSCODE_UNSUPPORTED: [2, 'Not implemented yet'],
  PIXELS_UNREADABLE: [15, 'Bad file format'],
  STORAGE_FULL: [18, 'The file storage is full'],
  STORAGE_IO: [13, 'Cannot write to file'],
  STORAGE_CORRUPT: [20, 'The file is corrupted'],
  DATABASE_UNAVAILABLE: [36, 'The database is currently not available (probably a transient situation)'],
  ASSOCIATION_REFUSED: [9, 'Error in the network protocol'],
  REMOTE_STATUS: [9, 'Error in the network protocol'],
  PEER_UNREACHABLE: [9, 'Error in the network protocol'],
  PEER_PROTOCOL: [9, 'Error in the network protocol'],
}

function errorOf(code: string | null, message: string | null) {
  if (code === null) return { ErrorCode: 0, ErrorDescription: 'Success', ErrorDetails: '' }
  const [ErrorCode, ErrorDescription] = errors[code] ?? internal
  return { ErrorCode, ErrorDescription, ErrorDetails: code === 'CANCELLED' ? '' : (message ?? '') }
}
