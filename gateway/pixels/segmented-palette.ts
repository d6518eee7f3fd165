/** Palettes that are stored as segments (DICOM PS3.3 C.7.9.2): values one by one, straight lines, and repeats of both. */

const discrete = 0
const linear = 1
const indirect = 2
/** More segments than any palette needs: what repeats itself without end is none. */
const mostSegments = 1_000_000

/**
 * The whole table.
 *
 * @param units  the data in units of the table's entries
 * @param bits   of an entry: an offset has 32 bits, in two units of 16 or four of 8, the least significant first
 * @param length  entries that the descriptor names
 * @returns undefined where the segments do not make so many
 */
export function expandSegments(
  units: ArrayLike<number>,
  bits: 8 | 16,
  length: number,
): Uint16Array<ArrayBuffer> | undefined {
  const entries = new Uint16Array(length)
  const offsetUnits = 32 / bits
  let [filled, segments] = [0, 0]

  /** Writes the segment at `at`; where the next one begins, undefined at one that cannot be. */
  const write = (at: number, mayRepeat: boolean): number | undefined => {
    const [opcode, count] = [units[at], units[at + 1]]
    if (++segments > mostSegments || opcode === undefined || count === undefined) return undefined
    if (opcode === indirect) {
      const next = at + 2 + offsetUnits
      if (!mayRepeat || next > units.length) return undefined
      let from: number | undefined = 0
      for (let unit = offsetUnits - 1; unit >= 0; unit--) from = from * 2 ** bits + (units[at + 2 + unit] ?? 0)
      // The offset counts bytes from the beginning of the data.
      from /= bits / 8
      for (let repeat = 0; repeat < count && from !== undefined; repeat++) from = write(from, false)
      return from === undefined ? undefined : next
    }
    const end = at + 2 + (opcode === discrete ? count : 1)
    if (opcode > linear || end > units.length || filled + count > length) return undefined
    const before = filled > 0 ? (entries[filled - 1] ?? 0) : 0
    const last = units[end - 1] ?? 0
    for (let index = 1; index <= count; index++) {
      entries[filled++] =
        opcode === discrete ? (units[at + 1 + index] ?? 0) : Math.round(before + ((last - before) * index) / count)
    }
    return end
  }

  let at: number | undefined = 0
  while (filled < length) {
    at = write(at, true)
    if (at === undefined) return undefined
  }
  return entries
}
