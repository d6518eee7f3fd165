/** What becomes of an instance's pixel data: copied, blanked, searched, or a reason to hold it. */

import type { ByteSource } from '../../gateway/dicom/byte-source.ts'
import { type Dataset, decodeNumbers, type Element, type Encoding } from '../../gateway/dicom/dataset.ts'
import { transferSyntax } from '../../gateway/dicom/uid.ts'
import { assessBurnedIn } from './burned-in.ts'
import { beginsCodestream, type Codestream, codestreamOf } from './codestream.ts'
import { HoldError } from './hold.ts'
import { type Image, imageOf, nativeLayout, painterOf, type Region } from './image.ts'
import type { Output } from './output.ts'
import { hasOption, type Profile } from './profile.ts'

/** The plan for one instance. */
export interface PixelPlan {
  /** What happened, for the certificate. */
  readonly outcome: 'no pixels' | 'unchanged' | 'blanked' | 'released'
  /** Why the pixels are thought to be free of text, or where it was. */
  readonly rule: string
  readonly regions: readonly Region[]
  put(element: Element, out: Output): void
}

/** Regions must be blanked in compressed pixels: another form of the same instance would do. */
export class CompressedPixelsError extends HoldError {
  readonly transferSyntaxUid: string

  constructor(transferSyntaxUid: string) {
    super('pixels-compressed', 'text must be blanked in compressed pixels, and no codec is at hand for them', {
      tag: pixelData,
      rule: transferSyntaxUid,
    })
    this.transferSyntaxUid = transferSyntaxUid
  }
}

const pixelData = 0x7fe00010
/** What devices append to fill a block. More means that the attributes do not describe these pixels. */
const maxPaddingBytes = 512

/**
 * Plans the pixel data.
 *
 * @throws HoldError burned-in, pixels-compressed, pixels-unsupported, overlay-in-pixels
 */
export async function planPixels(
  source: ByteSource,
  dataset: Dataset,
  encoding: Encoding,
  transferSyntaxUid: string,
  profile: Profile,
  sopClassUid: string,
): Promise<PixelPlan> {
  refuseOverlaysInPixels(dataset)
  const image = imageOf(dataset)
  const copy = (element: Element, out: Output): void => out.copy(element.offset, element.valueOffset + element.length)
  if (image === undefined) return { outcome: 'no pixels', rule: 'no pixel data', regions: [], put: copy }
  const { outcome, rule, regions } = decideRegions(dataset, image, profile, sopClassUid)
  const { fragments } = image.pixelData
  if (fragments !== undefined) {
    const put = await planFragments(source, image, fragments, transferSyntaxUid, regions)
    return { outcome, rule, regions, put: put ?? copy }
  }
  if (transferSyntax(transferSyntaxUid)?.encapsulated === true && image.pixelData.length > 0)
    throw unsupported('native pixel data under a compressed transfer syntax')
  return { outcome, rule, regions, put: planNative(image, encoding, regions) ?? copy }
}

function decideRegions(
  dataset: Dataset,
  image: Image,
  profile: Profile,
  sopClassUid: string,
): Pick<PixelPlan, 'outcome' | 'rule' | 'regions'> {
  const { risk, attribute, rule, regions } = assessBurnedIn(dataset, image, profile)
  const words = attribute === undefined ? rule : `${attribute}: ${rule}`
  if (risk === 'none') return { outcome: 'unchanged', rule: words, regions: [] }
  if (profile.pixels.release.some(entry => entry.sopClassUid === sopClassUid))
    return { outcome: 'released', rule: 'class released by the profile', regions: [] }
  if (hasOption(profile, 'cleanPixelData') && regions !== undefined) return { outcome: 'blanked', rule: words, regions }
  const why = hasOption(profile, 'cleanPixelData')
    ? 'text may be burned into the pixels, and no rule says where'
    : 'text may be burned into the pixels, and the profile does not clean them'
  throw new HoldError('burned-in', `${why} (${words})`, { tag: pixelData, rule: words })
}

