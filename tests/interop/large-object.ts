/** A multi-frame object of any size as a sparse file: nobody needs the memory, and hardly the disk. */
import { open } from 'node:fs/promises'
import { encodeDataset, fileMeta } from '../../gateway/dicom/part10-writer.ts'
import { explicitVrLittleEndian } from '../../gateway/dicom/uid.ts'
import { seededUid } from '../support/dicom-builder.ts'

const rows = 512
const cols = 512
const frameBytes = rows * cols * 2
/** Multi-frame Grayscale Word Secondary Capture Image Storage. */
const sopClassUid = '1.2.840.10008.5.1.4.1.1.7.3'

/** Where the object is, and what it is called. */
export interface LargeObject {
  readonly path: string
  readonly sopInstanceUid: string
  readonly datasetOffset: number
  readonly sizeBytes: number
}

/** Writes an object of `frames` times 512 KiB; each frame begins with its number, so that none can be in another's place. */
export async function writeLargeObject(path: string, frames: number, seed: number): Promise<LargeObject> {
  const ids = { sopClassUid, sopInstanceUid: seededUid('large', seed), transferSyntaxUid: explicitVrLittleEndian }
  const meta = fileMeta(ids)
  const head = encodeDataset(
    [
      { tag: 0x00080005, value: 'ISO_IR 192' },
      { tag: 0x00080016, value: sopClassUid },
      { tag: 0x00080018, value: ids.sopInstanceUid },
      { tag: 0x00080020, value: '20260102' },
      { tag: 0x00080030, value: '101500' },
      { tag: 0x00080060, value: 'OT' },
      { tag: 0x00080064, value: 'SYN' },
      { tag: 0x00100010, value: 'TEST^LARGE' },
      { tag: 0x00100020, value: `LARGE-${seed}` },
      { tag: 0x0020000d, value: seededUid('large-study', seed) },
      { tag: 0x0020000e, value: seededUid('large-series', seed) },
      { tag: 0x00200013, value: '1' },
      { tag: 0x00280002, value: 1 },
      { tag: 0x00280004, value: 'MONOCHROME2' },
      { tag: 0x00280008, value: String(frames) },
      { tag: 0x00280010, value: rows },
      { tag: 0x00280011, value: cols },
      { tag: 0x00280100, value: 16 },
      { tag: 0x00280101, value: 16 },
      { tag: 0x00280102, value: 15 },
      { tag: 0x00280103, value: 0 },
    ],
    explicitVrLittleEndian,
  )
  const pixelHeader = Buffer.from([0xe0, 0x7f, 0x10, 0x00, 0x4f, 0x57, 0, 0, 0, 0, 0, 0])
  pixelHeader.writeUInt32LE(frames * frameBytes, 8)
  const beforePixels = Buffer.concat([meta, head, pixelHeader])
  const sizeBytes = beforePixels.length + frames * frameBytes
  await using file = await open(path, 'w')
  await file.write(beforePixels, 0, beforePixels.length, 0)
  await file.truncate(sizeBytes)
  const number = Buffer.alloc(4)
  for (let frame = 0; frame < frames; frame += 1) {
    number.writeUInt32LE(frame)
    await file.write(number, 0, 4, beforePixels.length + frame * frameBytes)
  }
  return { path, sopInstanceUid: ids.sopInstanceUid, datasetOffset: meta.length, sizeBytes }
}
