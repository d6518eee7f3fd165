/** Draws a decoded frame: values to grey levels, sizes, and the format in which a picture leaves. Runs in a codec thread. */
import type { Display, Lut, Window } from './display.ts'
import { stretchedFloats } from './float-values.ts'
import { colorOf, grayValues, type Values } from './gray.ts'
import type { ImageFormat } from './image.ts'
import { encodePam, encodePng } from './picture-formats.ts'
import { unsupportedPicture } from './picture-refusal.ts'
import { resized, resizedSmoothly, writeJpeg } from './sharp.ts'

/**
 * What is drawn. `preview` stretches what is there over all grey levels, `rendered` follows rescaling and window; the
 * others are the stored values, as far as they fit, and `values` are all of them, as numpy has arrays.
 */
export type PictureMode = 'preview' | 'rendered' | 'uint8' | 'uint16' | 'int16' | 'values'

/** How a frame is drawn. */
export interface PictureTask {
  readonly mode: PictureMode
  readonly display: Display
  /** Instead of the image's own; of `rendered`. */
  readonly window?: Window | undefined
  /** Fits into this, keeping its proportions; of `rendered`. */
  readonly fit?: { readonly width?: number; readonly height?: number; readonly isSmooth: boolean } | undefined
  /** `raw` are samples by pixel, little endian. */
  readonly format: 'png' | 'jpeg' | 'pam' | 'raw'
  /** Of JPEG, 1 to 100. */
  readonly quality: number
  /** Of `values`: rescaled floats. */
  readonly isRescaled: boolean
}

/** A picture before it is encoded; by pixel. */
export interface Raster {
  readonly width: number
  readonly height: number
  readonly channels: 1 | 3
  readonly samples: Uint8Array | Uint16Array
}

/**
 * The bytes of the picture.
 *
 * @param frame  as `frameFormat` says, little endian
 * @throws GatewayError PICTURE_UNSUPPORTED
 */
export async function drawPicture(frame: Uint8Array, frameFormat: ImageFormat, task: PictureTask): Promise<Uint8Array> {
  const [native, format] = frameFormat.bitsAllocated === 1 ? unpacked(frame, frameFormat) : [frame, frameFormat]
  if (task.mode === 'values') return valuesOf(native, format, task)
  const raster = await fitted(rasterOf(native, format, task), task)
  switch (task.format) {
    case 'png':
      return encodePng(raster)
    case 'pam':
      return encodePam(raster)
    case 'jpeg': {
      const { samples } = raster
      if (samples instanceof Uint16Array) throw unsupportedPicture('JPEG has samples of 8 bits')
      return await writeJpeg({ ...raster, samples }, task.quality)
    }
    case 'raw':
      return new Uint8Array(raster.samples.buffer, raster.samples.byteOffset, raster.samples.byteLength)
  }
}

/** Samples of one bit as bytes: black and white. */
function unpacked(frame: Uint8Array, format: ImageFormat): [Uint8Array, ImageFormat] {
  const length = format.rows * format.columns * format.samplesPerPixel
  const bytes = Uint8Array.from({ length }, (_, i) => (((frame[i >> 3] ?? 0) >> (i & 7)) & 1) * 255)
  return [bytes, { ...format, bitsAllocated: 8, bitsStored: 8, highBit: 7 }]
}

function rasterOf(native: Uint8Array, format: ImageFormat, task: PictureTask): Raster {
  const { columns: width, rows: height, photometric } = format
  const color = colorOf(native, format, task.display)
  const isStored = task.mode !== 'preview' && task.mode !== 'rendered'
  if (color !== undefined) {
    if (isStored) throw unsupportedPicture('color has no stored grey values')
    return { width, height, channels: 3, samples: color }
  }
  if (format.samplesPerPixel !== 1) throw unsupportedPicture('expected one or three samples for each pixel')
  const values = grayValues(native, format)
  const gray = (samples: Uint8Array | Uint16Array): Raster => ({ width, height, channels: 1, samples })
  switch (task.mode) {
    case 'uint8':
      return gray(Uint8ClampedBytes(values))
    case 'uint16':
      return gray(within(values, 0, 65_535))
    case 'int16':
      return gray(within(values, -32_768, 32_767))
    case 'preview':
      return gray(inverted(isReal(values, format) ? stretchedFloats(values) : stretched(values), photometric))
    default:
      return gray(inverted(windowed(values, format, task), photometric))
  }
}

async function fitted(raster: Raster, { fit }: PictureTask): Promise<Raster> {
  const { samples } = raster
  if (fit === undefined || samples instanceof Uint16Array) return raster
  const ratio = Math.min(
    fit.width === undefined ? Number.POSITIVE_INFINITY : fit.width / raster.width,
    fit.height === undefined ? Number.POSITIVE_INFINITY : fit.height / raster.height,
  )
  if (!Number.isFinite(ratio) || ratio === 1) return raster
  const width = Math.max(1, Math.round(raster.width * ratio))
  const height = Math.max(1, Math.round(raster.height * ratio))
  const source = { ...raster, samples }
  return fit.isSmooth ? await resizedSmoothly(source, width, height) : resized(source, width, height)
}

// ---- grey levels ------------------------------------------------------------------------------------

function Uint8ClampedBytes(values: Values): Uint8Array {
  return new Uint8Array(Uint8ClampedArray.from(values).buffer)
}

/** Two's complement for negative numbers. */
function within(values: Values, least: number, most: number): Uint16Array {
  const out = new Uint16Array(values.length)
  for (let i = 0; i < values.length; i++) {
    const value = values[i] ?? 0
    out[i] = value < least ? least : value > most ? most : value
  }
  return out
}

