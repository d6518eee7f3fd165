/** Parameters of pictures: DICOM PS3.18 §8.3.5.1. */
import { GatewayError } from '../../errors.ts'
import type { RenderOptions } from '../../services/rendering.ts'

/** How a picture is to be made. */
export type PictureQuery = Pick<RenderOptions, 'width' | 'height' | 'quality' | 'window'>

/** Reads `viewport`, `window` and `quality`. @throws GatewayError BAD_REQUEST */
export function readPicture(query: Readonly<Record<string, unknown>>): PictureQuery {
  const viewport = numbersOf(query, 'viewport', 6)
  const quality = numbersOf(query, 'quality', 1)?.[0]
  const [width, height] = viewport ?? []
  if (viewport && (!isSize(width) || !isSize(height) || viewport.length > 2)) {
    throw new GatewayError('BAD_REQUEST', 'expected viewport=columns,rows')
  }
  if (quality !== undefined && !(quality >= 1 && quality <= 100)) {
    throw new GatewayError('BAD_REQUEST', 'expected quality of 1 to 100')
  }
  return { width, height, quality, window: windowOf(query['window']) }
}

function isSize(value: number | undefined): boolean {
  return value !== undefined && Number.isInteger(value) && value > 0
}

function windowOf(raw: unknown): RenderOptions['window'] {
  if (raw === undefined) return undefined
  const [center = '', width = '', shape = 'linear', ...more] = String(raw).split(',')
  const isNumber = [center, width].every(text => text.trim() !== '' && Number.isFinite(Number(text)))
  // LINEAR_EXACT differs from LINEAR by half a grey value (PS3.3 §C.11.2.1.3).
  if (!isNumber || Number(width) <= 0 || more.length > 0 || !/^(?:linear|linear-exact|sigmoid)$/i.test(shape)) {
    throw new GatewayError('BAD_REQUEST', 'expected window=center,width,function')
  }
  return {
    center: Number(center),
    width: Number(width),
    shape: shape.toLowerCase() === 'sigmoid' ? 'sigmoid' : 'linear',
  }
}

function numbersOf(query: Readonly<Record<string, unknown>>, name: string, most: number): number[] | undefined {
  const raw = query[name]
  if (raw === undefined) return undefined
  const parts = String(raw).split(',')
  const numbers = parts.map(part => (/^\d{1,6}$/.test(part) ? Number(part) : Number.NaN))
  if (parts.length > most || numbers.some(Number.isNaN))
    throw new GatewayError('BAD_REQUEST', `expected numbers for ${name}`)
  return numbers
}
