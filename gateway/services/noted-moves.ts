/** Retrievals by C-MOVE among the jobs, as Orthanc's clients look for them there: noted when they have ended. */
import type { BackgroundJobs } from './background-jobs.ts'

/** A retrieval that has ended. */
export interface NotedMove {
  /** AE title of who asked, and its address. */
  readonly requestor: string
  readonly address: string
  /** AE title of the receiver. */
  readonly destination: string
  readonly messageId: number
  readonly instanceCount: number
  readonly failedCount: number
}

/** Notes it. */
export async function noteMove(
  jobs: Pick<BackgroundJobs, 'note'>,
  { requestor, address, destination, messageId, instanceCount, failedCount }: NotedMove,
  aeTitle: string,
): Promise<void> {
  const content = {
    FailedInstancesCount: failedCount,
    InstancesCount: instanceCount,
    LocalAet: aeTitle,
    MoveOriginatorAET: requestor,
    MoveOriginatorID: messageId,
    RemoteAet: destination,
  }
  const failure = { code: 'REMOTE_STATUS', message: `the receiver did not take ${failedCount} of ${instanceCount}` }
  await jobs.note(
    { id: requestor, address },
    { type: 'DicomModalityStore', description: 'C-MOVE', content },
    failedCount === 0 ? undefined : failure,
  )
}
