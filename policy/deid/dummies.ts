/** Dummy values: valid for their VR, the same for everybody, and recognizable as what they are. */
import type { NewElement } from '../../gateway/dicom/part10-writer.ts'
import type { Tag } from '../../gateway/dicom/tag.ts'
import { type Vr, vrFacts } from '../../gateway/dicom/vr.ts'

/** Stands for text that was removed where an empty value is not allowed. */
export const dummyText = 'ANONYMIZED'

/** Stands for removed dates; no placeholder that readers take for "unknown" or for the end of time. */
export const dummyDate = '20000101'
const dummyTime = '120000'

const textDummies: Readonly<Partial<Record<Vr, string>>> = {
  AE: dummyText,
  AS: '045Y',
  CS: 'OTHER',
  DA: dummyDate,
  DT: dummyDate + dummyTime,
  TM: dummyTime,
  DS: '0',
  IS: '0',
  UR: 'urn:uuid:00000000-0000-8000-8000-000000000000',
  UI: '2.25.0',
}

/** An element with a dummy value; undefined for sequences that are left out instead. */
export function dummyElement(tag: Tag, vr: Vr): NewElement | undefined {
  if (vr === 'SQ') return dummySequence(tag)
  const { kind, unitBytes } = vrFacts(vr)
  if (kind === 'text' || kind === 'ascii') return { tag, vr, value: textDummies[vr] ?? dummyText }
  return { tag, vr, value: new Uint8Array(Math.max(2, vr === 'AT' ? 4 : unitBytes)) }
}

/** True for text that this module wrote. */
export function isDummyText(text: string): boolean {
  return text === dummyText || Object.values(textDummies).includes(text)
}

/** What else the engine writes into sequences; somebody may have such a name. */
export const ownTexts: ReadonlySet<string> = new Set([
  ...['Hanse', 'De-identifying Equipment', '109104', 'DCM'],
  ...['Finding', '121071', 'Anonymized', 'ANON', '99HANSE'],
])

const code = (value: string, scheme: string, meaning: string): readonly NewElement[] => [
  { tag: 0x00080100, vr: 'SH', value },
  { tag: 0x00080102, vr: 'SH', value: scheme },
  { tag: 0x00080104, vr: 'LO', value: meaning },
]

function dummySequence(tag: Tag): NewElement | undefined {
  // (0070,0001) is Type 1 of a module that is optional in every IOD that has it.
  if (tag === 0x00700001) return undefined
  if (tag === 0x0040a730) {
    // One content item that says nothing: DCM 121071 is "Finding" (PS3.16 Annex D).
    const item: readonly NewElement[] = [
      { tag: 0x0040a010, vr: 'CS', value: 'CONTAINS' },
      { tag: 0x0040a040, vr: 'CS', value: 'TEXT' },
      { tag: 0x0040a043, items: [code('121071', 'DCM', 'Finding')] },
      { tag: 0x0040a160, vr: 'UT', value: dummyText },
    ]
    return { tag, items: [item] }
  }
  if (tag === 0x0040a073) {
    // Verifying Observer: organization and time Type 1, name Type 1, code Type 2 (PS3.3 §C.17.2).
    const observer: readonly NewElement[] = [
      { tag: 0x0040a027, vr: 'LO', value: dummyText },
      { tag: 0x0040a030, vr: 'DT', value: dummyDate + dummyTime },
      { tag: 0x0040a075, vr: 'PN', value: dummyText },
      { tag: 0x0040a088, items: [] },
    ]
    return { tag, items: [observer] }
  }
  return { tag, items: [code('ANON', '99HANSE', 'Anonymized')] }
}
