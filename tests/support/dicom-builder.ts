/** Builds small, valid, synthetic DICOM instances: equal options give equal bytes. */
import { createHash } from 'node:crypto'
import { encodeDataset, fileMeta, type NewElement } from '../../gateway/dicom/part10-writer.ts'
import { explicitVrLittleEndian, transferSyntax } from '../../gateway/dicom/uid.ts'

/** What to build; everything has a default that depends on `seed` only. */
export interface BuildOptions {
  readonly modality?: 'CT' | 'MR' | 'US' | 'CR' | 'OT'
  readonly rows?: number
  readonly cols?: number
  /** More than one makes it multi-frame. */
  readonly frames?: number
  readonly seed?: number
  readonly studyInstanceUid?: string
  readonly seriesInstanceUid?: string
  readonly sopInstanceUid?: string
  readonly sopClassUid?: string
  readonly patientId?: string
  readonly patientName?: string
  readonly instanceNumber?: number
  /** Encapsulated syntaxes get one fragment per frame with arbitrary bytes in it. */
  readonly transferSyntaxUid?: string
  /** Specific Character Set, such as `ISO_IR 100`; UTF-8 unless given. */
  readonly charset?: string | readonly string[]
  /** Added to the data set, or replacing its element of the same tag. */
  readonly extra?: readonly NewElement[]
}

/** A built instance. */
export interface BuiltInstance {
  /** The Part 10 file. */
  readonly bytes: Uint8Array
  /** The data set alone, as it goes over an association. */
  readonly dataset: Uint8Array
  readonly sopClassUid: string
  readonly sopInstanceUid: string
  readonly studyInstanceUid: string
  readonly seriesInstanceUid: string
  readonly patientId: string
  readonly transferSyntaxUid: string
}

const sopClasses = {
  CT: '1.2.840.10008.5.1.4.1.1.2',
  MR: '1.2.840.10008.5.1.4.1.1.4',
  US: '1.2.840.10008.5.1.4.1.1.6.1',
  CR: '1.2.840.10008.5.1.4.1.1.1',
  OT: '1.2.840.10008.5.1.4.1.1.7',
} as const

/** An instance with pixels: by default a CT slice of 64 x 64, 16 bits, patient `TEST^…`. */
export function buildInstance(options: BuildOptions = {}): BuiltInstance {
  const { modality = 'CT', rows = 64, cols = 64, frames = 1, seed = 1 } = options
  const identity = {
    sopClassUid: options.sopClassUid ?? sopClasses[modality],
    sopInstanceUid: options.sopInstanceUid ?? seededUid('instance', seed),
    studyInstanceUid: options.studyInstanceUid ?? seededUid('study', seed),
    seriesInstanceUid: options.seriesInstanceUid ?? seededUid('series', seed),
    patientId: options.patientId ?? `TEST-${seed}`,
    transferSyntaxUid: options.transferSyntaxUid ?? explicitVrLittleEndian,
  }
  const { instanceNumber = seed, charset = 'ISO_IR 192', extra = [] } = options
  const elements: NewElement[] = [
    { tag: 0x00080005, value: typeof charset === 'string' ? charset : [...charset] },
    { tag: 0x00080008, value: ['ORIGINAL', 'PRIMARY', 'AXIAL'] },
    { tag: 0x00080016, value: identity.sopClassUid },
    { tag: 0x00080018, value: identity.sopInstanceUid },
    { tag: 0x00080020, value: '20260102' },
    { tag: 0x00080030, value: '101500' },
    { tag: 0x00080050, value: `A${seed}` },
    { tag: 0x00080060, value: modality },
    { tag: 0x00080070, value: 'Hanse tests' },
    { tag: 0x00080090, value: 'TEST^REFERRER' },
    { tag: 0x00081030, value: 'Synthetic study' },
    { tag: 0x0008103e, value: 'Synthetic series' },
    { tag: 0x00100010, value: options.patientName ?? `TEST^PATIENT^${seed}` },
    { tag: 0x00100020, value: identity.patientId },
    { tag: 0x00100030, value: '19700101' },
    { tag: 0x00100040, value: 'O' },
    { tag: 0x00180050, value: '2.5' },
    { tag: 0x0020000d, value: identity.studyInstanceUid },
    { tag: 0x0020000e, value: identity.seriesInstanceUid },
    { tag: 0x00200010, value: '1' },
    { tag: 0x00200011, value: '1' },
    { tag: 0x00200013, value: instanceNumber },
    { tag: 0x00200032, value: ['0', '0', String(instanceNumber * 2.5)] },
    { tag: 0x00200037, value: ['1', '0', '0', '0', '1', '0'] },
    { tag: 0x00280002, value: 1 },
    { tag: 0x00280004, value: 'MONOCHROME2' },
    ...(frames > 1 ? [{ tag: 0x00280008, value: frames }] : []),
    { tag: 0x00280010, value: rows },
    { tag: 0x00280011, value: cols },
    { tag: 0x00280030, value: ['0.5', '0.5'] },
    { tag: 0x00280100, value: 16 },
    { tag: 0x00280101, value: 12 },
    { tag: 0x00280102, value: 11 },
    { tag: 0x00280103, value: 0 },
    pixelData(identity.transferSyntaxUid, pixels(rows * cols * frames, seed), frames),
  ]
  const replaced = new Set(extra.map(({ tag }) => tag))
  const dataset = encodeDataset(
    [...elements.filter(({ tag }) => !replaced.has(tag)), ...extra],
    identity.transferSyntaxUid,
  )
  return { ...identity, dataset, bytes: Buffer.concat([fileMeta(identity), dataset]) }
}

/** A UID that depends on its arguments only; unique enough for tests. */
export function seededUid(kind: string, seed: number): string {
  const hex = createHash('sha256').update(`${kind}|${seed}`).digest('hex').slice(0, 24)
  return `2.25.${BigInt(`0x${hex}`)}`
}

/** A soft ramp with noise: compressible like an image, different for each seed. */
function pixels(count: number, seed: number): Uint8Array {
  const samples = new Uint16Array(count)
  let state = (seed * 2_654_435_761) >>> 0
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    samples[i] = ((i >> 4) + (state >>> 28)) & 0x0fff
  }
  return new Uint8Array(samples.buffer)
}

function pixelData(transferSyntaxUid: string, bytes: Uint8Array, frames: number): NewElement {
  const syntax = transferSyntax(transferSyntaxUid)
  if (!syntax?.encapsulated) {
    return { tag: 0x7fe00010, vr: 'OW', value: bytes }
  }
  const length = bytes.length / frames
  const fragments = Array.from({ length: frames }, (_, i) => bytes.subarray(i * length, (i + 1) * length))
  return { tag: 0x7fe00010, vr: 'OB', fragments: [new Uint8Array(0), ...fragments] }
}
