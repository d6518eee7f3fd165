/** Objects in a transfer syntax that a person has named in a request: the only way to a compression with loss. */
import { randomUUID } from 'node:crypto'
import type { ByteSource } from '../dicom/byte-source.ts'
import { GatewayError } from '../errors.ts'
import type { Derived } from '../pixels/lossy.ts'
import type { Pixels } from '../pixels/pixels.ts'
import { canCompress } from '../pixels/syntaxes.ts'
import type { Transcoded } from '../pixels/transcode.ts'

/** What reaches every transfer syntax that is written. */
export type NamedPixels = Pick<Pixels, 'transcode' | 'compress'>

/**
 * A Part 10 file in the transfer syntax that was named; must be closed.
 *
 * @param derived  the object that it becomes if it is compressed with loss
 * @throws GatewayError as `Pixels.transcode`
 */
export async function inNamedSyntax(
  pixels: NamedPixels,
  source: ByteSource,
  { from, to, derived }: { readonly from: string; readonly to: string; readonly derived: Derived },
  signal: AbortSignal,
): Promise<Transcoded> {
  if (canCompress(from, to)) return await pixels.compress(source, { from, to, ...derived }, signal)
  return await pixels.transcode(source, from, to, signal)
}

/** What a stored object becomes when it is handed out compressed with loss; undefined where `to` loses nothing. */
export function derivedFrom(sopInstanceUid: string, from: string, to: string): Required<Derived> | undefined {
  if (!canCompress(from, to)) return undefined
  return {
    sopInstanceUid: `2.25.${BigInt(`0x${randomUUID().replaceAll('-', '')}`)}`,
    predecessor: sopInstanceUid,
  }
}

/** True for the errors of an object that a transfer syntax has no room for, so that it stays as it is. */
export function isLeftAsItIs(error: unknown): error is GatewayError {
  return ['TRANSCODE_UNSUPPORTED', 'PIXELS_UNREADABLE'].some(
    code => error instanceof GatewayError && error.code === code,
  )
}
