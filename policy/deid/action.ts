/**
 * Which action an attribute gets: Table E.1-1 under the profile's options and overrides, and the second layer for what
 * has no row. The answer depends on tag, VR and SOP class alone, never on the value, and there is always one.
 */
import { entryOf } from '../../gateway/dicom/dictionary.ts'
import { isGroupLength, type Tag } from '../../gateway/dicom/tag.ts'
import { isBulkVr, type Vr } from '../../gateway/dicom/vr.ts'
import { emptySequence, isRequired, knownType } from './attribute-types.ts'
import { datesOf, hasOption, type Profile } from './profile.ts'
import { retainedBulk, retainedText } from './retained.ts'
import { type BasicCode, type Row, rowOf } from './tables.ts'

/**
 * - `keep`: unchanged; `echo`: kept, but the patient's identifiers are taken out of text; `clean`: and everything else
 *   that looks like a name, date, number of a person, address
 * - `shift`: dates moved by the subject's offset; `uid`: replaced by value
 * - `remove`, `empty`, `dummy`; `enter`: the items of a sequence each by its own attributes
 */
export type Action = 'keep' | 'echo' | 'clean' | 'shift' | 'uid' | 'remove' | 'empty' | 'dummy' | 'enter'

/** An action and where it comes from, such as `E.1-1 X/Z`, `option retainUIDs`, `no row: LO`. */
export interface Decision {
  readonly action: Action
  readonly because: string
  /** The text of an override that replaces. */
  readonly value?: string
}

/** Decides for one profile; remembers, since most data sets have the same attributes. */
export class ActionTable {
  readonly #profile: Profile
  readonly #overrides: ReadonlyMap<Tag, Profile['overrides'][number]>
  readonly #known = new Map<string, Map<Tag, Decision>>()

  constructor(profile: Profile) {
    this.#profile = profile
    this.#overrides = new Map(profile.overrides.map(override => [override.attribute, override]))
  }

  /** The decision about a standard attribute; private ones are `private.ts`'s. */
  decide(tag: Tag, vr: Vr, sopClassUid: string): Decision {
    const key = `${vr}${sopClassUid}`
    let decisions = this.#known.get(key)
    if (decisions === undefined) {
      // A hostile sender may make up SOP classes; they are refused before, but the memory stays bounded all the same.
      if (this.#known.size > 4_000) this.#known.clear()
      decisions = new Map()
      this.#known.set(key, decisions)
    }
    const found = decisions.get(tag)
    if (found !== undefined) return found
    const decision = this.#resolve(tag, vr, sopClassUid)
    if (decisions.size < 10_000) decisions.set(tag, decision)
    return decision
  }

  #resolve(tag: Tag, vr: Vr, sopClassUid: string): Decision {
    if (isGroupLength(tag)) return { action: 'remove', because: 'group length' }
    if (tag < 0x00080000) return { action: 'remove', because: 'not of a data set' }
    if (tag === specificCharacterSet) return { action: 'keep', because: 'encoding of the text' }
    const override = this.#overrides.get(tag)
    if (override !== undefined) {
      const { action, value } = override
      const because = 'override'
      if (action === 'replace') return { action: 'dummy', because, ...(value !== undefined && { value }) }
      // What is kept on request is still searched: a justification covers the attribute, not the name typed into it.
      return { action: action === 'keep' ? (vr === 'SQ' ? 'enter' : 'echo') : action, because }
    }
    // Without its data, of which nothing can be cleaned, an overlay is not one: the group goes as a whole.
    if (tag >>> 24 === 0x60) return { action: 'remove', because: 'E.1-1 X of overlays' }
    if (tag >>> 24 === 0x50) return { action: 'remove', because: 'E.1-1 X of curves' }
    const row = rowOf(tag)
    if (row !== undefined) return this.#byRow(row, tag, vr, sopClassUid)
    return this.#withoutRow(tag, vr)
  }

