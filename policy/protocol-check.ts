/**
 * Compares what somebody chose for a visit with what the protocol asks for. Findings are sentences for a coordinator; they
 * name series by number, so that they hold nothing of the patient.
 */
import type { Range, SeriesRequirement, Visit } from './trial-protocol.ts'

/** What is known of one series. */
export interface SeriesFacts {
  readonly seriesInstanceUid: string
  /** Series Number (0020,0011), or its place in the study. */
  readonly number: string
  readonly modality: string
  readonly bodyPart?: string | undefined
  readonly description?: string | undefined
  /** Slice Thickness (0018,0050) of its images, mm; undefined when one has none. */
  readonly sliceThickness?: { readonly min: number; readonly max: number } | undefined
  readonly images: number
}

/** One chosen study. */
export interface ChosenStudy {
  /** Study Date (0008,0020), `YYYYMMDD`. */
  readonly date?: string | undefined
  readonly series: readonly SeriesFacts[]
}

/** `stop`: it cannot be sent as it is. `deviation`: who approves it says why it is sent all the same. */
export type Severity = 'stop' | 'deviation'

export interface Finding {
  readonly code: FindingCode
  readonly severity: Severity
  /** A sentence. */
  readonly message: string
}

export type FindingCode =
  | 'wrong-modality'
  | 'series-missing'
  | 'visit-window'
  | 'no-study-date'
  | 'no-day-zero'
  | 'subject-unlinked'
  | 'subject-withdrawn'
  | 'other-patient'
  | 'consent-missing'
  | 'study-used'
  | 'visit-used'

/** @param dayZero  of the subject, `YYYY-MM-DD` */
export function checkProtocol(visit: Visit, dayZero: string | undefined, chosen: readonly ChosenStudy[]): Finding[] {
  const all = chosen.flatMap(({ series }) => series)
  return [...checkWindow(visit, dayZero, chosen), ...checkSeries(visit, all)]
}

function checkWindow(visit: Visit, dayZero: string | undefined, chosen: readonly ChosenStudy[]): Finding[] {
  const { day, before, after, name } = visit
  if (day === undefined) return []
  if (dayZero === undefined) {
    const message = `Day 0 of the subject is not known, so that the window of visit ${name} cannot be checked.`
    return [{ code: 'no-day-zero', severity: 'deviation', message }]
  }
  const [first, last] = [dayOf(dayZero) + day - before, dayOf(dayZero) + day + after]
  return chosen.flatMap(({ date }): Finding[] => {
    const at = date === undefined ? undefined : dayOf(`${date.slice(0, 4)}-${date.slice(4, 6)}-${date.slice(6, 8)}`)
    if (at === undefined || Number.isNaN(at)) {
      const message = `A chosen study has no date, so that the window of visit ${name} cannot be checked.`
      return [{ code: 'no-study-date', severity: 'deviation', message }]
    }
    if (at >= first && at <= last) return []
    const [away, how] = at < first ? [first - at, 'early'] : [at - last, 'late']
    const window = first === last ? `on ${textOf(first)}` : `from ${textOf(first)} to ${textOf(last)}`
    const message = `Visit ${name} is due ${window}; the study is of ${textOf(at)}, ${count(away, 'day')} too ${how}.`
    return [{ code: 'visit-window', severity: 'deviation', message }]
  })
}

function checkSeries(visit: Visit, all: readonly SeriesFacts[]): Finding[] {
  const wanted = [...new Set(visit.series.map(({ modality }) => modality))]
  const there = [...new Set(all.map(({ modality }) => modality))]
  if (!wanted.some(modality => there.includes(modality))) {
    const have = there.length === 0 ? 'no series' : `${there.sort().join(', ')} only`
    const message = `Visit ${visit.name} asks for ${wanted.join(' and ')}; the chosen studies have ${have}. Is it the right study?`
    return [{ code: 'wrong-modality', severity: 'stop', message }]
  }
  // Narrow ones choose first, so that a wide one does not take what only they need.
  const narrowFirst = [...visit.series].sort((a, b) => termsOf(b).length - termsOf(a).length)
  const free = new Set(all)
  return narrowFirst.flatMap((requirement): Finding[] => {
    const fitting = [...free].filter(series => misfits(requirement, series).length === 0).slice(0, requirement.count)
    for (const series of fitting) free.delete(series)
    const missing = requirement.count - fitting.length
    if (missing === 0) return []
    const near = [...free].filter(({ modality }) => modality === requirement.modality).slice(0, 3)
    const why = near.map(each => `series ${each.number} ${misfits(requirement, each).join(' and ')}`)
    const reasons = why.length > 0 ? `: ${why.join('; ')}` : ''
    const asked = `${count(requirement.count, 'series', 'series')} "${requirement.name}" (${termsOf(requirement).join(', ')})`
    const message = `Visit ${visit.name} asks for ${asked}; ${missing === requirement.count ? 'there is none' : `${missing} of them missing`}${reasons}.`
    return [{ code: 'series-missing', severity: 'deviation', message }]
  })
}

/** Why a series is not what is asked for; empty when it is. */
function misfits(wanted: SeriesRequirement, series: SeriesFacts): string[] {
  const { bodyPart, description, sliceThickness: thickness, images } = wanted
  const found: string[] = []
  if (series.modality !== wanted.modality) found.push(`is ${series.modality || 'of no modality'}`)
  if (bodyPart !== undefined && series.bodyPart !== bodyPart)
    found.push(series.bodyPart ? `is of ${series.bodyPart}` : 'names no body part')
  if (description !== undefined && !folded(series.description ?? '').includes(folded(description)))
    found.push(`is not called "${description}"`)
  if (thickness !== undefined) {
    const { sliceThickness: slices } = series
    if (slices === undefined) found.push('has no slice thickness')
    else if (!isWithin(slices.min, thickness) || !isWithin(slices.max, thickness))
      found.push(`has slices of ${slices.min === slices.max ? slices.max : `${slices.min} to ${slices.max}`} mm`)
  }
  if (images !== undefined && !isWithin(series.images, images)) found.push(`has ${count(series.images, 'image')}`)
  return found
}

/** What is asked for, in words. */
function termsOf({ modality, bodyPart, description, sliceThickness, images }: SeriesRequirement): string[] {
  return [
    modality,
    ...(bodyPart === undefined ? [] : [bodyPart]),
    ...(description === undefined ? [] : [`called "${description}"`]),
    ...(sliceThickness === undefined ? [] : [`slices of ${between(sliceThickness)} mm`]),
    ...(images === undefined ? [] : [`${between(images)} images`]),
  ]
}

function between({ min, max }: Range): string {
  if (min !== undefined && max !== undefined) return min === max ? `${min}` : `${min} to ${max}`
  return max === undefined ? `at least ${min ?? 0}` : `at most ${max}`
}

const isWithin = (value: number, { min = 0, max = Number.POSITIVE_INFINITY }: Range): boolean =>
  value >= min && value <= max
const folded = (value: string): string => value.normalize('NFKC').toLowerCase()
const count = (many: number, one: string, more = `${one}s`): string => `${many} ${many === 1 ? one : more}`

const dayMs = 86_400_000
/** Days since 1970-01-01; NaN for what is no date. */
const dayOf = (date: string): number => Date.parse(`${date}T00:00:00Z`) / dayMs
const textOf = (day: number): string => new Date(day * dayMs).toISOString().slice(0, 10)
