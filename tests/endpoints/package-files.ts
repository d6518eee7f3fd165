/** Files of packages as tests make them. */
import { createCipheriv, createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import type { PackageFile } from '../../endpoints/package.ts'

/** Bytes that do not compress, the same for the same seed. */
export const seededBytes = (seed: number, length: number): Buffer =>
  createCipheriv('aes-128-ctr', Buffer.alloc(16, seed), Buffer.alloc(16)).update(Buffer.alloc(length))

/** A file whose bytes are in memory. */
export function packageFile(name: string, bytes: Buffer, role: PackageFile['role'] = 'content'): PackageFile {
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  const chunks = function* (from: number): Generator<Buffer> {
    for (let at = from; at < bytes.length; at += 65_536) yield bytes.subarray(at, at + 65_536)
  }
  return {
    name,
    role,
    size: bytes.length,
    sha256,
    open: offset => Readable.from(chunks(offset), { objectMode: false }),
  }
}
