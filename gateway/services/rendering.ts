/** Pictures of stored instances, and their frames as numbers or as they are stored; for every protocol. */
import { authorize } from '../../policy/authorize.ts'
import { type ByteRange, findElement, stringOf } from '../dicom/dataset.ts'
import { readPart10 } from '../dicom/part10-reader.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import { readDisplay, type Window } from '../pixels/display.ts'
import type { ImageFormat } from '../pixels/image.ts'
import { imageOf, type PixelLayout, readPixelLayout } from '../pixels/layout.ts'
import { type PictureMode, type PictureTask, valueType } from '../pixels/picture.ts'
import type { Pixels } from '../pixels/pixels.ts'
import type { Principal } from '../principal.ts'
import type { OpenBlob } from '../store/blobs.ts'
import type { Retrieve } from './retrieve.ts'

/** Formats of pictures. */
export type PictureFormat = 'png' | 'jpeg' | 'pam'

/** How a frame is rendered. */
export interface RenderOptions {
  readonly mode: Exclude<PictureMode, 'values'>
  readonly format: PictureFormat
  /** Of JPEG, 1 to 100; default 90. */
  readonly quality?: number | undefined
  /** Of `rendered`: instead of what the instance says. What is left out is as there. */
  readonly window?: Partial<Window> | undefined
  /** Of `rendered`: the picture fits into so many columns and rows, 1 to 16,384, keeping its proportions. */
  readonly width?: number | undefined
  readonly height?: number | undefined
  /** Of a new size: interpolated. Default: each pixel takes the nearest one. */
  readonly isSmooth?: boolean | undefined
}

/** A picture. */
export interface RenderedPicture {
  readonly bytes: Uint8Array
  readonly mediaType: string
}

/** Frames as numbers: rows by columns by one (grey) or three (RGB) channels, little endian, the last one fastest. */
export interface FrameValues {
  readonly rows: number
  readonly columns: number
  readonly channels: 1 | 3
  /** As numpy names it. */
  readonly type: 'u1' | 'u2' | 'i2' | 'f4'
  readonly bytes: Uint8Array
}

/** A frame as it is stored. */
export interface StoredFrame {
  readonly transferSyntaxUid: string
  readonly bytes: Uint8Array
}

/** An instance that is open for reading its frames. It must be closed. */
export interface OpenImage {
  /** 1 where the instance does not say. */
  readonly frameCount: number
  /** @throws as `Rendering.render` */
  values(frame: number, scale: 'rescaled' | 'stored', signal: AbortSignal): Promise<FrameValues>
  /** Its bytes are valid until the image is closed. @throws as `Rendering.render` */
  stored(frame: number): Promise<StoredFrame>
  close(): Promise<void>
}

/** Renders instances; each call is audited as access to the instance. */
export interface Rendering {
  /**
   * A picture of a frame, from 0.
   *
   * @param orthancId  of the instance
   * @throws GatewayError NOT_FOUND for an unknown instance or frame; PICTURE_UNSUPPORTED for what is no image, or in no
   *   transfer syntax or form that can be drawn; BAD_REQUEST for sizes out of bounds; DICOM_LIMIT; STORAGE_CORRUPT,
   *   STORAGE_IO; UNAVAILABLE; the reason of `signal`
   */
  render(
    principal: Principal,
    orthancId: string,
    frame: number,
    options: RenderOptions,
    signal: AbortSignal,
  ): Promise<RenderedPicture>
  /** Opens an instance for its frames. @throws GatewayError NOT_FOUND, STORAGE_CORRUPT, STORAGE_IO */
  open(principal: Principal, orthancId: string): Promise<OpenImage>
  /** The embedded PDF (PS3.3 §A.45.1); must be closed. @throws GatewayError NOT_FOUND when there is none */
  openPdf(principal: Principal, orthancId: string): Promise<{ readonly blob: OpenBlob; readonly fileSha256: Buffer }>
}

const mediaTypes = {
  png: 'image/png',
  jpeg: 'image/jpeg',
  pam: 'image/x-portable-arbitrarymap',
} as const satisfies Record<PictureFormat, string>
const maxSide = 16_384
const encapsulatedDocument = 0x00420011
const mimeType = 0x00420012

