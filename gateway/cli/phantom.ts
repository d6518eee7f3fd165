/**
 * A synthetic chest for the demo's CT study: body, lungs, spine, heart and a nodule as ellipses in
 * Hounsfield units, with noise. Nobody's anatomy.
 */

/** An ellipse in the unit square, visible in slices `from`..`to` (0..1). */
interface Ellipse {
  readonly x: number
  readonly y: number
  readonly rx: number
  readonly ry: number
  readonly hounsfield: number
  readonly from: number
  readonly to: number
}

const organs: readonly Ellipse[] = [
  { x: 0.5, y: 0.5, rx: 0.42, ry: 0.31, hounsfield: 40, from: 0, to: 1 },
  { x: 0.31, y: 0.5, rx: 0.13, ry: 0.2, hounsfield: -820, from: 0.05, to: 0.95 },
  { x: 0.69, y: 0.5, rx: 0.13, ry: 0.2, hounsfield: -820, from: 0.05, to: 0.95 },
  { x: 0.53, y: 0.44, rx: 0.1, ry: 0.11, hounsfield: 55, from: 0.25, to: 0.75 },
  { x: 0.5, y: 0.72, rx: 0.055, ry: 0.06, hounsfield: 420, from: 0, to: 1 },
  { x: 0.5, y: 0.72, rx: 0.02, ry: 0.022, hounsfield: 20, from: 0, to: 1 },
  { x: 0.66, y: 0.42, rx: 0.03, ry: 0.03, hounsfield: 60, from: 0.42, to: 0.58 },
]

/**
 * One axial slice, 16 bit signed little endian, row by row; stored value = Hounsfield unit.
 *
 * @param position  0 (feet) to 1 (head)
 * @param seed      makes the noise, the same for the same seed
 */
export function chestSlice(size: number, position: number, seed: number): Uint8Array {
  const pixels = new Int16Array(size * size).fill(-1000)
  for (const organ of organs) {
    if (position < organ.from || position > organ.to) continue
    // Organs narrow towards both of their ends.
    const middle = (organ.from + organ.to) / 2
    const reach =
      organ.from === 0 ? 1 : Math.sqrt(Math.max(0, 1 - ((position - middle) / (middle - organ.from + 0.02)) ** 2))
    const rx = organ.rx * reach
    const ry = organ.ry * reach
    const bottom = Math.min(size - 1, Math.floor((organ.y + ry) * size))
    for (let row = Math.max(0, Math.ceil((organ.y - ry) * size)); row <= bottom; row++) {
      const dy = (row / size - organ.y) / ry
      const half = rx * Math.sqrt(Math.max(0, 1 - dy * dy))
      pixels.fill(
        organ.hounsfield,
        row * size + Math.ceil((organ.x - half) * size),
        row * size + Math.floor((organ.x + half) * size),
      )
    }
  }
  addNoise(pixels, seed)
  return new Uint8Array(pixels.buffer)
}

/** A linear congruential generator is noise enough for a phantom. */
function addNoise(pixels: Int16Array, seed: number): void {
  let state = (seed * 2_654_435_761 + 12_345) >>> 0
  for (let i = 0; i < pixels.length; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    pixels[i] = (pixels[i] ?? 0) + (state >>> 27) - 16
  }
}
