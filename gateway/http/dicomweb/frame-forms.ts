/** In which forms the frames of an image can be sent: DICOM PS3.18 §8.7.3.3, Tables 8.7.3-3 to -5. */

import { includes } from '../../dicom/media-type.ts'
import { explicitVrLittleEndian } from '../../dicom/uid.ts'
import { canTranscode, pixelSyntax } from '../../pixels/syntaxes.ts'
import type { FrameFacts } from '../../services/image-frames.ts'
import type { Representation } from './representation.ts'

/** One way to send frames. */
export interface FrameForm {
  /** The media type of a frame. */
  readonly type: string
  readonly transferSyntaxUid: string
  readonly how: 'stored' | 'native' | { readonly uid: string }
  readonly isMultipart: boolean
}

const octets = 'application/octet-stream'
/** Transfer syntaxes by the media type of their frames; the first one is meant where none is named. */
const byType: Readonly<Record<string, readonly string[]>> = {
  'image/jpeg': [
    '1.2.840.10008.1.2.4.70',
    '1.2.840.10008.1.2.4.50',
    '1.2.840.10008.1.2.4.51',
    '1.2.840.10008.1.2.4.53',
    '1.2.840.10008.1.2.4.55',
    '1.2.840.10008.1.2.4.57',
  ],
  'image/dicom-rle': ['1.2.840.10008.1.2.5'],
  'image/jls': ['1.2.840.10008.1.2.4.80', '1.2.840.10008.1.2.4.81'],
  'image/jp2': ['1.2.840.10008.1.2.4.90', '1.2.840.10008.1.2.4.91'],
  'image/jpx': ['1.2.840.10008.1.2.4.92', '1.2.840.10008.1.2.4.93'],
  'image/jphc': ['1.2.840.10008.1.2.4.201', '1.2.840.10008.1.2.4.202', '1.2.840.10008.1.2.4.203'],
  'image/jxl': ['1.2.840.10008.1.2.4.110', '1.2.840.10008.1.2.4.111', '1.2.840.10008.1.2.4.112'],
  'video/mpeg2': ['1.2.840.10008.1.2.4.100', '1.2.840.10008.1.2.4.101'],
  'video/mp4': ['1.2.840.10008.1.2.4.102', '1.2.840.10008.1.2.4.103'],
}
const typeOf: ReadonlyMap<string, string> = new Map(
  Object.entries(byType).flatMap(([type, uids]) => uids.map(uid => [uid, type] as const)),
)

/** The ways that the client accepts, best first. */
export function frameForms(
  facts: FrameFacts,
  accepted: readonly Representation[],
  options: { readonly isOneFrame: boolean },
): FrameForm[] {
  return accepted.flatMap(each => {
    const isMultipart = each.isMultipart ?? true
    if (!isMultipart && !options.isOneFrame) return []
    return formsFor(facts, each).map(form => ({ ...form, isMultipart }))
  })
}

/** A range such as `image/*` is satisfied by the stored form, else by each type in it that the frames can be made. */
function formsFor(
  facts: FrameFacts,
  { type, transferSyntaxUid: wanted }: Representation,
): Omit<FrameForm, 'isMultipart'>[] {
  const form = formFor(facts, type, wanted)
  if (form) return [form]
  if (wanted !== undefined && wanted !== '*') return []
  return Object.entries(byType).flatMap(([each, [uid]]) => {
    const made = includes(type, each) ? compressed(facts, each, uid) : undefined
    return made ? [made] : []
  })
}

function formFor(
  facts: FrameFacts,
  type: string,
  wanted: string | undefined,
): Omit<FrameForm, 'isMultipart'> | undefined {
  const { storedSyntaxUid } = facts
  const storedType = facts.isEncapsulated ? (typeOf.get(storedSyntaxUid) ?? octets) : octets
  const stored = { type: storedType, transferSyntaxUid: storedSyntaxUid, how: 'stored' as const }
  const isOctets = includes(type, octets)
  const isNativePossible = pixelSyntax(storedSyntaxUid) !== undefined
  const native = isNativePossible
    ? { type: octets, transferSyntaxUid: explicitVrLittleEndian, how: 'native' as const }
    : undefined
  // Viewers ask for octets in any transfer syntax and look at the type of each part.
  if (wanted === '*' || wanted === storedSyntaxUid) return isOctets || includes(type, storedType) ? stored : undefined
  if (wanted === undefined) {
    if (isOctets) return native ?? (type === '*/*' ? stored : undefined)
    return includes(type, storedType) ? stored : undefined
  }
  if (pixelSyntax(wanted)?.compression === 'none') return isOctets ? native : undefined
  const wantedType = typeOf.get(wanted)
  return wantedType !== undefined && (isOctets || includes(type, wantedType))
    ? compressed(facts, wantedType, wanted)
    : undefined
}

function compressed(
  { storedSyntaxUid }: FrameFacts,
  type: string,
  uid: string | undefined,
): Omit<FrameForm, 'isMultipart'> | undefined {
  if (uid === undefined || !canTranscode(storedSyntaxUid, uid)) return undefined
  return { type, transferSyntaxUid: uid, how: { uid } }
}