export function openRendering(options: { readonly retrieve: Retrieve; readonly pixels: Pixels }): Rendering {
  const { retrieve, pixels } = options

  const draw = async (
    blob: OpenBlob,
    layout: PixelLayout,
    index: number,
    picture: PictureTask,
    signal: AbortSignal,
  ): Promise<{ bytes: Uint8Array; format: ImageFormat }> =>
    await asPicture(() => pixels.drawFrame(blob, imageLayout(layout, index), { index, picture }, signal))

  return {
    async render(principal, orthancId, frame, wanted, signal) {
      authorize(principal, 'study.read')
      checkBounds(wanted)
      const { blob } = await retrieve.openInstance(principal, orthancId)
      try {
        const [layout, picture] = await asPicture(async () => [
          imageLayout(await readPixelLayout(blob), frame),
          await pictureTask(blob, frame, wanted),
        ])
        const { bytes } = await draw(blob, layout, frame, picture, signal)
        return { bytes, mediaType: mediaTypes[wanted.format] }
      } finally {
        await blob.close()
      }
    },

    async open(principal, orthancId) {
      authorize(principal, 'study.read')
      const { blob } = await retrieve.openInstance(principal, orthancId)
      try {
        const layout = await readPixelLayout(blob)
        return {
          frameCount: imageOf(layout)?.frames ?? 1,
          async values(frame, scale, signal) {
            const isRescaled = scale === 'rescaled'
            const display = await readDisplay(blob, frame)
            const picture = { mode: 'values', display, format: 'raw', quality: 0, isRescaled } as const
            const { bytes, format } = await draw(blob, layout, frame, picture, signal)
            const { rows, columns, samplesPerPixel } = format
            const isGray = samplesPerPixel === 1 && display.palette === undefined
            const type = isGray ? (isRescaled ? 'f4' : valueType(format)) : 'u1'
            return { rows, columns, channels: isGray ? 1 : 3, type, bytes }
          },
          stored: async frame =>
            await asPicture(async () => ({
              transferSyntaxUid: layout.transferSyntaxUid,
              bytes: await pixels.readFrame(blob, imageLayout(layout, frame), frame),
            })),
          close: () => blob.close(),
        }
      } catch (error) {
        await blob.close()
        throw error
      }
    },

    async openPdf(principal, orthancId) {
      authorize(principal, 'study.read')
      const { blob, fileSha256 } = await retrieve.openInstance(principal, orthancId)
      try {
        const { offset: start, length: sizeBytes } = await pdfRange(blob)
        const pdf: OpenBlob = {
          sizeBytes,
          read: (offset, length, into) =>
            blob.read(start + offset, Math.max(0, Math.min(length, sizeBytes - offset)), into),
          close: () => blob.close(),
        }
        return { blob: pdf, fileSha256 }
      } catch (error) {
        await blob.close()
        throw error
      }
    },
  }
}

async function pictureTask(blob: OpenBlob, frame: number, wanted: RenderOptions): Promise<PictureTask> {
  const { mode, format, quality = 90, width, height, isSmooth = false } = wanted
  const display = await readDisplay(blob, frame)
  const { center, width: windowWidth, shape } = { ...display.window, ...wanted.window }
  const isWindowed = center !== undefined && windowWidth !== undefined
  return {
    mode,
    display,
    format,
    quality,
    isRescaled: false,
    window: isWindowed ? { center, width: windowWidth, shape: shape ?? 'linear' } : undefined,
    fit:
      mode === 'rendered' && (width !== undefined || height !== undefined)
        ? { isSmooth, ...(width !== undefined && { width }), ...(height !== undefined && { height }) }
        : undefined,
  }
}

function checkBounds({ width, height, quality = 90, window }: RenderOptions): void {
  for (const side of [width, height]) {
    if (side !== undefined && !(Number.isInteger(side) && side >= 1 && side <= maxSide)) {
      throw new GatewayError('BAD_REQUEST', `expected a width and height of 1 to ${maxSide}`)
    }
  }
  if (!(quality >= 1 && quality <= 100)) throw new GatewayError('BAD_REQUEST', 'expected a quality of 1 to 100')
  if (window?.width !== undefined && !(window.width > 0)) {
    throw new GatewayError('BAD_REQUEST', 'expected a window width above 0')
  }
}

/** What has no pixels at all has no first frame either. @throws GatewayError PICTURE_UNSUPPORTED */
function imageLayout(layout: PixelLayout, frame: number): PixelLayout {
  if (imageOf(layout) === undefined && frame === 0) {
    throw new GatewayError('PICTURE_UNSUPPORTED', 'the instance has no pixel data')
  }
  return layout
}

const undrawable = ['TRANSCODE_UNSUPPORTED', 'PIXELS_UNREADABLE', 'DICOM_UNREADABLE'] as const

/** What cannot be decoded is no picture, whatever the reason. */
async function asPicture<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (cause) {
    if (!undrawable.some(code => isGatewayError(cause, code))) throw cause
    throw new GatewayError('PICTURE_UNSUPPORTED', 'the image cannot be decoded', { cause })
  }
}

/** @throws GatewayError NOT_FOUND */
async function pdfRange(blob: OpenBlob): Promise<ByteRange> {
  const { dataset, isDeflated } = await readPart10(blob, { stopBefore: encapsulatedDocument + 5, maxValueBytes: 1024 })
  const element = findElement(dataset, encapsulatedDocument)
  if (element === undefined || isDeflated || stringOf(dataset, mimeType) !== 'application/pdf') {
    throw new GatewayError('NOT_FOUND', 'the instance holds no PDF')
  }
  const { valueOffset: offset, length } = element
  // Without the byte that makes the length of the value even (PS3.5 §7.1.1).
  const [last] = length > 0 ? await blob.read(offset + length - 1, 1) : []
  return { offset, length: last === 0 ? length - 1 : length }
}
