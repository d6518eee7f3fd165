/** Which representations a client accepts: single part or multipart, of which type, in which transfer syntax (PS3.18 §8.7). */

import { type Accepted, includes, parseAccept } from '../../dicom/media-type.ts'
import { explicitVrLittleEndian } from '../../dicom/uid.ts'
import { canTranscode } from '../../pixels/syntaxes.ts'

/** One acceptable representation. */
export interface Representation {
  /** Undefined where the client takes both. */
  readonly isMultipart: boolean | undefined
  /** The media type or range of the content, of each part where it is multipart. */
  readonly type: string
  /** `*` is any; undefined is the default of the media type. */
  readonly transferSyntaxUid: string | undefined
  readonly quality: number
}

/**
 * The representations that the client accepts, best first.
 *
 * @throws GatewayError BAD_REQUEST when Accept is malformed
 */
export function representations(accept: string | undefined): Representation[] {
  return parseAccept(accept)
    .filter(({ quality }) => quality > 0)
    .map(range => ({
      isMultipart: range.name === 'multipart/related' ? true : range.name === '*/*' ? undefined : false,
      type: typeOf(range),
      transferSyntaxUid: range.parameters.get('transfer-syntax'),
      quality: range.quality,
    }))
}

function typeOf({ name, parameters }: Accepted): string {
  return name === 'multipart/related' ? (parameters.get('type')?.toLowerCase() ?? '*/*') : name
}

/** Those that a media type satisfies. */
export function ofType(accepted: readonly Representation[], type: string): Representation[] {
  return accepted.filter(each => includes(each.type, type))
}

/**
 * The transfer syntaxes to send an object in, best first; of equally good ones as it is stored. Empty when the client
 * takes none that there is. Without a transfer syntax Explicit VR Little Endian is meant (PS3.18 §8.7.3.5.2), or, where
 * no codec makes it, the one of the store.
 */
export function syntaxesFor(stored: string, accepted: readonly Representation[]): string[] {
  const found = accepted.flatMap(({ transferSyntaxUid: wanted, quality }, place) => {
    if (wanted === '*' || wanted === stored) return [{ uid: stored, quality, place: -1 }]
    const uid = wanted ?? explicitVrLittleEndian
    if (canTranscode(stored, uid)) return [{ uid, quality, place }]
    return wanted === undefined ? [{ uid: stored, quality, place }] : []
  })
  return [...new Set(found.sort((a, b) => b.quality - a.quality || a.place - b.place).map(({ uid }) => uid))]
}
