/** Matches as the identifiers of C-FIND responses, PS3.4 §C.4.1.1.3.2. */
import { isObject } from '../decode.ts'
import { undeclaredEncoding } from '../dicom/charset.ts'
import { type DicomJson, type JsonElement, tagOfName } from '../dicom/json.ts'
import type { Level } from '../dicom/levels.ts'
import type { NewElement } from '../dicom/part10-writer.ts'
import type { Tag } from '../dicom/tag.ts'
import { identifierWriter } from './match-writer.ts'
import { levelNames } from './query-retrieve.ts'

const specificCharacterSet = 0x00080005
const queryRetrieveLevel = 0x00080052
const retrieveAeTitle = 0x00080054
/** Instance Availability. */
export const instanceAvailability = 0x00080056

/** Elements of an identifier that say how to ask, not what for. */
const notKeys: ReadonlySet<Tag> = new Set([
  specificCharacterSet,
  queryRetrieveLevel,
  0x00080053, // Query/Retrieve View
  retrieveAeTitle,
  instanceAvailability,
  0x00080201, // Timezone Offset From UTC
])

/** Group lengths, elements of commands and of file meta information are no attributes of what is stored. */
export const isKey = (tag: Tag): boolean => tag >>> 16 >= 0x0008 && (tag & 0xffff) !== 0 && !notKeys.has(tag)

/** Makes the identifier of a match: what was asked for, empty where the match has none. */
export function matchEncoder(
  options: AnswerOptions & { readonly level: Level; readonly aeTitle: string; readonly isAvailabilityAsked: boolean },
): (attributes: DicomJson) => Uint8Array {
  return answerEncoder(options, [
    { tag: queryRetrieveLevel, value: levelNames[options.level] },
    { tag: retrieveAeTitle, value: options.aeTitle },
    ...(options.isAvailabilityAsked ? [{ tag: instanceAvailability, value: 'ONLINE' }] : []),
  ])
}

/** How the identifiers of answers are made. */
export interface AnswerOptions {
  readonly keys: DicomJson
  /** The request's character set, which the answer keeps where it can; where it has none, the site's default encoding is tried first. */
  readonly terms: readonly string[]
  readonly transferSyntaxUid: string
}

/** Makes the identifier of an answer: what `keys` names, and the elements that every answer has. */
export function answerEncoder(
  { keys, terms, transferSyntaxUid }: AnswerOptions,
  fixed: readonly NewElement[],
): (attributes: DicomJson) => Uint8Array {
  const form = {
    fixed,
    variable: Object.entries(keys).map(([name, { vr }]) => ({ tag: tagOfName(name), vr })),
    transferSyntaxUid,
  }
  const asked = identifierWriter(form, terms.length > 0 ? terms : usualTerms())
  const unicode = identifierWriter(form, ['ISO_IR 192'])
  return attributes => {
    const answer = project(keys, attributes)
    try {
      return asked(answer)
    } catch {
      return unicode(answer)
    }
  }
}

/** What those read who name no character set. */
function usualTerms(): readonly string[] {
  const { terms } = undeclaredEncoding()
  return terms.length > 0 ? terms : ['ISO_IR 192']
}

/** The attributes that `keys` names; of a sequence's items those that its item names, or all. */
function project(keys: DicomJson, attributes: DicomJson): DicomJson {
  const answer: Record<string, JsonElement> = {}
  for (const [name, key] of Object.entries(keys)) {
    const found = attributes[name]
    const [item] = key.vr === 'SQ' ? (key.Value ?? []) : []
    if (!found) answer[name] = { vr: key.vr }
    else if (isItem(item) && Object.keys(item).length > 0) {
      answer[name] = { vr: 'SQ', Value: (found.Value ?? []).map(value => (isItem(value) ? project(item, value) : {})) }
    } else answer[name] = found
  }
  return answer
}

function isItem(value: unknown): value is DicomJson {
  return isObject(value)
}
