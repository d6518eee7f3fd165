/** Profiles that come with the gateway, by name. */
import { decodeProfile, type Profile } from './profile.ts'
import { type OptionName, optionNames } from './tables.ts'

/** Names of the profiles that come along. */
export const presetNames = ['basic', 'trial', 'teaching', 'safe-harbor'] as const

/** A profile by name; undefined for an unknown one. */
export function presetProfile(name: string): Profile | undefined {
  const document = presetSource(name)
  return document === undefined ? undefined : decodeProfile(document)
}

/** The document of a profile that comes along; undefined for an unknown one. */
export function presetSource(name: string): Readonly<Record<string, unknown>> | undefined {
  return Object.hasOwn(presets, name) ? presets[name] : undefined
}

/** The Basic Profile with one option, as `basic+OPTION`; undefined for an unknown option. */
export function basicWith(option: string): Profile | undefined {
  const known: OptionName | undefined = optionNames.find(name => name === option)
  return known && decodeProfile({ ...basic, name: `basic.${known}`, options: [known] })
}

const basic = {
  format: 'hanse-deid-1',
  name: 'basic',
  title: 'Basic Application Level Confidentiality Profile',
  basis: 'expert-determination',
}

const presets: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  basic,
  trial: {
    ...basic,
    name: 'trial',
    title: 'Clinical trial: one subject over time, with what readers need',
    basis: 'consent',
    options: [
      'retainLongitudinalModifiedDates',
      'retainPatientCharacteristics',
      'retainSafePrivate',
      'cleanDescriptors',
      'cleanStructuredContent',
      'cleanGraphics',
      'cleanPixelData',
    ],
  },
  teaching: {
    ...basic,
    name: 'teaching',
    title: 'Teaching file: descriptions cleaned, no dates',
    options: ['cleanDescriptors', 'cleanGraphics', 'cleanPixelData'],
  },
  'safe-harbor': {
    ...basic,
    name: 'safe-harbor',
    title: 'The identifiers of 45 CFR 164.514(b)(2) removed',
    basis: 'safe-harbor',
    options: ['cleanPixelData', 'cleanGraphics'],
  },
}
