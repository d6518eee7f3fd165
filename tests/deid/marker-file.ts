/** A file with a marker of its own in every attribute of PS3.6 that can carry one, at four depths. */
import { dictionaryLines } from '../../gateway/dicom/dictionary.data.ts'
import { entryOf } from '../../gateway/dicom/dictionary.ts'
import { encodeDataset, type NewElement } from '../../gateway/dicom/part10-writer.ts'
import { isPrivateTag, type Tag } from '../../gateway/dicom/tag.ts'
import { isVr, type Vr, vrFacts } from '../../gateway/dicom/vr.ts'

/** Where a marker was planted. */
export interface Plant {
  readonly tag: Tag
  readonly vr: Vr
  readonly depth: number
}

export interface MarkerFile {
  readonly bytes: Uint8Array
  /** By marker number. */
  readonly plants: ReadonlyMap<number, Plant>
}

/** Enhanced functional groups: sequences without a row, one in the other. */
const nesting: readonly Tag[] = [0x52009229, 0x52009230, 0x00289110]
const structural: ReadonlySet<Tag> = new Set([0x00080005, 0x00080016, 0x00080018, 0x00041220, ...nesting])

/** All of them in one data set, which has no pixels. */
export function markerFile(transferSyntaxUid: string): MarkerFile {
  const plants = new Map<number, Plant>()
  const plant = (tag: Tag, vr: Vr, depth: number): number => {
    const number = plants.size + 1
    plants.set(number, { tag, vr, depth })
    return number
  }
  const levels = [0, 1, 2, 3].map(depth => {
    const elements: NewElement[] = []
    for (const line of dictionaryLines.split('\n')) {
      const [pattern = '', , vrs = ''] = line.split(' ')
      const tag = Number.parseInt(pattern.replaceAll('x', depth === 1 ? '2' : '0'), 16)
      const vr = vrs.split('|').find(isVr)
      if (vr === undefined || isPrivateTag(tag) || tag >>> 16 === 2 || tag >>> 16 === 0x7fe0) continue
      // Patterns of repeating elements overlap; the dictionary's choice counts.
      if (entryOf(tag)?.vrs.includes(vr) !== true) continue
      if (structural.has(tag) || tag === 0x0040a040 || elements.some(element => element.tag === tag)) continue
      const element = markedElement(tag, vr, number => plant(tag, vr, depth) + number)
      if (element !== undefined) elements.push(element)
    }
    return [...elements, ...hidden(depth, plant)]
  })
  const nested = levels.reduceRight<NewElement[]>((below, own, depth) => {
    const sequence = nesting[depth]
    return below.length === 0 || sequence === undefined ? own : [...own, { tag: sequence, items: [below] }]
  }, [])
  const dataset = encodeDataset(
    [
      { tag: 0x00080005, value: 'ISO_IR 192' },
      { tag: 0x00080016, value: '1.2.840.10008.5.1.4.1.1.481.5' },
      { tag: 0x00080018, value: '1.2.3.4' },
      ...nested,
    ],
    transferSyntaxUid,
  )
  return { bytes: Buffer.concat([head(transferSyntaxUid, plant), dataset]), plants }
}

/** The text of a marker: found again by `foundMarkers`, whatever is around it. */
export function markerText(number: number): string {
  return `ZQ${String(number).padStart(6, '0')}Z`
}

/** The numbers of all markers in the bytes, as text, number, UID or fraction of a second. */
export function foundMarkers(bytes: Uint8Array): ReadonlySet<number> {
  const text = Buffer.from(bytes).toString('latin1')
  const found = new Set<number>()
  for (const pattern of [/ZQ(\d{6})Z/g, /99887(\d{6})/g, /1\.2\.99\.1(\d{6})/g, /1234\d\d\.(\d{6})/g])
    for (const [, number] of text.matchAll(pattern)) found.add(Number(number))
  return found
}

