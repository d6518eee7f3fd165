/**
 * Whether text may be burned into the pixels, and where. Nothing here looks at pixels: device, class and attributes
 * tell, and where they do not tell enough the image is held.
 */
import { type Dataset, itemsOf, numbersOf, stringOf, stringsOf } from '../../gateway/dicom/dataset.ts'
import { type Tag, tagOf } from '../../gateway/dicom/tag.ts'
import { signatureLines } from './burned-in.data.ts'
import { attributeName } from './hold.ts'
import type { Image, Region } from './image.ts'
import type { Profile } from './profile.ts'

/** What was concluded, and from what. */
export interface BurnedIn {
  /** `none`: not of a kind that has text; `possible`: of such a kind; `declared`: (0028,0301) says YES. */
  readonly risk: 'none' | 'possible' | 'declared'
  readonly attribute: string | undefined
  readonly rule: string
  /** What to blank, when that is known. */
  readonly regions: readonly Region[] | undefined
}

/** Classes whose images are captures and photographs: (0028,0301) NO is not believed unless the profile says so. */
const captureClasses: ReadonlySet<string> = new Set([
  '1.2.840.10008.5.1.4.1.1.3',
  '1.2.840.10008.5.1.4.1.1.3.1',
  '1.2.840.10008.5.1.4.1.1.6',
  '1.2.840.10008.5.1.4.1.1.6.1',
  '1.2.840.10008.5.1.4.1.1.6.2',
  '1.2.840.10008.5.1.4.1.1.7',
  '1.2.840.10008.5.1.4.1.1.7.1',
  '1.2.840.10008.5.1.4.1.1.7.2',
  '1.2.840.10008.5.1.4.1.1.7.3',
  '1.2.840.10008.5.1.4.1.1.7.4',
  '1.2.840.10008.5.1.4.1.1.77.1.1',
  '1.2.840.10008.5.1.4.1.1.77.1.1.1',
  '1.2.840.10008.5.1.4.1.1.77.1.2',
  '1.2.840.10008.5.1.4.1.1.77.1.2.1',
  '1.2.840.10008.5.1.4.1.1.77.1.4',
  '1.2.840.10008.5.1.4.1.1.77.1.4.1',
  '1.2.840.10008.5.1.4.1.1.77.1.5.1',
  '1.2.840.10008.5.1.4.1.1.77.1.5.2',
])
const captureModalities: ReadonlySet<string> = new Set('US IVUS ES XC OP GM OT SC DOC'.split(' '))
/** X-ray angiography and radiofluoroscopy: originals have no text, what a workstation made of them may. */
const fluoroscopy = /^1\.2\.840\.10008\.5\.1\.4\.1\.1\.12\.[12]$/
const computedRadiography = '1.2.840.10008.5.1.4.1.1.1'
/** Pixels that a program computed: labels, doses, maps. */
const computedClasses = /^1\.2\.840\.10008\.5\.1\.4\.1\.1\.(?:66\.4|66\.7|481\.2|30)$/
const captureWords = /SCREEN|CAPTURE|\bSAVE|REPORT|DOSE|DEMOGRAPHIC|\bLABEL|OVERVIEW|\bTABLE\b|PROTOCOL/i
const captureConversions: ReadonlySet<string> = new Set('DV DF SD SI DRW WSD'.split(' '))
/** Blanking outside of the calibrated regions must hide at least this part of an ultrasound image to count. */
const leastHidden = 0.05

/** Assesses one image. */
export function assessBurnedIn(dataset: Dataset, image: Image, profile: Profile): BurnedIn {
  const declared = stringOf(dataset, 0x00280301)?.toUpperCase()
  const regions = regionsOf(dataset, image, profile)
  const found = riskOf(dataset, declared, profile, regions !== undefined)
  return { ...found, regions }
}

function riskOf(
  dataset: Dataset,
  declared: string | undefined,
  { pixels }: Profile,
  hasRegions: boolean,
): Omit<BurnedIn, 'regions'> {
  if (declared === 'YES') return { risk: 'declared', attribute: 'BurnedInAnnotation', rule: 'declared by the image' }
  const sopClass = stringOf(dataset, 0x00080016) ?? ''
  const possible = (tag: Tag, rule: string): Omit<BurnedIn, 'regions'> => ({
    risk: 'possible',
    attribute: attributeName(tag),
    rule,
  })
  const isTrusted = declared === 'NO' && pixels.trustDeclaredNo
  if (isTrusted) return { risk: 'none', attribute: 'BurnedInAnnotation', rule: 'declared NO, trusted by the profile' }
  if (computedClasses.test(sopClass)) return { risk: 'none', attribute: 'SOPClassUID', rule: 'computed pixels' }
  if (captureClasses.has(sopClass)) return possible(0x00080016, 'class of captures and photographs')
  if (captureModalities.has(stringOf(dataset, 0x00080060) ?? ''))
    return possible(0x00080060, 'captures and photographs')
  if (stringsOf(dataset, 0x00080008).some(value => captureWords.test(value))) return possible(0x00080008, 'capture')
  if (fluoroscopy.test(sopClass) && stringsOf(dataset, 0x00080008)[1] === 'SECONDARY')
    return possible(0x00080008, 'secondary image of angiography or fluoroscopy')
  if (captureWords.test(stringOf(dataset, 0x0008103e) ?? '')) return possible(0x0008103e, 'capture or report')
  if (captureConversions.has(stringOf(dataset, 0x00080064) ?? '')) return possible(0x00080064, 'captured or scanned')
  if (sopClass === computedRadiography && declared !== 'NO')
    return possible(0x00280301, 'computed radiography that does not declare NO')
  if (hasRegions) return possible(0x00081090, 'device known for text in its images')
  return { risk: 'none', attribute: 'SOPClassUID', rule: 'not of a class with text' }
}

