/** Objects in a transfer syntax that a person has named in a request: the only way to a compression with loss. */
import { newUid } from '../dicom/uid.ts'
import { GatewayError } from '../errors.ts'
import type { Derived } from '../pixels/lossy.ts'
import type { Pixels } from '../pixels/pixels.ts'
import { canCompress } from '../pixels/syntaxes.ts'

/** What reaches every transfer syntax that is written. */
export type NamedPixels = Pick<Pixels, 'recodeAsNamed'>

/** What a stored object becomes when it is handed out compressed with loss; nothing else where `to` loses nothing. */
export function derivedFrom(sopInstanceUid: string, from: string, to: string): Derived {
  if (!canCompress(from, to)) return {}
  return { sopInstanceUid: newUid(), predecessor: sopInstanceUid }
}

/** True for the errors of an object that a transfer syntax has no room for, so that it stays as it is. */
export function isLeftAsItIs(error: unknown): error is GatewayError {
  return ['TRANSCODE_UNSUPPORTED', 'PIXELS_UNREADABLE'].some(
    code => error instanceof GatewayError && error.code === code,
  )
}
