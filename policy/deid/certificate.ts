/** What was done to an instance, as data: the caller signs it and sends it along. It names nothing of the source but its digest. */
import type { Region } from './image.ts'
import { notDone } from './marks.ts'
import { edition } from './profile.data.ts'
import { datesOf, type Profile, profileDigest } from './profile.ts'

/** A de-identification certificate of one instance. */
export interface Certificate {
  readonly format: 'hanse-deid-certificate-1'
  readonly profile: { readonly name: string; readonly sha256: string; readonly basis: string; readonly edition: string }
  readonly sopClassUid: string
  /** Of the output, as is the next. */
  readonly sopInstanceUid: string
  /** Empty when the output has none. */
  readonly studyInstanceUid: string
  readonly sourceSha256: string
  readonly outputSha256: string
  readonly outputBytes: number
  readonly dates: 'removed' | 'shifted' | 'kept'
  /** How often each action was taken. */
  readonly counts: Readonly<Record<string, number>>
  readonly pixels: { readonly outcome: string; readonly rule: string; readonly regions: readonly Region[] }
  /** Codes of CID 7050 that are true of the output. */
  readonly methods: readonly string[]
  /** Codes that the profile asks for and that were not carried out. */
  readonly notDone: readonly string[]
  /** The second pass over the output bytes found nothing. */
  readonly verified: true
}

/** The certificate of a verified output. */
export function certificateOf(
  profile: Profile,
  facts: Omit<Certificate, 'format' | 'profile' | 'dates' | 'notDone' | 'verified'>,
): Certificate {
  const { name, basis } = profile
  return {
    format: 'hanse-deid-certificate-1',
    profile: { name, sha256: profileDigest(profile), basis, edition },
    ...facts,
    dates: datesOf(profile),
    notDone: notDone(profile),
    verified: true,
  }
}
