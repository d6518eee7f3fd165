/** What libvips does for us: JPEG, and sizes that are interpolated. Loaded by the first picture that needs it. */
import type { Raster } from './picture.ts'

type ByteRaster = Raster & { readonly samples: Uint8Array }

async function load() {
  const { default: sharp } = await import('sharp')
  // One picture at a time in each thread, which is one processor.
  sharp.concurrency(1)
  sharp.cache(false)
  return sharp
}

/** A JPEG file. @param quality  1 to 100 */
export async function writeJpeg(
  { width, height, channels, samples }: ByteRaster,
  quality: number,
): Promise<Uint8Array> {
  const sharp = await load()
  const image = sharp(samples, { raw: { width, height, channels }, limitInputPixels: false })
  const gray = channels === 1 ? image.toColourspace('b-w') : image
  // A copy: memory of libvips cannot be moved to another thread.
  return new Uint8Array(await gray.jpeg({ quality, chromaSubsampling: '4:4:4' }).toBuffer())
}

/** Interpolated. */
export async function resizedSmoothly(raster: ByteRaster, width: number, height: number): Promise<ByteRaster> {
  const sharp = await load()
  const { channels } = raster
  const image = sharp(raster.samples, {
    raw: { width: raster.width, height: raster.height, channels },
    limitInputPixels: false,
  })
  const gray = channels === 1 ? image.toColourspace('b-w') : image
  const samples = await gray.resize(width, height, { fit: 'fill' }).raw().toBuffer()
  return { width, height, channels, samples }
}

/** Each pixel takes the nearest one. */
export function resized(raster: ByteRaster, width: number, height: number): ByteRaster {
  const { channels, samples } = raster
  const out = new Uint8Array(width * height * channels)
  let to = 0
  for (let row = 0; row < height; row++) {
    const fromRow = Math.floor(((row + 0.5) * raster.height) / height) * raster.width
    for (let column = 0; column < width; column++) {
      const from = (fromRow + Math.floor(((column + 0.5) * raster.width) / width)) * channels
      for (let channel = 0; channel < channels; channel++) out[to++] = samples[from + channel] ?? 0
    }
  }
  return { width, height, channels, samples: out }
}
