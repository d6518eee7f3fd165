/** What a de-identified instance says of itself, and only what is true of it (PS3.15 §E.1.1). */
import type { NewElement } from '../../gateway/dicom/part10-writer.ts'
import type { PixelPlan } from './pixel-plan.ts'
import { edition } from './profile.data.ts'
import { datesOf, hasOption, type Profile } from './profile.ts'
import { methodMeaning, type OptionName } from './tables.ts'

/** Codes of CID 7050 by option. */
const methodCodes: Readonly<Partial<Record<OptionName, string>>> = {
  cleanGraphics: '113103',
  cleanStructuredContent: '113104',
  cleanDescriptors: '113105',
  retainLongitudinalFullDates: '113106',
  retainLongitudinalModifiedDates: '113107',
  retainPatientCharacteristics: '113108',
  retainDeviceIdentity: '113109',
  retainUIDs: '113110',
  retainSafePrivate: '113111',
  retainInstitutionIdentity: '113112',
}
const basicProfile = '113100'
const cleanPixelData = '113101'

/** The method codes that are true of an instance, ascending. */
export function methodCodesOf(profile: Profile, pixels: Pick<PixelPlan, 'outcome'>): readonly string[] {
  const options = profile.options.map(option => methodCodes[option]).filter(code => code !== undefined)
  const isCleaned =
    hasOption(profile, 'cleanPixelData') && (pixels.outcome === 'blanked' || pixels.outcome === 'unchanged')
  return [basicProfile, ...(isCleaned ? [cleanPixelData] : []), ...options].sort()
}

/** Options that the profile names and the engine does not carry out. */
export function notDone(profile: Profile): readonly string[] {
  return hasOption(profile, 'cleanRecognizableVisualFeatures') ? ['113102'] : []
}

/** The elements that mark an instance, and those of the trial; all are ASCII. */
export function marks(profile: Profile, pixels: Pick<PixelPlan, 'outcome'>, pseudonym: string): readonly NewElement[] {
  const temporal = { kept: 'UNMODIFIED', shifted: 'MODIFIED', removed: 'REMOVED' }[datesOf(profile)]
  const codes = methodCodesOf(profile, pixels)
  return [
    { tag: 0x00120062, vr: 'CS', value: 'YES' },
    { tag: 0x00120063, vr: 'LO', value: [`DICOM PS3.15 ${edition} Annex E`, `Profile ${profile.name}`.slice(0, 64)] },
    { tag: 0x00120064, items: codes.map(code => codeItem(code, methodMeaning(code))) },
    {
      tag: 0x0018a001,
      items: [
        [
          { tag: 0x00080070, vr: 'LO', value: 'Hanse' },
          // DCM 109104 of CID 7005.
          { tag: 0x0040a170, items: [codeItem('109104', 'De-identifying Equipment')] },
        ],
      ],
    },
    ...(codes.includes(cleanPixelData) ? [{ tag: 0x00280301, vr: 'CS', value: 'NO' } as const] : []),
    { tag: 0x00280303, vr: 'CS', value: temporal },
    ...trialElements(profile, pseudonym),
  ]
}

/** Clinical Trial Subject, Study modules (PS3.3 §C.7.1.3, §C.7.2.3); inserted after everything else was decided. */
function trialElements({ trial }: Profile, pseudonym: string): readonly NewElement[] {
  if (trial === undefined) return []
  const text = (tag: number, value: string | undefined): readonly NewElement[] =>
    value === undefined ? [] : [{ tag, vr: 'LO', value }]
  return [
    ...text(0x00120010, trial.sponsor),
    ...text(0x00120020, trial.protocolId),
    ...text(0x00120021, trial.protocolName),
    ...text(0x00120030, trial.siteId),
    ...text(0x00120031, trial.siteName),
    ...text(trial.subject === 'reading-id' ? 0x00120042 : 0x00120040, pseudonym === '' ? undefined : pseudonym),
    ...text(0x00120050, trial.timePointId),
    ...text(0x00120060, trial.coordinatingCenter),
  ]
}

function codeItem(code: string, meaning: string): readonly NewElement[] {
  return [
    { tag: 0x00080100, vr: 'SH', value: code },
    { tag: 0x00080102, vr: 'SH', value: 'DCM' },
    { tag: 0x00080104, vr: 'LO', value: meaning },
  ]
}