const isReal = (values: Values, { isFloat = false }: ImageFormat): values is Float64Array =>
  isFloat && values instanceof Float64Array

/** The least value black, the greatest white; one value alone is black. */
function stretched(values: Values): Uint8Array {
  let [least, most] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]
  for (let i = 0; i < values.length; i++) {
    const value = values[i] ?? 0
    if (value < least) least = value
    if (value > most) most = value
  }
  const out = new Uint8Array(values.length)
  if (!(least < most)) return out
  // In floats of 32 bits, so that halves are rounded as Orthanc rounds them.
  const scale = Math.fround(255 / (most - least))
  const shift = Math.fround(-least * scale)
  const level = (value: number): number => Math.fround(Math.fround(scale * value) + shift) + 0.5
  if (values instanceof Float64Array || most - least >= values.length) {
    for (let i = 0; i < values.length; i++) out[i] = level(values[i] ?? 0)
    return out
  }
  const table = tableOf(level, least, most)
  for (let i = 0; i < values.length; i++) out[i] = table[(values[i] ?? 0) - least] ?? 0
  return out
}

/** The levels of all values from the least to the most: `Uint8Array.from` takes ten times as long. */
function tableOf(level: (value: number) => number, least: number, most: number): Uint8Array {
  const table = new Uint8Array(most - least + 1)
  for (let value = least; value <= most; value++) table[value - least] = level(value)
  return table
}

/** Bit by bit, for MONOCHROME1; in place. */
function inverted(samples: Uint8Array, photometric: string): Uint8Array {
  if (photometric === 'MONOCHROME1') for (let i = 0; i < samples.length; i++) samples[i] = 255 - (samples[i] ?? 0)
  return samples
}

/** Through modality transformation and window; by a table where values have at most 16 bits. */
function windowed(values: Values, format: ImageFormat, task: PictureTask): Uint8Array {
  const isWindowed = task.window !== undefined || task.display.window !== undefined
  if (!isWindowed && isReal(values, format)) return stretchedFloats(values)
  const level = levelOf(format, task)
  const out = new Uint8Array(values.length)
  if (values instanceof Float64Array || format.bitsStored > 16) {
    for (let i = 0; i < values.length; i++) out[i] = level(values[i] ?? 0)
    return out
  }
  const least = format.isSigned ? -(2 ** (format.bitsStored - 1)) : 0
  const table = tableOf(level, least, least + 2 ** format.bitsStored - 1)
  for (let i = 0; i < values.length; i++) out[i] = table[(values[i] ?? 0) - least] ?? 0
  return out
}

/** The grey level, 0 to 255, of a stored value. */
function levelOf({ bitsStored }: ImageFormat, { display, window }: PictureTask): (value: number) => number {
  const { slope, intercept, modalityLut, voiLut } = display
  const rescale = modalityLut
    ? (value: number) => entryOf(modalityLut, value)
    : (value: number) => value * slope + intercept
  if (window === undefined && display.window === undefined && voiLut !== undefined) {
    const scale = 255 / (2 ** voiLut.bits - 1)
    return value => clamped(entryOf(voiLut, Math.round(rescale(value))) * scale)
  }
  // Without a window: all numbers of so many bits, as Orthanc has it.
  const width = 2 ** (modalityLut?.bits ?? bitsStored)
  const whole: Window = { center: width / 2, width, shape: 'linear' }
  const shown = window ?? display.window ?? whole
  if (shown.shape === 'sigmoid') {
    return value => clamped(255 / (1 + Math.exp((-4 * (rescale(value) - shown.center)) / shown.width)))
  }
  // LINEAR_EXACT of PS3.3 §C.11.2.1.3.2, as Orthanc has it for all: LINEAR differs by half a value.
  return value => clamped(((rescale(value) - shown.center) / shown.width + 0.5) * 255)
}

const clamped = (level: number): number => (level <= 0 ? 0 : level >= 255 ? 255 : Math.floor(level))

function entryOf({ first, entries }: Lut, value: number): number {
  const index = Math.min(Math.max(value - first, 0), entries.length - 1)
  return entries[index] ?? 0
}

// ---- values -----------------------------------------------------------------------------------------

/** Bytes of RGB; floats of 32 bits of grey when they are rescaled, else the stored numbers in `valueType`. */
function valuesOf(native: Uint8Array, format: ImageFormat, { display, isRescaled }: PictureTask): Uint8Array {
  const color = colorOf(native, format, display)
  if (color !== undefined) return color
  if (format.samplesPerPixel !== 1) throw unsupportedPicture('expected one or three samples for each pixel')
  const values = grayValues(native, format)
  const { slope, intercept } = display
  if (isRescaled) return bytesOf(Float32Array.from(values, value => value * slope + intercept))
  switch (valueType(format)) {
    case 'u1':
      return bytesOf(Uint8Array.from(values))
    case 'u2':
      return bytesOf(Uint16Array.from(values))
    case 'i2':
      return bytesOf(Int16Array.from(values))
    default:
      return bytesOf(Float32Array.from(values))
  }
}

/** The type of stored grey values, as numpy names it. */
export function valueType({ bitsAllocated, isSigned }: ImageFormat): 'u1' | 'u2' | 'i2' | 'f4' {
  if (bitsAllocated > 16) return 'f4'
  if (isSigned) return 'i2'
  return bitsAllocated > 8 ? 'u2' : 'u1'
}

const bytesOf = ({ buffer, byteOffset, byteLength }: ArrayBufferView<ArrayBuffer>): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength)
