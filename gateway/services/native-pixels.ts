/** Lends the de-identification engine the codecs: compressed pixels made native, and back without loss. */
import type { ClosableSource, PixelCodec } from '../../policy/deid/engine.ts'
import type { ByteSource } from '../dicom/byte-source.ts'
import { findLayout } from '../dicom/part10-layout.ts'
import { explicitVrLittleEndian } from '../dicom/uid.ts'
import { isGatewayError } from '../errors.ts'
import type { Pixels } from '../pixels/pixels.ts'
import { canTranscode } from '../pixels/syntaxes.ts'

/**
 * A codec over the codec threads.
 *
 * @param open  called when pixels are met that need it; the owner closes what it gives
 */
export function nativePixels(open: () => Promise<Pick<Pixels, 'transcode'>>, signal: AbortSignal): PixelCodec {
  const convert = async (source: ByteSource, from: string, to: string): Promise<ClosableSource | undefined> => {
    if (!canTranscode(from, to)) return undefined
    try {
      const transcoded = await (await open()).transcode(source, from, to, signal)
      const { sizeBytes, read } = bound(transcoded.open())
      return { sizeBytes, read, [Symbol.asyncDispose]: () => transcoded.close() }
    } catch (error) {
      if (isGatewayError(error, 'TRANSCODE_UNSUPPORTED')) return undefined
      throw error
    }
  }
  return {
    async decode(source) {
      const { transferSyntaxUid } = await findLayout(source)
      return await convert(source, transferSyntaxUid, explicitVrLittleEndian)
    },
    encode: (source, transferSyntaxUid) => convert(source, explicitVrLittleEndian, transferSyntaxUid),
  }
}

function bound(source: ByteSource): ByteSource {
  return { sizeBytes: source.sizeBytes, read: (offset, length) => source.read(offset, length) }
}
