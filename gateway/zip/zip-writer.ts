/**
 * The records of a ZIP file (PKWARE APPNOTE 6.3.10 §4.3), with ZIP64 where sizes, offsets or counts need it. Sizes and
 * CRC-32 stand before the data wherever they are known, so that readers may read forward; else they follow the data.
 */
import { GatewayError } from '../errors.ts'

/** How a file's bytes are written (§4.4.5). */
export type ZipMethod = 'stored' | 'deflated'

/** A file whose bytes are known before they are written. */
export interface ZipEntry {
  /** Path with `/`, at most 65,535 bytes of UTF-8. */
  readonly name: string
  readonly method: ZipMethod
  readonly sizeBytes: number
  /** As written, after compression. */
  readonly compressedBytes: number
  readonly crc32: number
}

/** Writes the records; the caller writes them and the bytes of the files between, in this order. */
export class ZipWriter {
  readonly #dosTime: number
  readonly #directory: Buffer[] = []
  #directoryBytes = 0
  #offset = 0

  /** @param modifiedAt  the time of all files, told in the machine's time zone, as ZIP does */
  constructor(modifiedAt: Date) {
    this.#dosTime = dosTime(modifiedAt)
  }

  /** The header of a file; its `compressedBytes` bytes must follow. */
  entry(entry: ZipEntry): Uint8Array {
    const header = this.#localHeader(entry, 'known')
    this.#add(entry, 0)
    this.#offset += header.length + entry.compressedBytes
    return header
  }

  /** The header of a file that is deflated while it is written; its bytes and then `ending` must follow. */
  deflating(
    name: string,
    sizeBytes: number,
  ): { header: Uint8Array; ending(crc32: number, compressed: number): Buffer } {
    const begin = { name, method: 'deflated', sizeBytes, compressedBytes: sizeBytes, crc32: 0 } as const
    const header = this.#localHeader(begin, 'follow')
    return {
      header,
      ending: (crc32, compressedBytes) => {
        const entry = { ...begin, crc32, compressedBytes }
        const descriptor = writeDescriptor(entry, isLong(begin) ? 8 : 4)
        this.#add(entry, sizesFollow)
        this.#offset += header.length + compressedBytes + descriptor.length
        return descriptor
      },
    }
  }

  /** The central directory, which ends the file. */
  *end(): Generator<Uint8Array> {
    yield* this.#directory
    const count = this.#directory.length
    const [size, offset] = [this.#directoryBytes, this.#offset]
    if (count >= 0xffff || size >= limit || offset >= limit) yield zip64End(count, size, offset)
    yield record(
      [4, 0x06054b50],
      [2, 0],
      [2, 0],
      [2, Math.min(count, 0xffff)],
      [2, Math.min(count, 0xffff)],
      [4, Math.min(size, limit)],
      [4, Math.min(offset, limit)],
      [2, 0],
    )
  }

  #localHeader(entry: ZipEntry, sizes: 'known' | 'follow'): Buffer {
    const name = nameOf(entry)
    const isZip64 = isLong(entry)
    const isKnown = sizes === 'known'
    const value = (bytes: number): number => (isKnown ? bytes : 0)
    const extra = isZip64 ? zip64Extra([value(entry.sizeBytes), value(entry.compressedBytes)]) : empty
    return Buffer.concat([
      record(
        [4, 0x04034b50],
        [2, isZip64 ? version64 : version],
        [2, isKnown ? 0 : sizesFollow],
        [2, methods[entry.method]],
        [4, this.#dosTime],
        [4, entry.crc32],
        [4, isZip64 ? limit : value(entry.compressedBytes)],
        [4, isZip64 ? limit : value(entry.sizeBytes)],
        [2, name.length],
        [2, extra.length],
      ),
      name,
      extra,
    ])
  }

  /** Notes a file of the directory, which begins at the present offset. */
  #add(entry: ZipEntry, flags: number): void {
    const name = nameOf(entry)
    const numbers = [entry.sizeBytes, entry.compressedBytes, this.#offset]
    const long = numbers.filter(number => number >= limit)
    const extra = long.length > 0 ? zip64Extra(long) : empty
    const [size = 0, compressed = 0, offset = 0] = numbers.map(number => Math.min(number, limit))
    const header = Buffer.concat([
      record(
        [4, 0x02014b50],
        [2, version64],
        [2, long.length > 0 ? version64 : version],
        [2, flags],
        [2, methods[entry.method]],
        [4, this.#dosTime],
        [4, entry.crc32],
        [4, compressed],
        [4, size],
        [2, name.length],
        [2, extra.length],
        [2, 0],
        [2, 0],
        [2, 0],
        [4, 0],
        [4, offset],
      ),
      name,
      extra,
    ])
    this.#directory.push(header)
    this.#directoryBytes += header.length
  }
}

/** Beyond this a number stands in the ZIP64 fields. */
const limit = 0xffffffff
const version = 20
const version64 = 45
/** General purpose bit 3 (§4.4.4). */
const sizesFollow = 8
const methods = { stored: 0, deflated: 8 } as const
const empty = Buffer.alloc(0)

/** Room for what deflate adds to incompressible bytes. */
const isLong = ({ sizeBytes, compressedBytes }: ZipEntry): boolean =>
  Math.max(sizeBytes, compressedBytes) >= limit - 16_777_216

function nameOf({ name }: ZipEntry): Buffer {
  const bytes = Buffer.from(name, 'utf8')
  if (bytes.length > 0xffff || bytes.length > name.length) {
    throw new GatewayError('BAD_REQUEST', 'expected a name of ASCII characters for a file of an archive')
  }
  return bytes
}

const zip64Extra = (numbers: readonly number[]): Buffer =>
  record([2, 1], [2, 8 * numbers.length], ...numbers.map(number => [8, number] as const))

function writeDescriptor({ crc32, compressedBytes, sizeBytes }: ZipEntry, width: 4 | 8): Buffer {
  return record([4, 0x08074b50], [4, crc32], [width, compressedBytes], [width, sizeBytes])
}

/** The ZIP64 end of central directory record and its locator (§4.3.14, §4.3.15). */
function zip64End(count: number, size: number, offset: number): Buffer {
  return Buffer.concat([
    record(
      [4, 0x06064b50],
      [8, 44],
      [2, version64],
      [2, version64],
      [4, 0],
      [4, 0],
      [8, count],
      [8, count],
      [8, size],
      [8, offset],
    ),
    record([4, 0x07064b50], [4, 0], [8, offset + size], [4, 1]),
  ])
}

/** Unsigned little endian numbers, each with its width in bytes. */
function record(...fields: readonly (readonly [2 | 4 | 8, number])[]): Buffer {
  const bytes = Buffer.alloc(fields.reduce((sum, [width]) => sum + width, 0))
  let at = 0
  for (const [width, value] of fields) {
    if (width === 8) bytes.writeBigUInt64LE(BigInt(value), at)
    else bytes.writeUIntLE(value, at, width)
    at += width
  }
  return bytes
}

/** Date and time as MS-DOS has them (§4.4.6): from 1980 on, in steps of two seconds. */
function dosTime(at: Date): number {
  const year = Math.min(Math.max(at.getFullYear(), 1980), 2107) - 1980
  const date = (year << 9) | ((at.getMonth() + 1) << 5) | at.getDate()
  return ((date << 16) | (at.getHours() << 11) | (at.getMinutes() << 5) | (at.getSeconds() >> 1)) >>> 0
}
