/** Reads images of discs: ISO 9660 (ECMA-119), with the names of Joliet or Rock Ridge where there are any. Everything is bounded. */
import { GatewayError } from '../errors.ts'
import type { ByteSource } from './byte-source.ts'
import type { ByteRange } from './dataset.ts'

/** A file of a disc. */
export interface IsoFile {
  /** With `/`, without the version. */
  readonly path: string
  readonly sizeBytes: number
  /** Where its bytes are in the image, in order. */
  readonly extents: readonly ByteRange[]
}

const sectorBytes = 2_048
const firstDescriptor = 16
const maxDescriptors = 64
const maxDepth = 32
const maxEntries = 1_000_000
const maxFolderBytes = 64 * 1_048_576
const identifier = 'CD001'

/** True when the bytes are the image of a disc. */
export async function isIso9660(source: ByteSource): Promise<boolean> {
  const bytes = await source.read(firstDescriptor * sectorBytes, 6)
  return Buffer.from(bytes).toString('latin1', 1) === identifier
}

/**
 * The files of a disc, folder by folder.
 *
 * @throws GatewayError DICOM_UNREADABLE when it is no disc or its folders cannot be read, DICOM_LIMIT
 */
export async function* isoFiles(source: ByteSource): AsyncGenerator<IsoFile> {
  const volume = await findVolume(source)
  const seen = new Set<number>()
  let entries = 0

  async function* below(folder: ByteRange, prefix: string, depth: number): AsyncGenerator<IsoFile> {
    // A folder that is its own ancestor would have no end.
    if (depth > maxDepth || seen.has(folder.offset)) return
    seen.add(folder.offset)
    let parts: ByteRange[] = []
    for (const entry of await readFolder(source, folder, volume)) {
      if (++entries > maxEntries) throw new GatewayError('DICOM_LIMIT', 'the disc has more files than allowed')
      const path = prefix + entry.name
      if (entry.isFolder) yield* below(entry.extent, `${path}/`, depth + 1)
      else {
        parts.push(entry.extent)
        if (entry.isContinued) continue
        yield { path, sizeBytes: parts.reduce((sum, { length }) => sum + length, 0), extents: parts }
        parts = []
      }
    }
  }
  yield* below(volume.root, '', 0)
}

/** The bytes of a file. */
export function isoFileSource(source: ByteSource, { extents, sizeBytes }: IsoFile): ByteSource {
  return {
    sizeBytes,
    async read(offset, length) {
      const parts: Uint8Array[] = []
      let at = 0
      for (const extent of extents) {
        const from = Math.max(0, offset - at)
        const until = Math.min(extent.length, offset + length - at)
        if (from < until) parts.push(await source.read(extent.offset + from, until - from))
        at += extent.length
      }
      const [only] = parts
      return parts.length === 1 && only !== undefined ? only : Buffer.concat(parts)
    },
  }
}

interface Volume {
  readonly root: ByteRange
  readonly blockBytes: number
  readonly isJoliet: boolean
}

interface Entry {
  readonly name: string
  readonly extent: ByteRange
  readonly isFolder: boolean
  /** The next entry has more of the file (ECMA-119 §9.1.6). */
  readonly isContinued: boolean
}

/** The volume of Joliet where there is one, else the primary one (ECMA-119 §8.4, §8.5). */
async function findVolume(source: ByteSource): Promise<Volume> {
  let primary: Volume | undefined
  for (let index = 0; index < maxDescriptors; index++) {
    const sector = Buffer.from(await source.read((firstDescriptor + index) * sectorBytes, sectorBytes))
    if (sector.length < sectorBytes || sector.toString('latin1', 1, 6) !== identifier) break
    const type = sector[0]
    if (type === 255) break
    if (type !== 1 && type !== 2) continue
    const isJoliet = type === 2 && /^%\/[@CE]/.test(sector.toString('latin1', 88, 91))
    const blockBytes = sector.readUInt16LE(128)
    const root = entryAt(sector.subarray(156, 190), { blockBytes, isJoliet })
    if (root === undefined || blockBytes === 0) continue
    const volume = { root: root.extent, blockBytes, isJoliet }
    if (isJoliet) return volume
    if (type === 1) primary ??= volume
  }
  if (primary === undefined) throw new GatewayError('DICOM_UNREADABLE', 'expected the image of a disc (ISO 9660)')
  return primary
}

async function readFolder(source: ByteSource, folder: ByteRange, volume: Volume): Promise<Entry[]> {
  if (folder.length > maxFolderBytes) throw new GatewayError('DICOM_LIMIT', 'a folder of the disc is too large')
  const bytes = Buffer.from(await source.read(folder.offset, folder.length))
  const entries: Entry[] = []
  for (let at = 0; at < bytes.length; ) {
    const length = bytes[at] ?? 0
    // Records do not cross sectors: a zero fills up the rest of one.
    if (length === 0) at = (Math.floor(at / sectorBytes) + 1) * sectorBytes
    else {
      const entry = entryAt(bytes.subarray(at, at + length), volume)
      if (entry !== undefined && entry.name !== '\0' && entry.name !== '\x01') entries.push(entry)
      at += length
    }
  }
  return entries
}

/** A directory record (ECMA-119 §9.1); undefined for one that is cut short, interleaved, or has no name of a file. */
function entryAt(record: Buffer, { blockBytes, isJoliet }: Pick<Volume, 'blockBytes' | 'isJoliet'>): Entry | undefined {
  if (record.length < 34) return undefined
  const nameBytes = record[32] ?? 0
  const flags = record[25] ?? 0
  if (33 + nameBytes > record.length || record[26] !== 0) return undefined
  const raw = record.subarray(33, 33 + nameBytes)
  const text = isJoliet && nameBytes > 1 ? Buffer.from(raw).swap16().toString('utf16le') : raw.toString('latin1')
  // Rock Ridge says whole names; the others have a version, and a dot where there is no extension.
  const name =
    (isJoliet ? undefined : rockRidgeName(record, 33 + nameBytes)) ?? text.replace(/;\d+$/, '').replace(/\.$/, '')
  if (name === '' || name === '..' || name.includes('/')) return undefined
  // An extended attribute record comes before the bytes.
  const offset = (record.readUInt32LE(2) + (record[1] ?? 0)) * blockBytes
  return {
    name,
    extent: { offset, length: record.readUInt32LE(10) },
    isFolder: (flags & 2) !== 0,
    isContinued: (flags & 0x80) !== 0,
  }
}

/**
 * The name in the system use area of a record (SUSP 1.12 §4, RRIP 1.12 §4.1.4, entries NM); undefined without one, and
 * where it goes on in another area: then the plain name does.
 */
function rockRidgeName(record: Buffer, nameEnd: number): string | undefined {
  const parts: Buffer[] = []
  // The area begins at an even place.
  for (let at = nameEnd + (nameEnd % 2); at + 4 <= record.length; ) {
    const length = record[at + 2] ?? 0
    if (length < 4 || at + length > record.length) break
    const signature = record.toString('latin1', at, at + 2)
    if (signature === 'NM' && length >= 5) {
      const flags = record[at + 4] ?? 0
      // 2 and 4 are the folder itself and the one above.
      if ((flags & 6) !== 0) return undefined
      parts.push(record.subarray(at + 5, at + length))
      if ((flags & 1) === 0) return Buffer.concat(parts).toString('utf8')
    }
    at += length
  }
  return undefined
}
