/** What a series says of the number of its instances, and an instance of its place among them. */

/** Attributes in the DICOM JSON model, or anything like it. */
export type Attributes = Readonly<Record<string, { readonly Value?: readonly unknown[] }>>

/** How many instances the series says it has: by temporal positions, time slices, or cardiac images. */
export function expectedInstances(attributes: Attributes): number | undefined {
  const number = (tag: string): number | undefined => wholeNumber(firstText(attributes, tag))
  const images = number('00201002')
  const positions = number('00200105')
  const slices = number('00540081')
  const timeSlices = number('00540101')
  const expected =
    images !== undefined && positions !== undefined
      ? images * positions
      : slices !== undefined && timeSlices !== undefined
        ? slices * timeSlices
        : number('00181090')
  return expected !== undefined && expected > 0 ? expected : undefined
}

/** Instance Number (0020,0013), else Image Index (0054,1330). */
export function indexInSeries(attributes: Attributes): number | undefined {
  return wholeNumber(firstText(attributes, '00200013') ?? firstText(attributes, '00541330'))
}

/** A text that is a whole number of at most 12 digits. */
export function wholeNumber(text: string | undefined): number | undefined {
  const trimmed = text?.trim() ?? ''
  return /^[+-]?\d{1,12}$/.test(trimmed) ? Number(trimmed) : undefined
}

function firstText(attributes: Attributes, tag: string): string | undefined {
  const element = attributes[tag]
  if (element === undefined) return undefined
  const { Value: values = [] } = element
  const [value] = values
  if (values.length !== 1) return ''
  return typeof value === 'string' || typeof value === 'number' ? String(value) : ''
}
