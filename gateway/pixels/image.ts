/** What the Image Pixel module says about the samples of an image (PS3.3 §C.7.6.3). */

/** How the samples of each frame are laid out; the same for all frames. */
export interface ImageFormat {
  readonly rows: number
  readonly columns: number
  readonly samplesPerPixel: number
  readonly bitsAllocated: number
  readonly bitsStored: number
  readonly highBit: number
  readonly isSigned: boolean
  /** Photometric Interpretation (0028,0004), such as `MONOCHROME2`. */
  readonly photometric: string
  /** Planar Configuration (0028,0006) is 1: one plane after the other. */
  readonly isPlanar: boolean
  /** Samples are real numbers of 32 or 64 bits (PS3.3 §C.7.6.24), of which nothing but pictures and values is made. */
  readonly isFloat?: boolean
}

/** The bits of one frame without compression; YBR_FULL_422 has two samples for each pixel (PS3.3 §C.7.6.3.1.2). */
export function frameBits({ rows, columns, samplesPerPixel, bitsAllocated, photometric }: ImageFormat): number {
  const isSubsampled = samplesPerPixel === 3 && /_422$/.test(photometric)
  return rows * columns * (isSubsampled ? 2 : samplesPerPixel) * bitsAllocated
}

/** The bytes of one frame without compression, the last one filled up. */
export function frameBytes(format: ImageFormat): number {
  return Math.ceil(frameBits(format) / 8)
}

/** Samples color by pixel instead of color by plane, or the other way round, by the format to come. */
export function rearranged(bytes: Uint8Array, format: ImageFormat, isPlanar: boolean): Uint8Array {
  const { samplesPerPixel, bitsAllocated } = format
  if (format.isPlanar === isPlanar || samplesPerPixel === 1) return bytes
  const width = bitsAllocated / 8
  const pixels = format.rows * format.columns
  const out = new Uint8Array(bytes.length)
  for (let sample = 0; sample < samplesPerPixel; sample++) {
    for (let byte = 0; byte < width; byte++) {
      const plane = sample * pixels * width + byte
      const pixel = sample * width + byte
      const step = samplesPerPixel * width
      if (isPlanar) for (let i = 0; i < pixels; i++) out[plane + i * width] = bytes[pixel + i * step] ?? 0
      else for (let i = 0; i < pixels; i++) out[pixel + i * step] = bytes[plane + i * width] ?? 0
    }
  }
  return out
}