  #byRow(row: Row, tag: Tag, vr: Vr, sopClassUid: string): Decision {
    const option = this.#chosen(row)
    if (option !== undefined) {
      const [name, code] = option
      const because = `option ${name}`
      if (vr === 'SQ') return { action: 'enter', because }
      if (code === 'K') return { action: isDate(vr) || vr === 'UI' ? 'keep' : 'echo', because }
      if (isDate(vr)) return { action: 'shift', because }
      if (vr === 'UI') return { action: 'uid', because }
      return { action: isBulkVr(vr) ? 'remove' : 'clean', because }
    }
    const because = `E.1-1 ${row.basic}`
    const action = basicAction(row.basic, tag, vr, sopClassUid)
    return { action: action === 'uid' && vr === 'SQ' ? 'enter' : action, because }
  }

  /** The option that decides: modified dates go before any K, which would keep the date of a device as it is. */
  #chosen(row: Row): readonly [string, 'K' | 'C'] | undefined {
    if (row.options.retainLongitudinalModifiedDates !== undefined && datesOf(this.#profile) === 'shifted')
      return ['retainLongitudinalModifiedDates', 'C']
    let cleaning: readonly [string, 'C'] | undefined
    for (const name of this.#profile.options) {
      const code = row.options[name]
      if (code === 'K') return [name, 'K']
      if (code === 'C') cleaning ??= [name, 'C']
    }
    return cleaning
  }

  #withoutRow(tag: Tag, vr: Vr): Decision {
    const entry = entryOf(tag)
    const because = `no row: ${vr}`
    if (entry === undefined) return { action: 'remove', because: 'unknown attribute' }
    if (alwaysRemoved.has(tag)) return { action: 'remove', because: `${because}, refused` }
    if (vr === 'SQ') return { action: 'enter', because }
    if (vr === 'UI') return { action: hasOption(this.#profile, 'retainUIDs') ? 'keep' : 'uid', because }
    if (isDate(vr)) return { action: dateActions[datesOf(this.#profile)], because }
    if (vr === 'PN' || vr === 'AE') return { action: 'empty', because }
    if (isBulkVr(vr)) return { action: retainedBulk.has(tag) ? 'keep' : 'remove', because }
    if (retainedText.has(tag)) return { action: 'echo', because: `${because}, vetted` }
    // A place in a network, not of the patient; never Type 1.
    if (vr === 'UR') return { action: 'remove', because }
    if (isFreeText(vr)) return { action: hasOption(this.#profile, 'cleanDescriptors') ? 'clean' : 'dummy', because }
    return { action: 'echo', because }
  }
}

/**
 * What Table E.1-1 forgot: birth and death dates in an alternative calendar (0010,0033), (0010,0034), and its name
 * (0010,0035); Encrypted Attributes (0400,0500), which may hold the very originals.
 */
const alwaysRemoved: ReadonlySet<Tag> = new Set([0x00100033, 0x00100034, 0x00100035, 0x04000500])

const specificCharacterSet: Tag = 0x00080005

const dateActions = { kept: 'keep', shifted: 'shift', removed: 'empty' } as const

/** True for VRs whose values are dates or times. */
export function isDate(vr: Vr): boolean {
  return vr === 'DA' || vr === 'DT' || vr === 'TM'
}

/** True for VRs into which people type sentences. */
export function isFreeText(vr: Vr): boolean {
  return vr === 'LO' || vr === 'ST' || vr === 'LT' || vr === 'UT' || vr === 'UC'
}

function basicAction(code: BasicCode, tag: Tag, vr: Vr, sopClassUid: string): Action {
  switch (code) {
    case 'K':
      return vr === 'SQ' ? 'enter' : 'keep'
    case 'X':
      if (!isRequired(sopClassUid, tag)) return 'remove'
      return emptySequence(sopClassUid, tag) === true ? 'empty' : 'dummy'
    case 'Z':
      return 'empty'
    case 'D':
      return 'dummy'
    case 'U':
    case 'X/Z/U*':
      return 'uid'
    case 'C':
      return 'clean'
    case 'X/Z':
      if (emptySequence(sopClassUid, tag) === false) return 'remove'
      return knownType(sopClassUid, tag) === 3 ? 'remove' : 'empty'
    case 'X/D':
    case 'X/Z/D':
      if (vr === 'SQ') return emptySequence(sopClassUid, tag) === true ? 'empty' : 'remove'
      return knownType(sopClassUid, tag) === 3 ? 'remove' : 'dummy'
    case 'Z/D':
      return 'dummy'
  }
}
