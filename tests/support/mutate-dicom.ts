/**
 * Breaks DICOM files in the ways that senders, disks and attackers break them. Everything follows from
 * the seed, so that a case that failed can be made again.
 */

import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import type { Element } from '../../gateway/dicom/dataset.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'

/** Numbers from 0 up to 1, the same ones for the same seed (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** A file and where its elements are, nested and private ones included. */
export interface Subject {
  readonly name: string
  readonly bytes: Buffer
  readonly datasetOffset: number
  readonly transferSyntaxUid: string
  readonly elements: readonly Element[]
}

/** Reads what a mutation needs to know; undefined for what cannot be read or is deflated. */
export async function subjectOf(name: string, bytes: Buffer): Promise<Subject | undefined> {
  const file = await readPart10(bufferSource(bytes), { maxValueBytes: 256 }).catch(() => undefined)
  if (!file || file.transferSyntaxUid === '1.2.840.10008.1.2.1.99') return undefined
  const elements: Element[] = []
  const gather = (list: readonly Element[]): void => {
    for (const element of list) {
      elements.push(element)
      for (const item of element.items ?? []) gather(item.elements)
    }
  }
  gather(file.dataset.elements)
  if (elements.length === 0) return undefined
  return { name, bytes, datasetOffset: file.datasetOffset, transferSyntaxUid: file.transferSyntaxUid, elements }
}

/** One case: what was done, and the bytes that came of it. */
export interface Mutant {
  readonly name: string
  readonly bytes: Buffer
  readonly datasetOffset: number
  readonly transferSyntaxUid: string
}

type Mutation = (subject: Subject, random: () => number) => Buffer

const lengths = [0, 1, 3, 0x7fff, 0xffff, 0x10000, 0x7fffffff, 0xfffffffe, 0xffffffff]
const vrs = ['SQ', 'UN', 'OB', 'OW', 'UI', 'PN', 'AT', 'FD', 'DS', 'UT', 'zz', '\0\0']

const pick = <T>(list: readonly T[], random: () => number): T => {
  const found = list[Math.floor(random() * list.length)]
  if (found === undefined) throw new RangeError('nothing to pick from')
  return found
}

/** Bytes to the right of the element's tag and VR, where its length stands. */
function lengthField({ encoding, vr }: Element): { at: number; size: 2 | 4 } {
  if (!encoding.explicitVr) return { at: 4, size: 4 }
  return /^(OB|OD|OF|OL|OV|OW|SQ|SV|UC|UN|UR|UT|UV)$/.test(vr) ? { at: 8, size: 4 } : { at: 6, size: 2 }
}

function writeNumber(bytes: Buffer, at: number, size: 2 | 4, value: number, bigEndian: boolean): void {
  if (at + size > bytes.length) return
  const fitting = size === 2 ? value & 0xffff : value
  if (size === 2 && bigEndian) bytes.writeUInt16BE(fitting, at)
  else if (size === 2) bytes.writeUInt16LE(fitting, at)
  else if (bigEndian) bytes.writeUInt32BE(fitting, at)
  else bytes.writeUInt32LE(fitting, at)
}

function insert(bytes: Buffer, at: number, piece: Buffer): Buffer {
  return Buffer.concat([bytes.subarray(0, at), piece, bytes.subarray(at)])
}

const sequenceHead = (undefinedLength: boolean, explicitVr: boolean): Buffer => {
  const length = undefinedLength ? [0xff, 0xff, 0xff, 0xff] : [0xfe, 0xff, 0xff, 0x7f]
  const tag = [0x09, 0x00, 0x10, 0x11] // private, so that nothing is known of it
  return Buffer.from(explicitVr ? [...tag, 0x53, 0x51, 0, 0, ...length] : [...tag, ...length])
}

