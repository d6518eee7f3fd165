/**
 * What one delivery puts at an endpoint: files, in the order in which they are to arrive. Content first, then the
 * certificate and manifests, `.done` last. Bytes are the same each time they are read: deliveries resume.
 */
import type { Readable } from 'node:stream'

/** One finished file of a package. */
export interface PackageFile {
  /** Path below the delivery's folder, with `/`; says nothing about a patient. */
  readonly name: string
  readonly role: 'content' | 'certificate' | 'manifest' | 'done'
  /** In bytes, from 1: servers of FTPS refuse empty files. */
  readonly size: number
  /** Lower-case hex, over exactly the bytes that are sent. */
  readonly sha256: string
  /** Its bytes from `offset` on. */
  open(offset: number): Readable
}

/** One de-identified object that is ready on our disk, as packaging takes it. */
export interface PreparedObject {
  readonly studyInstanceUid: string
  readonly seriesInstanceUid: string
  readonly sopInstanceUid: string
  readonly sopClassUid: string
  readonly transferSyntaxUid: string
  readonly modality: string
  /** Place of its Part 10 file on our disk. */
  readonly path: string
  /** In bytes. */
  readonly size: number
  /** Lower-case hex, over the file. */
  readonly sha256: string
}
