/** Makes images of discs: ISO 9660 with plain names, with those of Rock Ridge, or with a second volume of Joliet. */

const sectorBytes = 2048

interface Folder {
  readonly name: string
  readonly folders: Map<string, Folder>
  readonly files: Map<string, Uint8Array>
}

/** @param files  bytes by path, such as `DICOM/IM000001` */
export function isoImage(
  files: Readonly<Record<string, Uint8Array>>,
  names: 'plain' | 'joliet' | 'rock-ridge' = 'plain',
): Buffer {
  const root: Folder = { name: '\0', folders: new Map(), files: new Map() }
  for (const [path, bytes] of Object.entries(files)) {
    const parts = path.split('/')
    const file = parts.pop() ?? ''
    let folder = root
    for (const part of parts) {
      const next = folder.folders.get(part) ?? { name: part, folders: new Map(), files: new Map() }
      folder.folders.set(part, next)
      folder = next
    }
    folder.files.set(file, bytes)
  }
  const sectors: Buffer[] = Array.from({ length: 19 }, () => Buffer.alloc(sectorBytes))
  const add = (bytes: Uint8Array): number => {
    const at = sectors.length
    for (let from = 0; from < Math.max(1, bytes.length); from += sectorBytes) {
      const sector = Buffer.alloc(sectorBytes)
      sector.set(bytes.subarray(from, from + sectorBytes))
      sectors.push(sector)
    }
    return at
  }
  const record = (name: string, block: number, length: number, flags: number): Buffer => {
    const isWide = names === 'joliet' && name.length > 0 && name !== '\0' && name !== '\x01'
    const isNamed = names === 'rock-ridge' && name !== '\0' && name !== '\x01'
    const whole = isNamed ? alternateName(name.replace(/;1$/, '')) : Buffer.alloc(0)
    const plain = isNamed ? `X${block}` : name
    const text = isWide ? Buffer.from(name, 'utf16le').swap16() : Buffer.from(plain, 'latin1')
    const area = 33 + text.length + ((33 + text.length) % 2)
    const bytes = Buffer.alloc(area + whole.length + (whole.length % 2))
    whole.copy(bytes, area)
    bytes[0] = bytes.length
    bytes.writeUInt32LE(block, 2)
    bytes.writeUInt32BE(block, 6)
    bytes.writeUInt32LE(length, 10)
    bytes.writeUInt32BE(length, 14)
    bytes[25] = flags
    bytes[32] = text.length
    text.copy(bytes, 33)
    return bytes
  }
  const write = (folder: Folder): { block: number; length: number } => {
    const entries = [record('\0', 0, sectorBytes, 2), record('\x01', 0, sectorBytes, 2)]
    for (const [name, bytes] of folder.files) entries.push(record(`${name};1`, add(bytes), bytes.length, 0))
    for (const [name, inner] of folder.folders) {
      const { block, length } = write(inner)
      entries.push(record(name, block, length, 2))
    }
    const whole: Buffer[] = []
    let used = 0
    for (const entry of entries) {
      if (used + entry.length > sectorBytes) {
        whole.push(Buffer.alloc(sectorBytes - used))
        used = 0
      }
      whole.push(entry)
      used += entry.length
    }
    whole.push(Buffer.alloc(sectorBytes - used))
    const bytes = Buffer.concat(whole)
    return { block: add(bytes), length: bytes.length }
  }
  const { block, length } = write(root)
  for (const [at, type] of [
    [16, 1],
    [17, names === 'joliet' ? 2 : 255],
    [18, 255],
  ] as const) {
    const sector = sectors[at]
    if (sector === undefined) continue
    sector[0] = type
    sector.write('CD001\x01', 1, 'latin1')
    if (type === 2) sector.write('%/E', 88, 'latin1')
    sector.writeUInt16LE(sectorBytes, 128)
    record('\0', block, length, 2).copy(sector, 156)
  }
  return Buffer.concat(sectors)
}

/** The entries of a name in two pieces, behind one that says something else (RRIP 1.12 §4.1.4). */
function alternateName(name: string): Buffer {
  const text = Buffer.from(name)
  const pieces = [text.subarray(0, 3), text.subarray(3)]
  const entries = pieces.map((piece, i) =>
    Buffer.concat([Buffer.from('NM'), Buffer.of(5 + piece.length, 1, i === 0 ? 1 : 0), piece]),
  )
  return Buffer.concat([Buffer.from('RR\x05\x01\x09', 'latin1'), ...entries])
}
