/**
 * A patient's own identifiers, collected from the attributes that carry them, and taken out of every text that is kept:
 * names are typed into series descriptions, ROI names and code meanings.
 */
import { type Dataset, decodeStrings, type Element } from '../../gateway/dicom/dataset.ts'
import { type Tag, tagOf } from '../../gateway/dicom/tag.ts'

/** What was found, folded (no case, no accents); may be merged over a study. */
export interface Identifiers {
  /** Parts of names of at least two letters. */
  readonly names: Set<string>
  /** Numbers and other designations of at least three characters, as wholes. */
  readonly ids: Set<string>
  /** Birth dates, `YYYYMMDD`. */
  readonly birthDates: Set<string>
  /** The same as found, for searching bytes: names and designations of at least four characters. */
  readonly texts: Set<string>
}

/** No identifiers yet. */
export function noIdentifiers(): Identifiers {
  return { names: new Set(), ids: new Set(), birthDates: new Set(), texts: new Set() }
}

/** Adds what is in `more`. */
export function addIdentifiers(to: Identifiers, more: Identifiers): void {
  for (const name of more.names) to.names.add(name)
  for (const id of more.ids) to.ids.add(id)
  for (const date of more.birthDates) to.birthDates.add(date)
  for (const text of more.texts) to.texts.add(text)
}

/** Text without case and accents, for comparing. */
export function fold(text: string): string {
  if (/^[ -~]*$/.test(text)) return text.toLowerCase()
  return text.normalize('NFKD').replace(/\p{M}/gu, '').toLowerCase().normalize('NFC')
}

/** Words of a text: runs of letters and digits. */
export const wordPattern = /[\p{L}\p{M}\p{N}]+/gu

const tagsOf = (keywords: string): ReadonlySet<Tag> =>
  new Set(
    keywords
      .split(/\s+/)
      .map(tagOf)
      .filter(tag => tag !== undefined),
  )

/** Attributes whose whole value designates a patient, a visit, an order, a place or a device. */
export const idTags = tagsOf(
  `PatientID OtherPatientIDs IssuerOfPatientID AccessionNumber StudyID AdmissionID IssuerOfAdmissionID
   PatientAddress PatientTelephoneNumbers MedicalRecordLocator MilitaryRank InsurancePlanIdentification
   PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest RequestedProcedureID
   ScheduledProcedureStepID PerformedProcedureStepID ServiceEpisodeID InstitutionName InstitutionAddress
   InstitutionalDepartmentName StationName DeviceSerialNumber PersonAddress PersonTelephoneNumbers
   ClinicalTrialSubjectID ClinicalTrialSubjectReadingID ResponsibleOrganization CurrentPatientLocation
   PatientInstitutionResidence SpecimenIdentifier ContainerIdentifier SpecimenAccessionNumber ReferringPhysicianAddress
   ReferringPhysicianTelephoneNumbers PlateID CassetteID GantryID DetectorID`,
)
const patientBirthDate = 0x00100030
/** Dates in other calendars and names of other forms, which have no VR of their own. */
const alternativeBirthDate = 0x00100033
const personNames = new Set([tagOf('PatientBirthName'), tagOf('PatientMotherBirthName'), tagOf('OtherPatientNames')])

/**
 * Collects from a data set, at any depth.
 *
 * @param isKept  attributes that the profile keeps are no secrets
 */
export function collectIdentifiers(
  dataset: Dataset,
  isKept: (element: Element) => boolean,
  into: Identifiers = noIdentifiers(),
): Identifiers {
  for (const element of dataset.elements) {
    const { tag, vr, items } = element
    if (items !== undefined) for (const item of items) collectIdentifiers(item, isKept, into)
    else if (vr === 'PN' || personNames.has(tag)) addNames(element, dataset, into)
    else if (tag === patientBirthDate) addBirthDate(element, dataset, into)
    else if ((idTags.has(tag) || tag === alternativeBirthDate) && !isKept(element)) addId(element, dataset, into)
  }
  return into
}

