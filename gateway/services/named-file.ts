/** A stored instance as a file in a transfer syntax that a request names. */
import { authorize } from '../../policy/authorize.ts'
import { findLayout } from '../dicom/part10-layout.ts'
import { transferSyntax } from '../dicom/uid.ts'
import { GatewayError } from '../errors.ts'
import type { NamedSyntax } from '../pixels/pixels.ts'
import type { Principal } from '../principal.ts'
import { chunksOf } from './modify.ts'
import { derivedFrom, type NamedPixels } from './named-syntax.ts'
import type { Retrieve } from './retrieve.ts'

/** Makes such files; each is audited as access to the instance. */
export interface NamedFiles {
  /**
   * The bytes of the file, each chunk valid until the next one is asked for. What would lose something is another object.
   *
   * @throws GatewayError while iterating: NOT_FOUND, BAD_REQUEST for an unknown transfer syntax, TRANSCODE_UNSUPPORTED and
   *   what else `Pixels.recodeAsNamed` throws
   */
  read(principal: Principal, orthancId: string, named: NamedSyntax, signal: AbortSignal): AsyncGenerator<Uint8Array>
}

export function openNamedFiles(options: {
  readonly retrieve: Pick<Retrieve, 'openInstance'>
  readonly pixels: NamedPixels
}): NamedFiles {
  const { retrieve, pixels } = options
  return {
    async *read(principal, orthancId, named, signal) {
      authorize(principal, 'study.read')
      const { to } = named
      if (!transferSyntax(to)) throw new GatewayError('BAD_REQUEST', 'transcode: expected a known transfer syntax')
      const { blob, sopInstanceUid } = await retrieve.openInstance(principal, orthancId)
      try {
        const { transferSyntaxUid: from } = await findLayout(blob)
        if (from === to) yield* chunksOf(blob)
        else {
          const how = { from, ...named, ...derivedFrom(sopInstanceUid, from, to) }
          const made = await pixels.recodeAsNamed(blob, how, signal)
          try {
            yield* chunksOf(made.open())
          } finally {
            await made.close()
          }
        }
      } finally {
        await blob.close()
      }
    },
  }
}