// ---- where ------------------------------------------------------------------------------------------

/** Regions of the profile's rules, else of device signatures and of the ultrasound calibration together. */
function regionsOf(dataset: Dataset, image: Image, { pixels }: Profile): readonly Region[] | undefined {
  const contains = (tag: Tag, part: string | undefined): boolean =>
    part === undefined || (stringOf(dataset, tag) ?? '').toLowerCase().includes(part.toLowerCase())
  const rule = pixels.regions.find(
    ({ modality, manufacturer, model, rows, columns }) =>
      contains(0x00080060, modality) &&
      contains(0x00080070, manufacturer) &&
      contains(0x00081090, model) &&
      (rows === undefined || rows === image.rows) &&
      (columns === undefined || columns === image.columns),
  )
  if (rule !== undefined) return rule.blank
  const signature = signatures.find(({ conditions }) => conditions.every(any => any.some(one => holds(one, dataset))))
  const outside = outsideOfCalibrated(dataset, image)
  if (signature === undefined && outside === undefined) return undefined
  return [...(signature?.regions ?? []), ...(outside ?? [])]
}

/** What lies outside of the regions that (0018,6011) calibrates; undefined when that hides next to nothing. */
function outsideOfCalibrated(dataset: Dataset, { rows, columns }: Image): readonly Region[] | undefined {
  const boxes = itemsOf(dataset, 0x00186011).map(item => {
    const at = (tag: Tag): number => numbersOf(item, tag)[0] ?? Number.NaN
    return { left: at(0x00186018), top: at(0x0018601a), right: at(0x0018601c) + 1, bottom: at(0x0018601e) + 1 }
  })
  if (
    boxes.length === 0 ||
    boxes.some(({ left, top, right, bottom }) => !(left >= 0 && top >= 0 && right > left && bottom > top))
  )
    return undefined
  const left = Math.min(...boxes.map(box => box.left))
  const top = Math.min(...boxes.map(box => box.top))
  const right = Math.min(columns, Math.max(...boxes.map(box => box.right)))
  const bottom = Math.min(rows, Math.max(...boxes.map(box => box.bottom)))
  const shown = (right - left) * (bottom - top)
  if (!(shown > 0) || 1 - shown / (rows * columns) < leastHidden) return undefined
  const around: readonly Region[] = [
    [0, 0, columns, top],
    [0, bottom, columns, rows - bottom],
    [0, top, left, bottom - top],
    [right, top, columns - right, bottom - top],
  ]
  return around.filter(([, , width, height]) => width > 0 && height > 0)
}

// ---- signatures -------------------------------------------------------------------------------------

interface Condition {
  readonly operator: string
  readonly tag: Tag
  readonly values: readonly string[]
}

interface Signature {
  readonly conditions: readonly (readonly Condition[])[]
  readonly regions: readonly Region[]
}

function holds({ operator, tag, values }: Condition, dataset: Dataset): boolean {
  const numbers = tag === 0x00280010 || tag === 0x00280011 ? numbersOf(dataset, tag).map(String) : []
  const found = (numbers.length > 0 ? numbers : stringsOf(dataset, tag)).join('+').toLowerCase()
  if (operator === 'missing' || operator === 'empty') return found === ''
  return values.some(value =>
    operator === 'equals' ? found === value.toLowerCase() : found.includes(value.toLowerCase()),
  )
}

const signatures: readonly Signature[] = readSignatures()

function readSignatures(): Signature[] {
  return signatureLines.split('\n').map(line => {
    const [, conditions, regions]: [string, string[][][], number[][]] = JSON.parse(line)
    return {
      conditions: conditions.map(any =>
        any.map(([operator = '', keyword = '', ...values]) => ({ operator, tag: tagOf(keyword) ?? 0, values })),
      ),
      regions: regions.map(([x = 0, y = 0, width = 0, height = 0]) => [x, y, width, height] as const),
    }
  })
}