/** Names consist of five components in up to three groups (PS3.5 §6.2.1); prefix and suffix are titles. */
function addNames(element: Element, dataset: Dataset, into: Identifiers): void {
  for (const value of decodeStrings(element, dataset.charset)) {
    for (const group of value.split('=')) {
      const parts: string[] = []
      for (const component of group.split('^').slice(0, 3)) {
        addText(component, into)
        const words = [...fold(component).matchAll(wordPattern)].map(([word]) => word)
        for (const word of words) if (word.length >= 2 && !isEmptyWord(word)) into.names.add(word)
        if (words.length > 0) parts.push(words.join(''))
      }
      for (const glued of gluedForms(parts)) into.names.add(glued)
      for (const spelled of spellings(group)) into.names.add(spelled)
    }
  }
}

/** Letters that are no others with an accent, as people write them who have no such key. */
const plainLetters: Readonly<Record<string, string>> = {
  ...{ ß: 'ss', ø: 'o', ł: 'l', đ: 'd', ð: 'd', æ: 'ae', œ: 'oe', þ: 'th', ı: 'i' },
}
const doubledLetters: Readonly<Record<string, string>> = {
  ...plainLetters,
  ä: 'ae',
  ö: 'oe',
  ü: 'ue',
  ø: 'oe',
  å: 'aa',
}

/** Other spellings of a name's words: Müßig as muessig and mussig, Mueller as muller, Gross as groß. */
function spellings(group: string): ReadonlySet<string> {
  const found = new Set<string>()
  const lower = group.normalize('NFC').toLowerCase()
  for (const [word] of lower.matchAll(wordPattern)) {
    const replaced = (letters: Readonly<Record<string, string>>): string =>
      [...word].map(letter => letters[letter] ?? letter).join('')
    const undoubled = word.replace(/(?<=[aou])e/g, '').replace(/aa/g, 'a')
    for (const form of [replaced(plainLetters), replaced(doubledLetters), undoubled, word.replaceAll('ss', 'ß')])
      if (form !== word && form.length >= minSpelledLetters) found.add(fold(form))
  }
  return found
}

/** Shorter ones would be words of their own. */
const minSpelledLetters = 5

/** Parts written in one word: O'Brien as obrien, family and given name either way round, with an initial. */
function gluedForms(parts: readonly string[]): readonly string[] {
  const [family = '', given = ''] = parts
  const pairs =
    family.length >= 2 && given !== '' ? [family + given, given + family, family + given[0], given[0] + family] : []
  return [...parts, ...pairs].filter(word => word.length >= 4 && !isEmptyWord(word))
}

function addText(text: string, into: Identifiers): void {
  const trimmed = text.trim()
  if (trimmed.length >= 4 && /\p{L}/u.test(trimmed) && !isEmptyWord(fold(trimmed))) into.texts.add(trimmed)
}

/** Words that stand for a missing name. */
function isEmptyWord(word: string): boolean {
  return word === 'anonymized' || word === 'anonymous' || word === 'unknown' || word === 'none'
}

function addId(element: Element, dataset: Dataset, into: Identifiers): void {
  for (const value of decodeStrings(element, dataset.charset)) {
    const id = fold(value.trim())
    addText(value, into)
    if (id.length < 3 || !/[\p{L}\p{N}]/u.test(id) || isEmptyWord(id)) continue
    into.ids.add(id)
    // 12-345-678 is also written 12345678.
    const compact = id.replaceAll(/[^\p{L}\p{N}]/gu, '')
    if (compact.length >= 4 && /\d/.test(compact)) into.ids.add(compact)
  }
}

function addBirthDate(element: Element, dataset: Dataset, into: Identifiers): void {
  for (const value of decodeStrings(element, dataset.charset)) {
    const digits = value.replaceAll(/\D/g, '')
    if (/^(?:18|19|20)\d{6}$/.test(digits)) into.birthDates.add(digits)
  }
}
