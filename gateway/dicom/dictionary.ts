/** The data dictionary of DICOM PS3.6, looked up by tag or keyword. */
import { dictionaryLines } from './dictionary.data.ts'
import { isVr, type Vr } from './vr.ts'

/** One attribute of the data dictionary. */
export interface DictionaryEntry {
  readonly keyword: string
  /** All VRs that the standard allows; the reader decides between them by context. */
  readonly vrs: readonly [Vr, ...Vr[]]
  readonly vm: string
  readonly retired: boolean
}

interface Dictionary {
  readonly byTag: ReadonlyMap<number, DictionaryEntry>
  readonly byKeyword: ReadonlyMap<string, number>
  readonly patterns: readonly { readonly mask: number; readonly value: number; readonly entry: DictionaryEntry }[]
}

const dictionary = parseDictionary(dictionaryLines)

/**
 * The entry of a tag, repeating groups (50xx, 60xx, ...) included; undefined for private and
 * unknown tags. Repeating groups exist for even groups only (PS3.5 §7.6).
 */
export function entryOf(tag: number): DictionaryEntry | undefined {
  const entry = dictionary.byTag.get(tag)
  if (entry !== undefined || (tag & 0x10000) !== 0) return entry
  return dictionary.patterns.find(pattern => (tag & pattern.mask) >>> 0 === pattern.value)?.entry
}

/** The tag of a keyword; the first tag of a repeating group; undefined when unknown. */
export function tagOfKeyword(keyword: string): number | undefined {
  return dictionary.byKeyword.get(keyword)
}

function parseDictionary(lines: string): Dictionary {
  const byTag = new Map<number, DictionaryEntry>()
  const byKeyword = new Map<string, number>()
  const patterns: Dictionary['patterns'][number][] = []
  for (const line of lines.split('\n')) {
    const [tag = '', keyword = '', vrText = '', vm = '', retired] = line.split(' ')
    const [vr, ...others] = vrText.split('|').filter(isVr)
    if (vr === undefined) continue
    const entry: DictionaryEntry = { keyword, vrs: [vr, ...others], vm, retired: retired === 'R' }
    const value = Number.parseInt(tag.replaceAll('x', '0'), 16)
    byKeyword.set(keyword, value)
    if (tag.includes('x')) {
      patterns.push({ mask: Number.parseInt(tag.replace(/[^x]/g, 'f').replaceAll('x', '0'), 16), value, entry })
    } else byTag.set(value, entry)
  }
  return { byTag, byKeyword, patterns }
}
