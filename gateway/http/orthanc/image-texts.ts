/** Frames as Matlab, Octave and numpy read them. */
import { encodePng } from '../../pixels/picture-formats.ts'
import type { FrameValues } from '../../services/rendering.ts'

/** A matrix for `eval`, as Orthanc writes it: rows by columns, or by color. */
export function matlabText({ rows, columns, channels, type, bytes }: FrameValues): string {
  const values = arrayOf(type, bytes)
  if (channels === 3) return `double(permute(reshape([ ${values.join(' ')} ], [ 3 ${rows} ${columns} ]), [ 3 2 1 ]))`
  const lines = Array.from({ length: rows }, (_, row) => values.subarray(row * columns, (row + 1) * columns).join(' '))
  return `double([ ${lines.join(' ; ')} ])`
}

/** The header of a `.npy` file (version 1.0 of its format), which the samples follow. */
export function numpyHeader({ rows, columns, channels, type }: FrameValues, frames?: number): Uint8Array {
  const shape = `${frames === undefined ? '' : `${frames}, `}${rows},${columns},${channels}`
  const text = `{'descr': '<${type}', 'fortran_order': False, 'shape': (${shape}), }`
  const start = 10
  // The samples begin at a multiple of 64 bytes.
  const length = Math.ceil((start + text.length + 1) / 64) * 64 - start
  const header = Buffer.alloc(start + length, ' ')
  header.write('\x93NUMPY\x01\x00', 0, 'latin1')
  header.writeUInt16LE(length, 8)
  header.write(text, start, 'latin1')
  header.write('\n', start + length - 1, 'latin1')
  return header
}

/** Stands for an image that cannot be shown. */
export function blankPicture(): Uint8Array {
  const side = 64
  return encodePng({ width: side, height: side, channels: 1, samples: new Uint8Array(side * side).fill(128) })
}

function arrayOf(type: FrameValues['type'], bytes: Uint8Array): Uint8Array | Uint16Array | Int16Array | Float32Array {
  if (type === 'u1') return bytes
  const copy = new Uint8Array(bytes).buffer
  if (type === 'u2') return new Uint16Array(copy)
  return type === 'i2' ? new Int16Array(copy) : new Float32Array(copy)
}
