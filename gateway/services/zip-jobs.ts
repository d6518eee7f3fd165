/** Archives that are made by a job, to be fetched from it when it is done. */

import { open } from 'node:fs/promises'
import { authorize } from '../../policy/authorize.ts'
import type { Principal } from '../principal.ts'
import { storageError } from '../store/io-error.ts'
import type { BackgroundJobs } from './background-jobs.ts'
import type { ZipArchive, ZipOptions } from './zip-archive.ts'

/** What the jobs need. */
export interface ZipJobs {
  readonly jobs: Pick<BackgroundJobs, 'submit'>
  /** @throws GatewayError STORAGE_FULL */
  readonly assertRoom: (bytesExpected: number) => Promise<void>
}

/** The output of such a job. */
export const zipOutput = 'archive'

const gatherBytes = 1_048_576

/**
 * Plans the job.
 *
 * @param filename  of the file that clients get
 * @returns its id
 * @throws GatewayError TOO_MANY_REQUESTS
 */
export async function submitZip(
  { jobs, assertRoom }: ZipJobs,
  principal: Principal,
  {
    archive,
    layout,
    priority,
    filename,
  }: {
    readonly archive: ZipArchive
    readonly layout: ZipOptions['layout']
    readonly priority: number
    readonly filename: string
  },
): Promise<string> {
  authorize(principal, 'study.read')
  const { instanceCount, sizeBytes } = archive
  const content = {
    Description: 'REST API',
    InstancesCount: instanceCount,
    UncompressedSize: String(sizeBytes),
    UncompressedSizeMB: Math.floor(sizeBytes / 1024 ** 2),
  }
  const request = { type: layout === 'folders' ? 'Archive' : 'Media', description: 'REST API', priority, content }
  return await jobs.submit(principal, request, async (progress, signal, place) => {
    await assertRoom(sizeBytes)
    const written = await writeFile(await place(zipOutput), archive.write(signal), bytes => progress(bytes, sizeBytes))
    return {
      content: { ...content, ArchiveSize: String(written), ArchiveSizeMB: Math.floor(written / 1024 ** 2) },
      outputs: { [zipOutput]: { type: 'application/zip', filename } },
    }
  })
}

/** Chunks are valid until the next one only, so each is on its way to the disk before that. */
async function writeFile(
  path: string,
  chunks: AsyncIterable<Uint8Array>,
  onWritten: (bytes: number) => void,
): Promise<number> {
  let written = 0
  let told = 0
  await using file = await open(path, 'w', 0o600)
  for await (const chunk of chunks) {
    try {
      await file.writeFile(chunk)
    } catch (error) {
      throw storageError(error, 'writing an archive')
    }
    written += chunk.length
    if (written - told >= gatherBytes) {
      told = written
      onWritten(written)
    }
  }
  return written
}
