/** What C-MOVE and C-GET have in common for their user: pending counts and the final account, PS3.4 §C.4.2, §C.4.3. */
import { stringsOf } from '../dicom/dataset.ts'
import type { NewElement } from '../dicom/part10-writer.ts'
import { readIdentifier } from './find-scu.ts'
import type { ScuResponse } from './scu-responses.ts'
import { isPending } from './status.ts'

/** What to retrieve. */
export interface RetrieveRequest {
  readonly sopClassUid: string
  /** Unique keys, Query/Retrieve Level among them. */
  readonly identifier: readonly NewElement[]
  /** 0 medium, 1 high, 2 low (PS3.7 §9.3.4.1). */
  readonly priority?: 0 | 1 | 2
  /** Ends the retrieval by C-CANCEL; what has come until then stays. */
  readonly cancel?: AbortSignal | undefined
}

/** Sub-operations so far; `remaining` where the node says so. */
export interface RetrieveCounts {
  readonly remaining: number | undefined
  readonly completed: number
  readonly failed: number
  readonly warning: number
}

/** How a retrieval ended: PS3.4 Table C.4-2. */
export interface RetrieveResult extends RetrieveCounts {
  readonly status: number
  /** Failed SOP Instance UID List (0008,0058), as far as the node gives it. */
  readonly failedSopInstanceUids: readonly string[]
}

/** How long a node may be silent while it retrieves: archives fetch from slow media and need not send pending responses. */
export const retrieveQuietMs = 600_000

/** Reads the responses of a retrieval to its end. */
export async function followRetrieve(
  responses: AsyncIterable<ScuResponse>,
  onProgress: (counts: RetrieveCounts) => void,
): Promise<RetrieveResult> {
  let counts: RetrieveCounts = { remaining: undefined, completed: 0, failed: 0, warning: 0 }
  let result: RetrieveResult = { ...counts, status: 0, failedSopInstanceUids: [] }
  for await (const { command, status, dataset, transferSyntaxUid } of responses) {
    const said = command.counts
    counts = {
      remaining: said.remaining,
      completed: said.completed ?? counts.completed,
      failed: said.failed ?? counts.failed,
      warning: said.warning ?? counts.warning,
    }
    if (isPending(status)) onProgress(counts)
    else result = { ...counts, status, failedSopInstanceUids: await failedOf(dataset, transferSyntaxUid) }
  }
  return result
}

async function failedOf(dataset: Uint8Array | undefined, transferSyntaxUid: string): Promise<string[]> {
  return dataset ? stringsOf(await readIdentifier(dataset, transferSyntaxUid), 0x00080058) : []
}