function planNative(
  image: Image,
  encoding: Encoding,
  regions: readonly Region[],
): ((element: Element, out: Output) => void) | undefined {
  const { pixelData: element, bitsAllocated } = image
  if (element.length === 0) return undefined
  const layout = nativeLayout(image)
  if (layout === undefined) throw unsupported(`${image.photometric} with ${bitsAllocated} bits allocated`)
  if (element.length > layout.totalBytes + maxPaddingBytes)
    throw unsupported('more bytes than rows, columns and frames make')
  const isFloat = element.tag !== pixelData
  if (isFloat && regions.length > 0) throw unsupported('floating point pixels cannot be blanked')
  // One byte behind the last pixel makes the length even; more than that is not pixels.
  if (regions.length === 0 && element.length <= layout.totalBytes + 1) return undefined
  const isWordSwapped = encoding.bigEndian && element.vr === 'OW' && bitsAllocated <= 8
  const painter = painterOf(image, layout, regions, isWordSwapped, encoding.bigEndian)
  return (found, out) => {
    out.copy(found.offset, found.valueOffset)
    out.paint(found.valueOffset, found.length, painter)
  }
}

// ---- compressed -------------------------------------------------------------------------------------

type Fragments = NonNullable<Element['fragments']>

async function planFragments(
  source: ByteSource,
  { pixelData: element, frames }: Image,
  fragments: Fragments,
  transferSyntaxUid: string,
  regions: readonly Region[],
): Promise<((element: Element, out: Output) => void) | undefined> {
  const family = codestreamOf(transferSyntaxUid)
  if (family === undefined) throw unsupported('video, or a transfer syntax that cannot be searched for text')
  if (regions.length > 0) throw new CompressedPixelsError(transferSyntaxUid)
  const [offsets, ...data] = fragments
  if (offsets !== undefined && offsets.length > 4 * Math.max(frames, data.length))
    throw unsupported('an offset table with more entries than frames')
  if (family === 'plain' || data.length === 0) return undefined
  const grouped = await groupByFrame(source, data, frames, family)
  return (found, out) => {
    const [first] = data
    out.copy(found.offset, (first?.offset ?? 0) - 8)
    for (const frame of grouped) out.frame(frame, family)
    const last = data.at(-1)
    out.copy((last?.offset ?? 0) + (last?.length ?? 0), element.valueOffset + element.length)
  }
}

/** The fragments of each frame: one each, or all of one, or those from one start of a codestream to the next. */
async function groupByFrame(
  source: ByteSource,
  data: Fragments,
  frames: number,
  family: Codestream,
): Promise<Fragments[]> {
  if (frames === 1 && data.length > 1) {
    // Unless the number of frames is wrong, which shows in the second fragment.
    const second = data[1]
    const bytes = second === undefined ? new Uint8Array(0) : await source.read(second.offset, 2)
    if (!beginsCodestream(bytes, family)) return [data]
  }
  if (data.length === frames || family === 'jpeg-xl') return data.map(fragment => [fragment])
  const grouped: Fragments[number][][] = []
  for (const fragment of data) {
    const begins = beginsCodestream(await source.read(fragment.offset, 2), family)
    const current = grouped.at(-1)
    if (begins || current === undefined) grouped.push([fragment])
    else current.push(fragment)
  }
  return grouped
}

// ---- overlays ---------------------------------------------------------------------------------------

/** Overlays in unused bits of the pixels would stay behind when their group is removed. */
function refuseOverlaysInPixels(dataset: Dataset): void {
  for (const element of dataset.elements) {
    if (element.tag >>> 24 !== 0x60 || (element.tag & 0xffff) !== 0x0100) continue
    const [bits = 1] = decodeNumbers(element).map(Number)
    if (bits > 1)
      throw new HoldError('overlay-in-pixels', 'an overlay lies in unused bits of the pixel data', {
        tag: element.tag,
        rule: 'overlays are removed',
      })
  }
}

function unsupported(what: string): HoldError {
  return new HoldError('pixels-unsupported', `the pixel data are of a form that is not handled: ${what}`, {
    tag: pixelData,
    rule: 'what cannot be judged is held',
  })
}