function markedElement(tag: Tag, vr: Vr, plant: (none: 0) => number): NewElement | undefined {
  const { kind, unitBytes } = vrFacts(vr)
  if (vr === 'SQ') return { tag, items: [[{ tag: 0x00080070, vr: 'LO', value: markerText(plant(0)) }]] }
  if (vr === 'DA' || vr === 'AS') return undefined
  if (vr === 'DS' || vr === 'IS') return { tag, vr, value: `99887${String(plant(0)).padStart(6, '0')}` }
  if (vr === 'UI') return { tag, vr, value: `1.2.99.1${String(plant(0)).padStart(6, '0')}` }
  if (vr === 'TM') return { tag, vr, value: `123456.${String(plant(0)).padStart(6, '0')}` }
  if (vr === 'DT') return { tag, vr, value: `20240229123456.${String(plant(0)).padStart(6, '0')}` }
  if (kind === 'text' || kind === 'ascii') return { tag, vr, value: markerText(plant(0)) }
  // Shorter numbers would be found by chance.
  if (unitBytes < 8 && !vr.startsWith('O') && vr !== 'UN') return undefined
  return { tag, vr, value: Buffer.from(markerText(plant(0)).padEnd(16, ' '), 'latin1') }
}

/** Private blocks with sequences, unknown attributes, known ones as UN, overlays and curves beyond the usual groups. */
function hidden(depth: number, plant: (tag: Tag, vr: Vr, depth: number) => number): NewElement[] {
  const text = (tag: Tag, vr: Vr): NewElement => {
    const value = Buffer.from(markerText(plant(tag, vr, depth)).padEnd(10), 'latin1')
    return { tag, vr, value }
  }
  const privateItem: NewElement[] = [
    text(0x00100010, 'PN'),
    { tag: 0x00290010, vr: 'LO', value: 'ANY' },
    text(0x00291011, 'LO'),
    { tag: 0x00291012, items: [[text(0x00100020, 'LO'), text(0x00081030, 'LO')]] },
  ]
  return [
    { tag: 0x00090010, vr: 'LO', value: 'GEMS_IDEN_01' },
    text(0x00091002, 'SH'),
    { tag: 0x00190010, vr: 'LO', value: markerText(plant(0x00190010, 'LO', depth)) },
    text(0x00191001, 'LO'),
    { tag: 0x00191002, items: [privateItem] },
    text(0x00211001, 'UT'),
    text(0x00105555, 'LO'),
    text(0x00209999, 'UN'),
    text(0x60400022, 'LO'),
    text(0x60400010, 'UN'),
    text(0x50400022, 'LO'),
    ...(depth === 0 ? [text(0xfffcfffc, 'OB')] : []),
  ]
}

/** Preamble, and file meta with everything that names a site. */
function head(transferSyntaxUid: string, plant: (tag: Tag, vr: Vr, depth: number) => number): Uint8Array {
  const text = (tag: Tag, vr: Vr): NewElement => ({ tag, vr, value: markerText(plant(tag, vr, 0)) })
  const group = encodeDataset(
    [
      { tag: 0x00020001, value: Uint8Array.of(0, 1) },
      { tag: 0x00020002, value: '1.2.840.10008.5.1.4.1.1.481.5' },
      { tag: 0x00020003, value: '1.2.3.4' },
      { tag: 0x00020010, value: transferSyntaxUid },
      { tag: 0x00020012, value: `1.2.99.1${String(plant(0x00020012, 'UI', 0)).padStart(6, '0')}` },
      ...([0x00020013, 0x00020016, 0x00020017, 0x00020018] as const).map(tag =>
        text(tag, tag === 0x00020013 ? 'SH' : 'AE'),
      ),
      { tag: 0x00020100, value: `1.2.99.1${String(plant(0x00020100, 'UI', 0)).padStart(6, '0')}` },
      { tag: 0x00020102, value: Buffer.from(markerText(plant(0x00020102, 'OB', 0)).padEnd(10), 'latin1') },
    ],
    '1.2.840.10008.1.2.1',
  )
  const length = encodeDataset([{ tag: 0x00020000, value: group.length }], '1.2.840.10008.1.2.1')
  const preamble = Buffer.alloc(128)
  preamble.write(markerText(plant(0x00020000, 'OB', 0)), 20, 'latin1')
  return Buffer.concat([preamble, Buffer.from('DICM', 'latin1'), length, group])
}
