/**
 * Puts what arrives by C-STORE into ingest: deterministic preamble and file meta information
 * (PS3.10 §7.1), then the data set's bytes as received.
 */
import { fileMeta } from '../dicom/part10-writer.ts'
import type { Ingest } from '../services/ingest.ts'
import { headBytes } from '../store/staging.ts'
import type { StoreService } from './scp.ts'
import { outcomeOfIngest } from './status.ts'

/** The storage SCP's way into the gateway. */
export function ingestStore(ingest: Ingest): StoreService {
  return {
    async begin({ sopClassUid, sopInstanceUid, transferSyntaxUid, association }) {
      const expected = { sopClassUid, sopInstanceUid, transferSyntaxUid }
      const staged = await ingest.stage()
      try {
        await staged.append([fileMeta(expected)])
        staged.markDataset()
      } catch (error) {
        await staged.discard()
        throw error
      }
      return {
        keptBytes: headBytes,
        write: chunks => staged.append(chunks),
        async finish() {
          const { callingAe, calledAe, remoteAddress } = association
          const origin = { kind: 'dimse', principal: callingAe, callingAe, calledAe, remoteAddress } as const
          const { kind } = await ingest.store(await staged.finish(), origin, expected)
          return outcomeOfIngest(kind)
        },
        discard: () => staged.discard(),
      }
    },
  }
}
