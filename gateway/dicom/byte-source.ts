/** Random access to bytes, in memory or in a file, so that readers need not hold an object. */
import type { FileHandle } from 'node:fs/promises'
import { GatewayError } from '../errors.ts'

/** Bytes that can be read by range. */
export interface ByteSource {
  readonly sizeBytes: number
  /** The bytes from `offset` on; fewer than `length` only at the end. The caller must not change them. */
  read(offset: number, length: number): Promise<Uint8Array>
}

/** Bytes in memory; `read` returns views, not copies. */
export function bufferSource(bytes: Uint8Array): ByteSource {
  return {
    sizeBytes: bytes.length,
    read: (offset, length) => Promise.resolve(bytes.subarray(offset, offset + length)),
  }
}

/**
 * An open file, read by position. The handle stays the caller's to close.
 *
 * @throws GatewayError STORAGE_IO when a read fails
 */
export function fileSource(file: Pick<FileHandle, 'read'>, sizeBytes: number): ByteSource {
  return {
    sizeBytes,
    async read(offset, length) {
      const wanted = Math.max(0, Math.min(length, sizeBytes - offset))
      const buffer = Buffer.allocUnsafeSlow(wanted)
      let filled = 0
      try {
        while (filled < wanted) {
          const { bytesRead } = await file.read(buffer, filled, wanted - filled, offset + filled)
          if (bytesRead === 0) break
          filled += bytesRead
        }
      } catch (cause) {
        throw new GatewayError('STORAGE_IO', 'cannot read file', { cause, context: { offset, length } })
      }
      return buffer.subarray(0, filled)
    },
  }
}
