/** Decodes photographs and scans (PNG, JPEG) to the samples of a DICOM image. */
import sharp from 'sharp'
import { GatewayError } from '../errors.ts'

/** Samples row by row, colours together; 16-bit ones little endian. */
export interface ImportedImage {
  readonly columns: number
  readonly rows: number
  readonly samplesPerPixel: 1 | 3
  readonly bitsAllocated: 8 | 16
  readonly pixels: Buffer
}

const mostPixels = 50_000_000
const mostSide = 65_535
const formats: ReadonlySet<string> = new Set(['png', 'jpeg'])

/**
 * Grey stays grey, with 16 bits where the file has them; everything else becomes RGB of 8 bits without transparency,
 * upright as its EXIF orientation says.
 *
 * @throws GatewayError DICOM_UNREADABLE for what is no PNG or JPEG or is damaged, TOO_LARGE above 50 megapixels
 */
export async function decodeImage(bytes: Uint8Array): Promise<ImportedImage> {
  const image = sharp(bytes, { limitInputPixels: mostPixels, failOn: 'error', pages: 1 })
  try {
    const { format, space, width, height } = await image.metadata()
    if (!formats.has(format)) throw new GatewayError('DICOM_UNREADABLE', 'expected a PNG or JPEG image')
    if (width > mostSide || height > mostSide || width * height > mostPixels)
      throw new GatewayError('TOO_LARGE', `expected an image of at most ${mostPixels} pixels`)
    const isGrey = space === 'b-w' || space === 'grey16'
    const isDeep = space === 'grey16'
    const { data, info } = await image
      .autoOrient()
      .removeAlpha()
      .toColourspace(isDeep ? 'grey16' : isGrey ? 'b-w' : 'srgb')
      .raw({ depth: isDeep ? 'ushort' : 'uchar' })
      .toBuffer({ resolveWithObject: true })
    if (info.channels !== 1 && info.channels !== 3)
      throw new GatewayError('DICOM_UNREADABLE', 'expected a grey or a colour image')
    return {
      columns: info.width,
      rows: info.height,
      samplesPerPixel: info.channels,
      bitsAllocated: isDeep ? 16 : 8,
      pixels: data,
    }
  } catch (error) {
    if (error instanceof GatewayError) throw error
    throw new GatewayError('DICOM_UNREADABLE', 'the image cannot be decoded', { cause: error })
  }
}
