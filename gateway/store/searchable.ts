/** Which attributes the store can be searched by, and gives in matches, at each level. */
import { type Level, levelsOf } from '../dicom/levels.ts'
import { isPrivateTag, type Tag } from '../dicom/tag.ts'
import { computedTags } from './search.ts'

const order: readonly Level[] = ['patient', 'study', 'series', 'instance']

/** True where a query at this level can match and return the attribute; it is kept per level and never private. */
export function isSearchable(tag: Tag, level: Level): boolean {
  if (isPrivateTag(tag)) return false
  const upTo = order.slice(0, order.indexOf(level) + 1)
  if (order.some(each => computedTags[each].includes(tag))) return upTo.some(each => computedTags[each].includes(tag))
  return levelsOf(tag).some(each => upTo.includes(each))
}
