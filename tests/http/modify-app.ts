/** Everything that modifies instances over a real store, and a real Orthanc with the same files beside it. */

import assert from 'node:assert/strict'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { stringsOf } from '../../gateway/dicom/dataset.ts'
import { type Part10, readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { tagOf } from '../../gateway/dicom/tag.ts'
import { readPrivateNumbers } from '../../gateway/http/orthanc/private-numbers.ts'
import { orthancRoutes } from '../../gateway/http/orthanc/routes.ts'
import { openPixels } from '../../gateway/pixels/pixels.ts'
import { openChangeFeed } from '../../gateway/services/change-feed.ts'
import { openDicomCreation } from '../../gateway/services/create-dicom.ts'
import { openDeidentify } from '../../gateway/services/deidentify.ts'
import { openExportLog } from '../../gateway/services/export-log.ts'
import { openIngest } from '../../gateway/services/ingest.ts'
import { openModifications } from '../../gateway/services/modify.ts'
import { openAnonymizations } from '../../gateway/services/modify-anonymize.ts'
import { openRewriteJobs } from '../../gateway/services/modify-jobs.ts'
import { openStudyChanges } from '../../gateway/services/modify-studies.ts'
import { openQuery } from '../../gateway/services/query.ts'
import { openReceptionTerms } from '../../gateway/services/reception-terms.ts'
import { openRemoval } from '../../gateway/services/removal.ts'
import { openResourceAttachments } from '../../gateway/services/resource-attachments.ts'
import { openResourceDatasets } from '../../gateway/services/resource-datasets.ts'
import { openResourceFind } from '../../gateway/services/resource-find.ts'
import { openResourceMetadata } from '../../gateway/services/resource-metadata.ts'
import { openReconstruction } from '../../gateway/services/resource-reconstruct.ts'
import { openRetrieve } from '../../gateway/services/retrieve.ts'
import { testBlobs } from '../support/blobs.ts'
import { onEnd } from '../support/cleanup.ts'
import { type OrthancPeer, startOrthanc } from '../support/orthanc.ts'
import { type JobApp, jobApp, quietLog } from './job-app.ts'

export interface ModifyApp extends JobApp {
  /** `POST /instances`; the instance's id. */
  upload(bytes: Uint8Array): Promise<string>
  /** The bytes of an answer, and its status. */
  bytes(method: 'GET' | 'POST', url: string, body?: unknown): Promise<{ status: number; bytes: Buffer }>
}

/** The gateway's side. */
export async function modifyApp(t: TestContext): Promise<ModifyApp> {
  const app = await jobApp(t, {
    routes: async (scope, { db, dir, jobs }) => {
      const blobs = await testBlobs(t, { dir })
      const ingest = openIngest({ db, blobs, dueAt: () => undefined })
      const spoolDir = join(dir, 'spool')
      const pixels = await openPixels({ dir: spoolDir })
      const deidentify = openDeidentify({ threads: 1 })
      onEnd(t, async () => {
        await ingest.close()
        await pixels.close()
        await deidentify.close()
      })
      const limitBytes = 1024 ** 3
      const removal = openRemoval({ db })
      const running = { db, blobs, ingest, pixels, removal, log: quietLog, limitBytes }
      const parts = { ...running, rewrites: openRewriteJobs({ ...running, jobs }) }
      orthancRoutes(scope, {
        receptionTerms: openReceptionTerms({ db }),
        privateNumbers: readPrivateNumbers({ '0009,1001': { name: 'AcmeNote' } }),
        db,
        retrieve: openRetrieve({ db, blobs }),
        datasets: openResourceDatasets({ db, blobs }),
        changes: openChangeFeed({ db, log: quietLog, background: false }),
        exportLog: openExportLog({ db, isKept: true }),
        removal,
        modify: {
          jobs,
          log: quietLog,
          modifications: openModifications(parts),
          anonymizations: openAnonymizations({ ...parts, deidentify, spoolDir }),
          studyChanges: openStudyChanges(parts),
          creation: openDicomCreation(parts),
        },
        reconstruction: openReconstruction({ db, blobs }),
        find: openResourceFind({ db, query: openQuery({ db }) }),
        metadata: openResourceMetadata({ db, requireSeen: false }),
        attachments: openResourceAttachments({ db, blobs, limitBytes, requireSeen: false }),
        upload: { db, ingest, limitBytes, concurrency: 4 },
        system: () => ({ name: 'Test', aeTitle: 'HANSE', dicomPort: 4242, httpPort: 8042, version: '0' }),
      })
      jobs.start()
    },
  })
  const bytes = async (method: 'GET' | 'POST', url: string, body?: unknown) => {
    const answer = await app.app.inject({
      method,
      url,
      headers: { host: 'localhost' },
      ...(body !== undefined && { payload: Buffer.isBuffer(body) ? body : JSON.stringify(body) }),
    })
    return { status: answer.statusCode, bytes: answer.rawPayload }
  }
  return {
    ...app,
    bytes,
    async upload(file) {
      const answer = await bytes('POST', '/instances', Buffer.from(file))
      assert.equal(answer.status, 200, answer.bytes.toString())
      return idOf(JSON.parse(answer.bytes.toString()))
    },
  }
}

/** The ID of an answer. */
export function idOf(answer: unknown): string {
  assert.ok(isObject(answer))
  const id = answer['ID']
  assert.ok(typeof id === 'string')
  return id
}

/** An Orthanc that has the same files. */
export interface OrthancBeside {
  readonly peer: OrthancPeer
  bytes(method: 'GET' | 'POST', url: string, body?: unknown): Promise<{ status: number; bytes: Buffer }>
}

export async function orthancWith(t: TestContext, files: readonly Uint8Array[]): Promise<OrthancBeside> {
  const peer = await startOrthanc(t, {})
  const bytes = async (method: 'GET' | 'POST', url: string, body?: unknown) => {
    const answer = await fetch(`${peer.url}${url}`, {
      method,
      ...(body !== undefined && { body: body instanceof Uint8Array ? Buffer.from(body) : JSON.stringify(body) }),
    })
    return { status: answer.status, bytes: Buffer.from(await answer.arrayBuffer()) }
  }
  for (const file of files) assert.equal((await bytes('POST', '/instances', file)).status, 200)
  return { peer, bytes }
}

/** A file as it is read. */
export const read = async (bytes: Uint8Array): Promise<Part10> => await readPart10(bufferSource(bytes))

/** The texts of an attribute of a file. */
export async function textsOf(bytes: Uint8Array, keyword: string): Promise<string[]> {
  return stringsOf((await read(bytes)).dataset, tagOf(keyword) ?? 0)
}