const mutations: Readonly<Record<string, Mutation>> = {
  'flips bits': ({ bytes, datasetOffset }, random) => {
    const out = Buffer.from(bytes)
    const reach = Math.min(out.length - datasetOffset, 4096)
    for (let count = 1 + Math.floor(random() * 16); count > 0; count -= 1) {
      const at = datasetOffset + Math.floor(random() * reach)
      out[at] = (out[at] ?? 0) ^ (1 << Math.floor(random() * 8))
    }
    return out
  },
  'cuts the end off': ({ bytes }, random) => Buffer.from(bytes.subarray(0, Math.floor(random() * bytes.length))),
  'cuts inside of an element': ({ bytes, elements }, random) => {
    const element = pick(elements, random)
    return Buffer.from(bytes.subarray(0, element.offset + Math.floor(random() * (element.length + 12))))
  },
  'lies about a length': ({ bytes, elements }, random) => {
    const out = Buffer.from(bytes)
    const element = pick(elements, random)
    const { at, size } = lengthField(element)
    writeNumber(out, element.offset + at, size, pick(lengths, random), element.encoding.bigEndian)
    return out
  },
  'names another VR': ({ bytes, elements }, random) => {
    const out = Buffer.from(bytes)
    const element = pick(elements, random)
    if (element.encoding.explicitVr) out.write(pick(vrs, random), element.offset + 4, 'latin1')
    return out
  },
  'names another tag': ({ bytes, elements }, random) => {
    const out = Buffer.from(bytes)
    const tag = pick([0xfffee000, 0xfffee00d, 0xfffee0dd, 0x7fe00010, 0x00080005, 0x00000000, 0x00090011], random)
    const { offset, encoding } = pick(elements, random)
    writeNumber(out, offset, 2, tag >>> 16, encoding.bigEndian)
    writeNumber(out, offset + 2, 2, tag & 0xffff, encoding.bigEndian)
    return out
  },
  'repeats an element': ({ bytes, elements }, random) => {
    const { offset, valueOffset, length } = pick(elements, random)
    const piece = bytes.subarray(offset, Math.min(valueOffset + length, offset + 65_536))
    return insert(bytes, offset, Buffer.concat(Array.from({ length: 1 + Math.floor(random() * 50) }, () => piece)))
  },
  'loses an element': ({ bytes, elements }, random) => {
    const { offset, valueOffset, length } = pick(elements, random)
    return Buffer.concat([bytes.subarray(0, offset), bytes.subarray(valueOffset + length)])
  },
  'overwrites a value': ({ bytes, elements }, random) => {
    const out = Buffer.from(bytes)
    const { valueOffset, length } = pick(elements, random)
    for (let at = valueOffset; at < Math.min(valueOffset + length, valueOffset + 512, out.length); at += 1) {
      out[at] = Math.floor(random() * 256)
    }
    return out
  },
  'fills in a long text': ({ bytes, elements }, random) => {
    const element = pick(elements, random)
    const { at, size } = lengthField(element)
    const piece = Buffer.alloc(
      2 * Math.floor(random() * (size === 2 ? 32_000 : 500_000)),
      pick(['\\', 'A', '\x1b', '\0', 'ÿ'], random),
    )
    const out = insert(bytes, element.valueOffset, piece)
    writeNumber(out, element.offset + at, size, element.length + piece.length, element.encoding.bigEndian)
    return out
  },
  'nests private sequences': ({ bytes, elements }, random) => {
    const { offset, encoding } = pick(elements, random)
    if (encoding.bigEndian) return insert(bytes, offset, Buffer.alloc(64, 0xfe))
    const level = Buffer.concat([
      sequenceHead(random() < 0.8, encoding.explicitVr),
      Buffer.from([0xfe, 0xff, 0x00, 0xe0, 0xff, 0xff, 0xff, 0xff]),
    ])
    return insert(bytes, offset, Buffer.concat(Array.from({ length: 1 + Math.floor(random() * 3000) }, () => level)))
  },
  'opens thousands of empty items': ({ bytes, elements }, random) => {
    const { offset, encoding } = pick(elements, random)
    const item = Buffer.from([0xfe, 0xff, 0x00, 0xe0, 0, 0, 0, 0])
    const head = sequenceHead(true, encoding.explicitVr)
    return insert(bytes, offset, Buffer.concat([head, ...Array.from({ length: 20_000 }, () => item)]))
  },
  'shuffles a stretch': ({ bytes, datasetOffset }, random) => {
    const from = datasetOffset + Math.floor(random() * Math.min(2048, bytes.length - datasetOffset))
    const to = Math.min(bytes.length, from + Math.floor(random() * 512))
    return Buffer.concat([bytes.subarray(0, from), Buffer.from(bytes.subarray(from, to)).reverse(), bytes.subarray(to)])
  },
  'breaks the file meta information': ({ bytes, datasetOffset }, random) => {
    const out = Buffer.from(bytes)
    for (let count = 1 + Math.floor(random() * 6); count > 0; count -= 1) {
      out[Math.floor(random() * datasetOffset)] = Math.floor(random() * 256)
    }
    return out
  },
}

/** Case number `index` of a run with this seed. */
export function mutantOf(subjects: readonly Subject[], seed: number, index: number): Mutant {
  const random = randomOf(Math.imul(seed, 0x9e3779b1) ^ index)
  const subject = pick(subjects, random)
  const [name, mutate] = pick(Object.entries(mutations), random)
  const { datasetOffset, transferSyntaxUid } = subject
  return {
    name: `case ${index}: ${subject.name} ${name}`,
    bytes: mutate(subject, random),
    datasetOffset,
    transferSyntaxUid,
  }
}
