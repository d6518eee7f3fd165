/**
 * Puts what arrives by C-STORE into ingest: deterministic preamble and file meta information
 * (PS3.10 §7.1), then the data set's bytes as received.
 */
import { fileMeta } from '../dicom/part10-writer.ts'
import type { RetrievePurpose } from '../services/dicom-node.ts'
import type { Ingest } from '../services/ingest.ts'
import { headBytes } from '../store/staging.ts'
import type { StoreRequest, StoreService } from './scp.ts'
import { outcomeOfIngest } from './status.ts'

/**
 * The way of C-STORE into the gateway.
 *
 * @param purposeOf  for what a request's instance was fetched, where we asked for it
 */
export function ingestStore(
  ingest: Ingest,
  purposeOf: (request: StoreRequest) => RetrievePurpose | undefined = () => undefined,
): StoreService {
  return {
    async begin(request) {
      const { sopClassUid, sopInstanceUid, transferSyntaxUid, association } = request
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
          const purpose = purposeOf(request)
          const origin = {
            kind: 'dimse',
            principal: callingAe,
            callingAe,
            calledAe,
            remoteAddress,
            ...(purpose && { purpose }),
          } as const
          const { kind } = await ingest.store(await staged.finish(), origin, expected)
          return outcomeOfIngest(kind)
        },
        discard: () => staged.discard(),
      }
    },
  }
}
