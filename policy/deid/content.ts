/** Content items of structured reports and of other sequences made of them (PS3.15 §E.3.4, PS3.3 §C.17.3). */
import { type Dataset, itemsOf, stringOf } from '../../gateway/dicom/dataset.ts'
import type { Tag } from '../../gateway/dicom/tag.ts'
import { datesOf, type Profile } from './profile.ts'
import { conceptRowOf, type OptionCode } from './tables.ts'

/**
 * What becomes of a content item: gone, or its value changed so; `usual` treats each attribute by its own row; `hold`:
 * it must go, but others refer to places behind it.
 */
export type ContentRule = 'remove' | 'hold' | 'usual' | 'dummy' | 'shift' | 'keep' | 'clean'

/** The attributes that hold the value of a content item. */
export const contentValueTags: ReadonlySet<Tag> = new Set([0x0040a120, 0x0040a121, 0x0040a122, 0x0040a123, 0x0040a160])

/** Referenced Content Item Identifier: places in the tree by number, which removed items would shift. */
export const contentReference: Tag = 0x0040db73

/**
 * The rule for an item; undefined when it is no content item.
 *
 * @param removal  `keep-places`: a simple value becomes a dummy instead of going
 */
export function contentRule(
  item: Dataset,
  profile: Profile,
  removal: 'remove' | 'keep-places',
): ContentRule | undefined {
  const rule = freeRule(item, profile)
  if (rule !== 'remove' || removal === 'remove') return rule
  return hasSimpleValue(stringOf(item, 0x0040a040) ?? '') ? 'dummy' : 'hold'
}

function freeRule(item: Dataset, profile: Profile): ContentRule | undefined {
  const valueType = stringOf(item, 0x0040a040)
  if (valueType === undefined) return undefined
  const [concept] = itemsOf(item, 0x0040a043)
  const code = concept && (stringOf(concept, 0x00080100) ?? stringOf(concept, 0x00080119))
  const row = code === undefined ? undefined : conceptRowOf((concept && stringOf(concept, 0x00080102)) ?? '', code)
  if (row === undefined) return unlisted(valueType, profile)
  const chosen = chosenOption(row.options, profile)
  if (chosen === undefined) {
    if (row.basic === 'X') return 'remove'
    return hasSimpleValue(valueType) ? 'dummy' : 'usual'
  }
  if (!hasSimpleValue(valueType)) return 'usual'
  if (chosen === 'K') return isTime(valueType) ? 'keep' : 'clean'
  return isTime(valueType) ? 'shift' : 'clean'
}

/** Without a row: what can name somebody goes, dates follow the profile, the rest is measured or coded. */
function unlisted(valueType: string, profile: Profile): ContentRule {
  if (valueType === 'TEXT' || valueType === 'PNAME') return 'remove'
  if (!isTime(valueType)) return 'usual'
  const dates = datesOf(profile)
  return dates === 'removed' ? 'remove' : dates === 'shifted' ? 'shift' : 'keep'
}

function chosenOption(
  options: Readonly<Partial<Record<string, OptionCode>>>,
  profile: Profile,
): OptionCode | undefined {
  if (options['retainLongitudinalModifiedDates'] !== undefined && datesOf(profile) === 'shifted') return 'C'
  const codes = profile.options.map(option => options[option])
  return codes.find(code => code === 'K') ?? codes.find(code => code === 'C')
}

function hasSimpleValue(valueType: string): boolean {
  return valueType === 'TEXT' || valueType === 'PNAME' || isTime(valueType)
}

function isTime(valueType: string): boolean {
  return valueType === 'DATE' || valueType === 'TIME' || valueType === 'DATETIME'
}
