/** UIDs in paths. */
import type { Participant } from '../../audit/event.ts'
import type { Tag } from '../../dicom/tag.ts'
import type { Principal } from '../../principal.ts'
import type { RetrieveKeys } from '../../services/retrieve-plan.ts'

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

/** What a path names, as the keys of a retrieval. */
export function keysOf({ study, series, instance }: Readonly<Record<string, string>>): RetrieveKeys {
  return {
    level: instance !== undefined ? 'instance' : series !== undefined ? 'series' : 'study',
    ...(study !== undefined && { studyUids: [study] }),
    ...(series !== undefined && { seriesUids: [series] }),
    ...(instance !== undefined && { sopInstanceUids: [instance] }),
  }
}

/** The URL of an instance. */
export function instanceUrl(
  baseUrl: string,
  uids: { readonly studyInstanceUid: string; readonly seriesInstanceUid: string; readonly sopInstanceUid: string },
): string {
  return `${baseUrl}/studies/${uids.studyInstanceUid}/series/${uids.seriesInstanceUid}/instances/${uids.sopInstanceUid}`
}

/** Who reads, for the audit log. */
export function readerOf({ id, address }: Principal): Participant {
  return { userId: id, ...(address !== undefined && { address }) }
}
