/** One frame without compression, for previews and for frames over DICOMweb. */
import type { ByteSource } from '../dicom/byte-source.ts'
import { GatewayError } from '../errors.ts'
import type { CodecPool } from './codec-pool.ts'
import { decodedFormat, openFrames } from './frame-coder.ts'
import type { ImageFormat } from './image.ts'
import { datasetSource, formatOf, type PixelLayout } from './layout.ts'
import { pixelSyntax } from './syntaxes.ts'

/** A frame as it would be in Explicit VR Little Endian. */
export interface DecodedFrame {
  /** Little endian; laid out as `format` says. */
  readonly samples: Uint8Array
  readonly format: ImageFormat
}

/** Decodes frame `index`, from 0. @throws GatewayError as `Pixels.decodeFrame` */
export async function decodeFrame(
  source: ByteSource,
  layout: PixelLayout,
  index: number,
  { pool, signal }: { readonly pool: CodecPool; readonly signal: AbortSignal },
): Promise<DecodedFrame> {
  const { pixels } = layout
  if (pixels === undefined || !Number.isInteger(index) || index < 0 || index >= pixels.frames) {
    throw new GatewayError('NOT_FOUND', 'there is no such frame')
  }
  const syntax = pixelSyntax(layout.transferSyntaxUid)
  if (syntax === undefined) throw new GatewayError('TRANSCODE_UNSUPPORTED', 'no codec for this transfer syntax')
  const dataset = datasetSource(source, layout)
  try {
    const reader = await openFrames(dataset, pixels)
    if (pixels.fragments === undefined) return { samples: await reader.read(index), format: formatOf(pixels) }
    const { compression: from } = syntax
    const { stored, native } = await decodedFormat(dataset, pixels, from)
    const task = { object: pool.nextObject(), from, to: 'none', stored, native, written: native } as const
    const samples = await pool.run(async () => ({ ...task, bytes: await reader.read(index) }), signal)
    return { samples, format: native }
  } finally {
    await dataset[Symbol.asyncDispose]?.()
  }
}
