/** The demo's own study: a synthetic CT chest of one series, made anew each time, nobody's data. */
import { randomUUID } from 'node:crypto'
import { encodeDataset, fileMeta, type NewElement } from '../dicom/part10-writer.ts'
import { chestSlice } from './phantom.ts'

/** An instance ready to be sent: Part 10 bytes and what identifies them. */
export interface SampleInstance {
  readonly sopClassUid: string
  readonly sopInstanceUid: string
  readonly transferSyntaxUid: string
  readonly bytes: Uint8Array
  /** Where the data set starts in `bytes`. */
  readonly datasetOffset: number
}

const ctImageStorage = '1.2.840.10008.5.1.4.1.1.2'
const explicitVrLittleEndian = '1.2.840.10008.1.2.1'
const size = 512

/** A new UID by UUID (DICOM PS3.5 B.2): `2.25.` and the UUID as a decimal number. */
export function newUid(): string {
  return `2.25.${BigInt(`0x${randomUUID().replaceAll('-', '')}`)}`
}

/** Makes a CT study of `count` slices, about 526 KB each, one after the other. */
export function* sampleStudy(count: number): Generator<SampleInstance> {
  const study = newUid()
  const series = newUid()
  const frame = newUid()
  const now = new Date().toISOString()
  const date = now.slice(0, 10).replaceAll('-', '')
  const time = now.slice(11, 19).replaceAll(':', '')
  for (let index = 0; index < count; index++) {
    const sopInstanceUid = newUid()
    const elements: NewElement[] = [
      { tag: 0x00080005, value: 'ISO_IR 192' },
      { tag: 0x00080008, value: ['ORIGINAL', 'PRIMARY', 'AXIAL'] },
      { tag: 0x00080016, value: ctImageStorage },
      { tag: 0x00080018, value: sopInstanceUid },
      { tag: 0x00080020, value: date },
      { tag: 0x00080021, value: date },
      { tag: 0x00080023, value: date },
      { tag: 0x00080030, value: time },
      { tag: 0x00080033, value: time },
      { tag: 0x00080050, value: 'DEMO-1' },
      { tag: 0x00080060, value: 'CT' },
      { tag: 0x00080070, value: 'Hanse' },
      { tag: 0x00080090, value: 'Test^Referrer' },
      { tag: 0x00081030, value: 'CT Chest (synthetic)' },
      { tag: 0x0008103e, value: 'Chest 5 mm' },
      { tag: 0x00100010, value: 'TEST^Synthetic' },
      { tag: 0x00100020, value: 'DEMO-0001' },
      { tag: 0x00100030, value: '19700101' },
      { tag: 0x00100040, value: 'O' },
      { tag: 0x00180050, value: '5' },
      { tag: 0x00180060, value: '120' },
      { tag: 0x00185100, value: 'HFS' },
      { tag: 0x0020000d, value: study },
      { tag: 0x0020000e, value: series },
      { tag: 0x00200010, value: '1' },
      { tag: 0x00200011, value: '1' },
      { tag: 0x00200013, value: String(index + 1) },
      { tag: 0x00200032, value: ['-180', '-180', String(index * 5)] },
      { tag: 0x00200037, value: ['1', '0', '0', '0', '1', '0'] },
      { tag: 0x00200052, value: frame },
      { tag: 0x00280002, value: 1 },
      { tag: 0x00280004, value: 'MONOCHROME2' },
      { tag: 0x00280010, value: size },
      { tag: 0x00280011, value: size },
      { tag: 0x00280030, value: ['0.703125', '0.703125'] },
      { tag: 0x00280100, value: 16 },
      { tag: 0x00280101, value: 16 },
      { tag: 0x00280102, value: 15 },
      { tag: 0x00280103, value: 1 },
      { tag: 0x00281050, value: ['40'] },
      { tag: 0x00281051, value: ['400'] },
      { tag: 0x00281052, value: '0' },
      { tag: 0x00281053, value: '1' },
      { tag: 0x00281054, value: 'HU' },
      { tag: 0x7fe00010, vr: 'OW', value: chestSlice(size, count > 1 ? index / (count - 1) : 0.5, index + 1) },
    ]
    const ids = { sopClassUid: ctImageStorage, sopInstanceUid, transferSyntaxUid: explicitVrLittleEndian }
    const meta = fileMeta(ids)
    const bytes = Buffer.concat([meta, encodeDataset(elements, explicitVrLittleEndian)])
    yield { ...ids, bytes, datasetOffset: meta.length }
  }
}
