/** UIDs in paths. */
import type { Tag } from '../../dicom/tag.ts'

const uid = { type: 'string', pattern: '^[0-9.]{1,64}$' } as const
const tags: Readonly<Record<string, Tag>> = { study: 0x0020000d, series: 0x0020000e, instance: 0x00080018 }

/** The schema of the UIDs that a URL pattern has; nothing where it has none. */
export function uidParams(url: string): { params?: object } {
  const names = [...url.matchAll(/:(study|series|instance)\b/g)].map(([, name = '']) => name)
  if (names.length === 0) return {}
  return {
    params: { type: 'object', properties: Object.fromEntries(names.map(name => [name, uid])), required: names },
  }
}

/** The UIDs of a path by the tags of their attributes. */
export function pathUids(params: Readonly<Record<string, string>>): Map<Tag, string> {
  const found = new Map<Tag, string>()
  for (const [name, tag] of Object.entries(tags)) {
    const value = params[name]
    if (value !== undefined) found.set(tag, value)
  }
  return found
}
