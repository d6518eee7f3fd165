/**
 * Which Type (PS3.5 §7.4) an attribute with a compound action code has, where that is sure. Classes that are not named
 * here, and attributes that are not, get the action that keeps every IOD valid: a dummy (Type 1) or an empty value
 * (Type 2), which reveal as little as removal.
 */
import type { Tag } from '../../gateway/dicom/tag.ts'

/** Storage classes whose IODs are made of the general modules: CR, DX, MG, CT, US, MR, SC, XA, RF, NM, PET. */
const classicClasses: ReadonlySet<string> = new Set([
  '1.2.840.10008.5.1.4.1.1.1',
  '1.2.840.10008.5.1.4.1.1.1.1',
  '1.2.840.10008.5.1.4.1.1.1.1.1',
  '1.2.840.10008.5.1.4.1.1.1.2',
  '1.2.840.10008.5.1.4.1.1.1.2.1',
  '1.2.840.10008.5.1.4.1.1.2',
  '1.2.840.10008.5.1.4.1.1.3.1',
  '1.2.840.10008.5.1.4.1.1.4',
  '1.2.840.10008.5.1.4.1.1.6.1',
  '1.2.840.10008.5.1.4.1.1.7',
  '1.2.840.10008.5.1.4.1.1.12.1',
  '1.2.840.10008.5.1.4.1.1.12.2',
  '1.2.840.10008.5.1.4.1.1.20',
  '1.2.840.10008.5.1.4.1.1.128',
])

/**
 * Type 3 in every classic IOD: SOP Common (PS3.3 §C.12.1), General Series (§C.7.3.1), General Image (§C.7.6.1) and
 * General Equipment (§C.7.5.1). PET makes (0008,0022) and (0008,0032) Type 2 and (0008,0021) and (0008,0031) Type 1
 * (§C.8.9.1, §C.8.9.4).
 */
const optional: ReadonlySet<Tag> = new Set([
  0x00080012, 0x00080013, 0x00080021, 0x00080022, 0x0008002a, 0x00080031, 0x00080032, 0x00080080, 0x00081010,
  0x00081070, 0x00181000, 0x00181030, 0x00321060,
])
const pet = '1.2.840.10008.5.1.4.1.1.128'
const requiredInPet: ReadonlySet<Tag> = new Set([0x00080021, 0x00080022, 0x00080031, 0x00080032])

/** 3 when the attribute may be absent from this class's IOD for sure; undefined when that is not known. */
export function knownType(sopClassUid: string, tag: Tag): 3 | undefined {
  if (!optional.has(tag) || !classicClasses.has(sopClassUid)) return undefined
  return sopClassUid === pet && requiredInPet.has(tag) ? undefined : 3
}

const presentationStates = '1.2.840.10008.5.1.4.1.1.11.'
const structuredReports = '1.2.840.10008.5.1.4.1.1.88.'

/** Presentation Creation Date and Time: X in Table E.1-1, yet Type 1 (PS3.3 §C.11.10). */
const requiredInPresentations: ReadonlySet<Tag> = new Set([0x00700082, 0x00700083])
/** Sequences of references to studies and procedure steps: Type 2 in reports (PS3.3 §C.17.1), elsewhere Type 3. */
const emptyInReports: ReadonlySet<Tag> = new Set([0x00081110, 0x00081111])
const hangingProtocol = '1.2.840.10008.5.1.4.38.1'
/** Reason for Requested Procedure Code Sequence: X in Table E.1-1, yet Type 2 there (PS3.3 §C.23.1). */
const emptyInHangingProtocols: Tag = 0x0040100a

/** True when this class's IOD requires what Table E.1-1 wants removed: it gets a dummy, or stays empty. */
export function isRequired(sopClassUid: string, tag: Tag): boolean {
  if (tag === emptyInHangingProtocols) return sopClassUid === hangingProtocol
  return requiredInPresentations.has(tag) && sopClassUid.startsWith(presentationStates)
}

/** For sequences with X, X/Z or X/Z/D: whether they are there, empty; undefined when that is not known. */
export function emptySequence(sopClassUid: string, tag: Tag): boolean | undefined {
  if (tag === emptyInHangingProtocols) return sopClassUid === hangingProtocol
  return emptyInReports.has(tag) ? sopClassUid.startsWith(structuredReports) : undefined
}
