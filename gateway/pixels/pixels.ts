/** The pixels of stored objects: in another transfer syntax, or frame by frame. The work is done in threads. */
import type { ByteSource } from '../dicom/byte-source.ts'
import { type CodecPoolOptions, openCodecPool } from './codec-pool.ts'
import { type DecodedFrame, decodeFrame, drawFrame, readStoredFrame } from './decode-frame.ts'
import type { ImageFormat } from './image.ts'
import type { PixelLayout } from './layout.ts'
import type { Derived } from './lossy.ts'
import type { PictureTask } from './picture.ts'
import { openSpool, type SpoolOptions } from './spool.ts'
import { type Transcoded, transcode } from './transcode.ts'

/** Settings: the spool's and the threads'. */
export interface PixelsOptions extends SpoolOptions, CodecPoolOptions {
  /** Of JPEG with loss, 1 to 100; default 90. */
  readonly lossyQuality?: number
}

/** A transfer syntax that a person has named. */
export interface NamedSyntax {
  readonly to: string
  /** Of JPEG with loss, 1 to 100; default: that of the settings. */
  readonly quality?: number | undefined
}

/** What can be done with pixels. It must be closed. */
export interface Pixels {
  /**
   * A Part 10 file in another transfer syntax, without loss of anything that is left in it; must be closed.
   *
   * @throws GatewayError TRANSCODE_UNSUPPORTED (the next syntax of `preferredSyntaxes` may do), PIXELS_UNREADABLE,
   *   DICOM_UNREADABLE, DICOM_LIMIT, STORAGE_FULL, STORAGE_IO, UNAVAILABLE; the reason of `signal`
   */
  transcode(source: ByteSource, from: string, to: string, signal: AbortSignal): Promise<Transcoded>
  /**
   * A Part 10 file in a transfer syntax that a person has named; must be closed. Where that loses something
   * (`canCompress`), it becomes another object, with a UID of its own (PS3.3 §C.7.6.1.1.5).
   *
   * @throws GatewayError as `transcode`
   */
  recodeAsNamed(
    source: ByteSource,
    how: Derived & NamedSyntax & { readonly from: string },
    signal: AbortSignal,
  ): Promise<Transcoded>
  /**
   * One frame, decompressed; `index` counts from 0. The layout is that of `readPixelLayout`.
   *
   * @throws GatewayError NOT_FOUND when there is no such frame; otherwise as `transcode`
   */
  decodeFrame(source: ByteSource, layout: PixelLayout, index: number, signal: AbortSignal): Promise<DecodedFrame>
  /**
   * A picture of one frame; `index` counts from 0. The format is that of the frame without compression.
   *
   * @throws GatewayError NOT_FOUND when there is no such frame, PICTURE_UNSUPPORTED; otherwise as `transcode`
   */
  drawFrame(
    source: ByteSource,
    layout: PixelLayout,
    what: { readonly index: number; readonly picture: PictureTask },
    signal: AbortSignal,
  ): Promise<{ readonly bytes: Uint8Array; readonly format: ImageFormat }>
  /** One frame as it is stored, valid until the source is read again or closed. @throws GatewayError NOT_FOUND, DICOM_UNREADABLE, DICOM_LIMIT, TRANSCODE_UNSUPPORTED */
  readFrame(source: ByteSource, layout: PixelLayout, index: number): Promise<Uint8Array>
  close(): Promise<void>
}

/** Opens the spool and the threads. */
export async function openPixels(options: PixelsOptions): Promise<Pixels> {
  const spool = await openSpool(options)
  const pool = openCodecPool(options)
  const { lossyQuality = 90 } = options
  return {
    transcode: (source, from, to, signal) => transcode(source, { from, to, signal }, { pool, spool }),
    recodeAsNamed: (source, { from, to, quality = lossyQuality, ...derived }, signal) =>
      transcode(source, { from, to, signal, named: { quality, ...derived } }, { pool, spool }),
    decodeFrame: (source, layout, index, signal) => decodeFrame(source, layout, index, { pool, signal }),
    drawFrame: (source, layout, what, signal) => drawFrame(source, layout, what, { pool, signal }),
    readFrame: readStoredFrame,
    close: () => pool.close(),
  }
}
