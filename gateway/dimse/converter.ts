/** Makes data sets of the transfer syntaxes that a receiver takes, by the codecs of `pixels/`. */
import { findLayout } from '../dicom/part10-layout.ts'
import { transferSyntaxes } from '../dicom/uid.ts'
import type { Pixels } from '../pixels/pixels.ts'
import { preferredSyntaxes } from '../pixels/syntaxes.ts'
import type { Converter } from './outgoing.ts'

/**
 * @param wanted  transfer syntaxes that the receiver prefers, the best one first
 * @param signal  ends the work
 */
export function pixelConverter(
  pixels: Pick<Pixels, 'transcode'>,
  signal: AbortSignal,
  wanted: readonly string[] = [],
): Converter {
  const known = new Map<string, readonly string[]>()
  const rank = (uid: string): number => (wanted.includes(uid) ? wanted.indexOf(uid) : wanted.length)
  return {
    targets(from) {
      const found = known.get(from)
      if (found) return found
      const all = preferredSyntaxes(from, transferSyntaxes.keys()).filter(uid => uid !== from)
      const targets = all.sort((a, b) => rank(a) - rank(b))
      known.set(from, targets)
      return targets
    },
    async convert(dataset, from, to) {
      const converted = await pixels.transcode(dataset.source, from, to, signal)
      try {
        const source = converted.open()
        const { datasetOffset } = await findLayout(source)
        return { source, datasetOffset, close: () => converted.close() }
      } catch (error) {
        await converted.close()
        throw error
      }
    },
  }
}
