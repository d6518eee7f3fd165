/** Attribute tags as numbers, `(group << 16 | element) >>> 0`. */
import { entryOf, tagOfKeyword } from './dictionary.ts'

/** A tag: `(group << 16 | element) >>> 0`, so that tags order as the standard orders them. */
export type Tag = number

/** The tag as eight upper-case hex digits, the key of DICOM JSON (PS3.18 §F.2.2). */
export function formatTag(tag: Tag): string {
  return tag.toString(16).toUpperCase().padStart(8, '0')
}

/** Reads `GGGGEEEE`, `GGGG,EEEE` or `(GGGG,EEEE)`; undefined for anything else. */
export function parseTag(text: string): Tag | undefined {
  const match = /^\(?([0-9a-f]{4}),?([0-9a-f]{4})\)?$/i.exec(text)
  return match ? Number.parseInt(`${match[1]}${match[2]}`, 16) : undefined
}

/** The keyword of PS3.6, such as `PatientName`; undefined for private and unknown tags. */
export function keywordOf(tag: Tag): string | undefined {
  return entryOf(tag)?.keyword
}

/** The tag of a keyword of PS3.6; the first group of repeating groups; undefined when unknown. */
export function tagOf(keyword: string): Tag | undefined {
  return tagOfKeyword(keyword)
}

/** True for tags of odd groups (PS3.5 §7.8). */
export function isPrivateTag(tag: Tag): boolean {
  return (tag & 0x10000) !== 0
}

/** True for (gggg,0000). */
export function isGroupLength(tag: Tag): boolean {
  return (tag & 0xffff) === 0
}
