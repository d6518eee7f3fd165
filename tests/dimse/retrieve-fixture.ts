/** A store with instances, and our SCP with C-MOVE and C-GET in front of it. */

import { createReadStream } from 'node:fs'
import type { TestContext } from 'node:test'
import type { Db } from '../../gateway/db/db.ts'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { findLayout } from '../../gateway/dicom/part10-layout.ts'
import { findService } from '../../gateway/dimse/find.ts'
import { getService } from '../../gateway/dimse/get.ts'
import { ingestStore } from '../../gateway/dimse/ingest-sink.ts'
import { moveService } from '../../gateway/dimse/move.ts'
import type { Converter } from '../../gateway/dimse/outgoing.ts'
import type { Scp, ScpOptions } from '../../gateway/dimse/scp.ts'
import { openLog } from '../../gateway/log.ts'
import { type Ingest, openIngest } from '../../gateway/services/ingest.ts'
import { openQuery } from '../../gateway/services/query.ts'
import { openRetrieve, type Retrieve } from '../../gateway/services/retrieve.ts'
import type { Blobs } from '../../gateway/store/blobs.ts'
import { temporaryDir, testBlobs } from '../support/blobs.ts'
import { testDatabase } from '../support/database.ts'
import { registered, startScp } from './fixture.ts'

export interface Archive {
  readonly db: Db
  readonly blobs: Blobs
  readonly ingest: Ingest
  readonly retrieve: Retrieve
  readonly scp: Scp
  readonly port: number
  /** Who may be moved to, by AE title; may be changed. */
  readonly destinations: Map<string, number>
  /** Stores Part 10 files. */
  add(files: Iterable<Uint8Array>): Promise<void>
  /** Stores a Part 10 file that is too large for memory. */
  addFile(path: string): Promise<void>
}

/** Starts it on a free port; closed when the test ends. */
export async function startArchive(
  t: TestContext,
  options: { readonly converter?: Converter; readonly scp?: Partial<ScpOptions> } = {},
): Promise<Archive> {
  const db = await testDatabase(t)
  const blobs = await testBlobs(t, { dir: await temporaryDir(t) })
  const ingest = openIngest({ db, blobs, dueAt: () => undefined })
  const retrieve = openRetrieve({ db, blobs })
  const destinations = new Map<string, number>()
  const { converter } = options
  const { scp, port } = await startScp(t, {
    store: ingestStore(ingest),
    identifyCaller: async caller => {
      const { callingAe } = caller
      if (callingAe === 'STRANGER') return { kind: 'unknown' }
      // GETONLY may not store, and receives all the same.
      return await registered(callingAe, callingAe === 'GETONLY' ? { permissions: ['get'] } : {})(caller)
    },
    services: [
      findService({ query: openQuery({ db }), aeTitle: 'HANSE' }),
      getService({ retrieve, converter: () => converter }),
      moveService({
        retrieve,
        converter: () => converter,
        destination: aeTitle => {
          const at = destinations.get(aeTitle)
          return at === undefined
            ? undefined
            : { host: '127.0.0.1', port: at, callingAe: 'HANSE', calledAe: aeTitle, timeoutMs: 60_000 }
        },
        log: openLog({ level: 'silent' }),
      }),
    ],
    ...options.scp,
  })
  return {
    db,
    blobs,
    ingest,
    retrieve,
    scp,
    port,
    destinations,
    async add(files) {
      const origin = { kind: 'rest', principal: 'test' } as const
      const store = async (bytes: Uint8Array): Promise<void> => {
        const { datasetOffset } = await findLayout(bufferSource(bytes))
        const staged = await ingest.stage()
        await staged.append([bytes.subarray(0, datasetOffset)])
        staged.markDataset()
        await staged.append([bytes.subarray(datasetOffset)])
        await ingest.store(await staged.finish(), origin)
      }
      await Promise.all([...files].map(store))
    },
    async addFile(path) {
      const origin = { kind: 'rest', principal: 'test' } as const
      const staged = await blobs.stageFrom(createReadStream(path, { highWaterMark: 1_048_576 }))
      await ingest.store(staged, origin)
    },
  }
}
