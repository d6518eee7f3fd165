/** Opens stored bytes for somebody: each time is an audit event, committed before the first byte leaves. */

import { authorize } from '../../policy/authorize.ts'
import type { Db } from '../db/db.ts'
import type { ByteSource } from '../dicom/byte-source.ts'
import { findLayout } from '../dicom/part10-layout.ts'
import { fileMeta } from '../dicom/part10-writer.ts'
import type { Principal } from '../principal.ts'
import type { Blobs, OpenBlob } from '../store/blobs.ts'
import { FileCache, readAtOnceBytes } from './file-cache.ts'
import { InstanceAccess } from './instance-access.ts'
import { ReadingSessions } from './reading-sessions.ts'
import { type PlannedInstance, planRetrieve, type RetrieveKeys, type RetrievePlan } from './retrieve-plan.ts'

/** An instance's Part 10 file, open; the caller closes `blob`. */
export interface OpenInstance {
  readonly sopInstanceUid: string
  readonly fileSha256: Buffer
  readonly blob: OpenBlob
}

/** A source that can read into memory of the caller's. */
export interface ReusingSource extends ByteSource {
  /** As a byte source; a view of `into` where it is given and was used. */
  read(offset: number, length: number, into?: Buffer): Promise<Uint8Array>
}

/** An instance's data set inside its file, open; the caller closes it. */
export interface OpenDataset {
  readonly source: ReusingSource
  /** Where the data set begins, after preamble and file meta information. */
  readonly datasetOffset: number
  close(): Promise<void>
  /** Nobody reads any more what was read of `source`: its memory is used again after `close`. */
  onFlushed(): void
}

/** Opens stored instances. */
export interface Retrieve {
  /** @throws GatewayError NOT_FOUND, STORAGE_CORRUPT */
  openInstance(principal: Principal, orthancId: string): Promise<OpenInstance>
  /** Finds what the keys name. Nothing may leave before the plan's `begin`. @throws GatewayError DICOM_MISMATCH */
  plan(keys: RetrieveKeys): Promise<RetrievePlan>
  /** Opens an instance of a plan that has begun. @throws GatewayError STORAGE_CORRUPT, STORAGE_IO, DICOM_UNREADABLE */
  openDataset(instance: PlannedInstance): Promise<OpenDataset>
}

export function openRetrieve(options: {
  readonly db: Db
  readonly blobs: Blobs
  /** Issuers of patient IDs that are the site's own: `''` is always. */
  readonly ownIssuers?: ReadonlySet<string>
}): Retrieve {
  const { db, blobs, ownIssuers = new Set<string>() } = options
  const heads = new HeadBuffers()
  const files = new FileCache()
  const sessions = new ReadingSessions()
  const access = new InstanceAccess(db, sessions)
  return {
    plan: keys => planRetrieve(db, keys, ownIssuers, sessions),

    async openDataset(instance) {
      const blob = await blobs.open(instance.fileSha256, instance.sizeBytes)
      const buffer = heads.take()
      try {
        const source = withHead(blob, await blob.read(0, Math.min(readAtOnceBytes, blob.sizeBytes), buffer))
        const datasetOffset = await datasetOffsetOf(instance, source)
        let uses = 2
        const release = (): void => {
          uses -= 1
          if (uses === 0) heads.give(buffer)
        }
        return {
          source,
          datasetOffset,
          onFlushed: release,
          async close() {
            await blob.close()
            release()
          },
        }
      } catch (error) {
        await blob.close()
        throw error
      }
    },

    async openInstance(principal, orthancId) {
      authorize(principal, 'study.read')
      const { sopInstanceUid, fileSha256, sizeBytes } = await access.open(principal, orthancId)
      const file = files.get(fileSha256)
      if (file) return { sopInstanceUid, fileSha256, blob: inMemory(file) }
      const blob = await blobs.open(fileSha256, sizeBytes)
      const isSmall = sizeBytes <= readAtOnceBytes
      return { sopInstanceUid, fileSha256, blob: isSmall ? readAtOnce(blob, fileSha256, { heads, files }) : blob }
    },
  }
}

/** Kept for later: two of each of eight retrievals at work. */
const maxFreeHeads = 16

/**
 * Memory for heads, used again: a new megabyte for each instance is paid with page faults and garbage
 * collection, which is most of the CPU time of sending a CT image. What is not given back is collected.
 */
class HeadBuffers {
  readonly #free: Buffer[] = []

  take(): Buffer {
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(readAtOnceBytes)
  }

  give(buffer: Buffer): void {
    if (this.#free.length < maxFreeHeads) this.#free.push(buffer)
  }
}

/** A small file, read as a whole when the first of it is read. What was read is valid until it is closed. */
function readAtOnce(
  blob: OpenBlob,
  sha256: Buffer,
  { heads, files }: { readonly heads: HeadBuffers; readonly files: FileCache },
): OpenBlob {
  let buffer: Buffer | undefined
  let whole: Promise<Uint8Array> | undefined
  const readWhole = async (): Promise<Uint8Array> => {
    if (files.wants(sha256, blob.sizeBytes)) {
      const file = await blob.read(0, blob.sizeBytes, Buffer.allocUnsafeSlow(blob.sizeBytes))
      files.add(sha256, file)
      return file
    }
    buffer = heads.take()
    return await blob.read(0, blob.sizeBytes, buffer)
  }
  return {
    sizeBytes: blob.sizeBytes,
    async read(offset, length) {
      whole ??= readWhole()
      return (await whole).subarray(offset, offset + length)
    },
    async close() {
      await blob.close() // when no read is running any more
      if (buffer) heads.give(buffer)
      buffer = undefined
    },
  }
}

const inMemory = (file: Uint8Array): OpenBlob => ({
  sizeBytes: file.length,
  read: async (offset, length) => file.subarray(offset, offset + length),
  close: async () => {},
})

/** What we wrote ourselves begins with known bytes; other files are looked into. */
async function datasetOffsetOf(instance: PlannedInstance, source: ByteSource): Promise<number> {
  const ours = fileMeta(instance)
  if (Buffer.compare(await source.read(0, ours.length), ours) === 0) return ours.length
  const { datasetOffset } = await findLayout(source)
  return datasetOffset
}

/** Serves reads inside of the head from memory. */
function withHead(blob: OpenBlob, head: Uint8Array): ReusingSource {
  return {
    sizeBytes: blob.sizeBytes,
    read: (offset, length, into) =>
      offset + length <= head.length || head.length === blob.sizeBytes
        ? Promise.resolve(head.subarray(offset, offset + length))
        : blob.read(offset, length, into),
  }
}
