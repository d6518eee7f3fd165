/** Writes a DICOMDIR, the directory of a File-set (PS3.10 §8.6, PS3.3 Annex F). */

import { GatewayError } from '../errors.ts'
import { charsetOf } from './charset.ts'
import type { Encoding } from './dataset.ts'
import type { DirectoryRecord, RecordLevel } from './directory-records.ts'
import { elementHeader, encodeDataset, fileMeta, itemHeader, writeElement } from './part10-writer.ts'
import { explicitVrLittleEndian } from './uid.ts'

/** Media Storage Directory Storage. */
const mediaStorageDirectory = '1.2.840.10008.1.3.10'

const depths: Readonly<Record<RecordLevel, number>> = { patient: 0, study: 1, series: 2, instance: 3 }
const encoding: Encoding = { explicitVr: true, bigEndian: false }
const itemHeaderBytes = 8
/** Of (0004,1400), (0004,1410) and (0004,1420), which come first in each record. */
const offsetsBytes = 12 + 10 + 12
const inUse = 0xffff
/** Offsets have 32 bits. */
const maxBytes = 0xffffffff

/** Collects records, each below the last one of the level above; some 300 bytes of memory for each instance. */
export class DicomDirectory {
  readonly #records: { readonly depth: number; readonly body: Uint8Array }[] = []

  add({ level, elements }: DirectoryRecord): void {
    this.#records.push({ depth: depths[level], body: encodeDataset(elements, explicitVrLittleEndian) })
  }

  /**
   * The file.
   *
   * @param fileSetId  (0004,1130), at most 16 characters of CS
   * @param sopInstanceUid  its own
   * @throws GatewayError TOO_LARGE when it would exceed what offsets can count
   */
  *file(fileSetId: string, sopInstanceUid: string): Generator<Uint8Array> {
    const meta = fileMeta({
      sopClassUid: mediaStorageDirectory,
      sopInstanceUid,
      transferSyntaxUid: explicitVrLittleEndian,
    })
    const head = (first: number, last: number): Uint8Array =>
      encodeDataset(
        [
          { tag: 0x00041130, value: fileSetId },
          { tag: 0x00041200, value: first },
          { tag: 0x00041202, value: last },
          { tag: 0x00041212, value: 0 },
        ],
        explicitVrLittleEndian,
      )
    const sequenceHeaderBytes = 12
    const start = meta.length + head(0, 0).length + sequenceHeaderBytes
    const offsets = this.#offsets(start)
    const end = offsets.at(-1) ?? start
    if (end > maxBytes) throw new GatewayError('TOO_LARGE', 'too many instances for one DICOMDIR')
    const last = this.#records.findLastIndex(({ depth }) => depth === 0)
    yield meta
    yield head(last < 0 ? 0 : start, offsets[last] ?? 0)
    yield elementHeader(0x00041220, 'SQ', end - start, encoding)
    const siblings = this.#siblings()
    for (const [index, { depth, body }] of this.#records.entries()) {
      const hasLower = (this.#records[index + 1]?.depth ?? 0) > depth
      yield itemHeader(0xfffee000, offsetsBytes + body.length, encoding)
      yield number(0x00041400, offsets[siblings[index] ?? -1] ?? 0)
      yield number(0x00041410, inUse)
      yield number(0x00041420, hasLower ? (offsets[index + 1] ?? 0) : 0)
      yield body
    }
  }

  /** Where each record begins in the file, and where the last one ends. */
  #offsets(start: number): number[] {
    let at = start
    const offsets = this.#records.map(({ body }) => {
      const begin = at
      at += itemHeaderBytes + offsetsBytes + body.length
      return begin
    })
    return [...offsets, at]
  }

  /** The place of the next record below the same one. */
  #siblings(): (number | undefined)[] {
    const next: (number | undefined)[] = []
    const siblings = new Array<number | undefined>(this.#records.length)
    for (let index = this.#records.length - 1; index >= 0; index--) {
      const depth = this.#records[index]?.depth ?? 0
      siblings[index] = next[depth]
      next.length = depth
      next[depth] = index
    }
    return siblings
  }
}

const ascii = charsetOf([])
const number = (tag: number, value: number): Uint8Array => writeElement({ tag, value }, encoding, ascii)
