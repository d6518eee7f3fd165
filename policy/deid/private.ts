/** Which private attributes are kept: those of Table E.3.10-1 or of the profile, by creator, group, element and VR. */
import { type Dataset, decodeStrings, type Element } from '../../gateway/dicom/dataset.ts'
import { isPrivateTag, type Tag } from '../../gateway/dicom/tag.ts'
import { isBulkVr, isVr, type Vr } from '../../gateway/dicom/vr.ts'
import { hasOption, type Profile } from './profile.ts'
import { safePrivateVrs } from './tables.ts'

/** Decides about the private elements of one data set or item; blocks are reserved for each anew (PS3.5 §7.8.1). */
export class PrivateBlocks {
  readonly #profile: Profile
  /** Creator by the tag of its element; undefined for a block that two have reserved. */
  readonly #creators = new Map<Tag, string | undefined>()
  readonly #used = new Set<Tag>()

  constructor(dataset: Dataset, profile: Profile) {
    this.#profile = profile
    if (!hasOption(profile, 'retainSafePrivate') && profile.privateAttributes.length === 0) return
    for (const element of dataset.elements) {
      if (!isCreator(element.tag)) continue
      const [creator] = decodeStrings(element, dataset.charset)
      this.#creators.set(element.tag, this.#creators.has(element.tag) ? undefined : creator?.trim())
    }
    if (this.#creators.size === 0) return
    for (const element of dataset.elements) {
      if (isCreator(element.tag) || !isPrivateTag(element.tag)) continue
      if (this.vrOf(element) !== undefined) this.#used.add(creatorOf(element.tag))
    }
  }

  /** True for the creator of a block of which something is kept. */
  isUsedCreator(tag: Tag): boolean {
    return this.#used.has(tag)
  }

  /** The VR under which a private element is kept; undefined for one that goes. */
  vrOf(element: Element): Vr | undefined {
    const { tag, vr } = element
    const creator = this.#creators.get(creatorOf(tag))
    if (creator === undefined || creator === '' || (tag & 0xff00) < 0x1000) return undefined
    const listed = this.#listed(creator, tag)
    if (listed === undefined) return undefined
    if (vr !== 'UN') return listed.includes(vr) ? vr : undefined
    // Implicit VR does not say; what has items of its own would not have been read.
    const [only] = listed
    if (element.value === undefined && element.length > 0) return undefined
    return listed.length === 1 && only !== 'SQ' && only !== undefined && !isBulkVr(only) ? only : undefined
  }

  #listed(creator: string, tag: Tag): readonly Vr[] | undefined {
    const element = ((tag & 0xffff0000) | (tag & 0xff)) >>> 0
    const own = this.#profile.privateAttributes.find(entry => entry.creator === creator && entry.element === element)
    if (own !== undefined) return isVr(own.vr) ? [own.vr] : undefined
    return hasOption(this.#profile, 'retainSafePrivate') ? safePrivateVrs(creator, tag) : undefined
  }
}

/** (gggg,0010) to (gggg,00FF) of an odd group: who has reserved a block. */
export function isCreator(tag: Tag): boolean {
  return isPrivateTag(tag) && (tag & 0xff00) === 0 && (tag & 0xff) >= 0x10
}

function creatorOf(tag: Tag): Tag {
  return ((tag & 0xffff0000) | ((tag >>> 8) & 0xff)) >>> 0
}
