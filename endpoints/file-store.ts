/**
 * A foreign place that files are put into: an SFTP or FTP server, a bucket, a folder. One small interface, so that
 * delivery is written once; `FileAbilities` says what a place cannot do, such as a drop box that nobody may list.
 */
import type { Readable } from 'node:stream'

/** What a place can do; found out by the endpoint test and set for the endpoint. */
export interface FileAbilities {
  /** An interrupted upload can go on where it was cut. */
  readonly resume: boolean
  /** A finished file can be given its final name. Where not, it is written under it, and `.done` says when it is whole. */
  readonly rename: boolean
  /** Names and sizes can be read. Where not, a delivery is verified by what the server answered only. */
  readonly list: boolean
  readonly remove: boolean
}

export interface FileEntry {
  /** Last part of the path. */
  readonly name: string
  readonly kind: 'file' | 'folder' | 'other'
  /** In bytes; 0 for folders. */
  readonly size: number
  readonly modified: Date | undefined
}

/** Paths are relative to the endpoint's root, with `/` between names; never absolute, never with `..`. */
export interface FileStore {
  readonly can: FileAbilities
  /** Undefined when there is none. @throws GatewayError ENDPOINT_UNSUPPORTED where nothing can be listed */
  stat(path: string, signal: AbortSignal): Promise<FileEntry | undefined>
  /** @throws GatewayError ENDPOINT_UNSUPPORTED where nothing can be listed */
  list(path: string, signal: AbortSignal): Promise<readonly FileEntry[]>
  /** Makes a folder and what is above it; harmless when it is there. */
  makeFolder(path: string, signal: AbortSignal): Promise<void>
  /**
   * Writes a file; resolves when the server has said that it has all of it.
   *
   * @param source   its bytes from `offset` on
   * @param offset   bytes that are there already and stay; 0 replaces what is there
   * @param onSent   called with the bytes of each part put on the line
   */
  put(
    path: string,
    source: Readable,
    options: { readonly offset: number; readonly size: number; readonly onSent: (bytes: number) => void },
    signal: AbortSignal,
  ): Promise<void>
  /** Bytes of a file from `offset` on. */
  get(path: string, offset: number, signal: AbortSignal): Promise<Readable>
  /** Replaces what is at `to`. */
  rename(from: string, to: string, signal: AbortSignal): Promise<void>
  /** Harmless when there is none. */
  remove(path: string, signal: AbortSignal): Promise<void>
  /** Free bytes, where the server tells. */
  freeBytes(signal: AbortSignal): Promise<number | undefined>
  /** SHA-256 of a file as the server counts it, where it can. */
  sha256(path: string, signal: AbortSignal): Promise<string | undefined>
  close(): Promise<void>
}
