/** One frame without compression, for previews and for frames over DICOMweb. */
import type { ByteSource } from '../dicom/byte-source.ts'
import { GatewayError } from '../errors.ts'
import type { CodecPool } from './codec-pool.ts'
import { decodedFormat, type FrameReader, openFrames } from './frame-coder.ts'
import type { ImageFormat } from './image.ts'
import { datasetSource, formatOf, imageOf, type PixelElement, type PixelLayout } from './layout.ts'
import type { PictureTask } from './picture.ts'
import { type PixelSyntax, pixelSyntax } from './syntaxes.ts'

/** A frame as it would be in Explicit VR Little Endian. */
export interface DecodedFrame {
  /** Little endian; laid out as `format` says. */
  readonly samples: Uint8Array
  readonly format: ImageFormat
}

interface Threads {
  readonly pool: CodecPool
  readonly signal: AbortSignal
}

/** Decodes frame `index`, from 0. @throws GatewayError as `Pixels.decodeFrame` */
export async function decodeFrame(
  source: ByteSource,
  layout: PixelLayout,
  index: number,
  { pool, signal }: Threads,
): Promise<DecodedFrame> {
  return await withFrames(source, layout, index, async (reader, dataset, pixels) => {
    if (pixels.fragments === undefined) return { samples: await reader.read(index), format: formatOf(pixels) }
    const { compression: from } = syntaxOf(layout)
    const { stored, native } = await decodedFormat(dataset, pixels, from)
    const task = { object: pool.nextObject(), from, to: 'none', stored, native, written: native } as const
    const samples = await pool.run(async () => ({ ...task, bytes: await reader.read(index) }), signal)
    return { samples, format: native }
  })
}

/** A picture of frame `index`, from 0. @throws GatewayError as `Pixels.drawFrame` */
export async function drawFrame(
  source: ByteSource,
  layout: PixelLayout,
  { index, picture }: { readonly index: number; readonly picture: PictureTask },
  { pool, signal }: Threads,
): Promise<{ readonly bytes: Uint8Array; readonly format: ImageFormat }> {
  return await withFrames(source, layout, index, async (reader, dataset, pixels) => {
    const from = pixels.fragments === undefined ? 'none' : syntaxOf(layout).compression
    const { stored, native } = await decodedFormat(dataset, pixels, from)
    const task = { object: pool.nextObject(), from, to: 'none', stored, native, written: native, picture } as const
    const bytes = await pool.run(async () => ({ ...task, bytes: await reader.read(index) }), signal)
    return { bytes, format: native }
  })
}

/** The bytes of frame `index`, from 0, as they are stored; maybe in the source's memory. @throws GatewayError as `Pixels.readFrame` */
export async function readStoredFrame(source: ByteSource, layout: PixelLayout, index: number): Promise<Uint8Array> {
  return await withFrames(source, layout, index, reader => reader.peek(index))
}

function syntaxOf({ transferSyntaxUid }: PixelLayout): PixelSyntax {
  const syntax = pixelSyntax(transferSyntaxUid)
  if (syntax === undefined) throw new GatewayError('TRANSCODE_UNSUPPORTED', 'no codec for this transfer syntax')
  return syntax
}

async function withFrames<T>(
  source: ByteSource,
  layout: PixelLayout,
  index: number,
  work: (reader: FrameReader, dataset: ByteSource, pixels: PixelElement) => Promise<T>,
): Promise<T> {
  const pixels = imageOf(layout)
  if (pixels === undefined || !Number.isInteger(index) || index < 0 || index >= pixels.frames) {
    throw new GatewayError('NOT_FOUND', 'there is no such frame')
  }
  const dataset = datasetSource(source, layout)
  try {
    return await work(await openFrames(dataset, pixels), dataset, pixels)
  } finally {
    await dataset[Symbol.asyncDispose]?.()
  }
}
