/** Reads an instance for de-identification, and refuses what is none that may be de-identified. */
import type { ByteSource } from '../../gateway/dicom/byte-source.ts'
import { type Dataset, type Encoding, findElement, itemsOf, stringOf, stringsOf } from '../../gateway/dicom/dataset.ts'
import { DatasetBuilder } from '../../gateway/dicom/dataset-builder.ts'
import { walk } from '../../gateway/dicom/element-walker.ts'
import { inflateSource } from '../../gateway/dicom/inflate-source.ts'
import { findLayout, type Part10Layout } from '../../gateway/dicom/part10-layout.ts'
import {
  explicitVrBigEndian,
  explicitVrLittleEndian,
  implicitVrLittleEndian,
  isUid,
  storageSopClasses,
  transferSyntax,
} from '../../gateway/dicom/uid.ts'
import { isBulkVr, type Vr, vrFacts } from '../../gateway/dicom/vr.ts'
import { contentReference } from './content.ts'
import { HoldError } from './hold.ts'
import type { Profile } from './profile.ts'
import type { Subject } from './project.ts'

/** An instance as read: everything but bulk values is in memory. */
export interface Instance {
  readonly dataset: Dataset
  readonly datasetOffset: number
  readonly encoding: Encoding
  readonly isDeflated: boolean
  readonly transferSyntaxUid: string
  readonly sopClassUid: string
  readonly sopInstanceUid: string
  readonly studyUid: string
  readonly subject: Subject
  readonly hasContentReferences: boolean
}

/** Longer texts are not searched, and so not kept; numbers as text are contours of millions of points. */
const maxTextBytes = 1_048_576
const maxNumbersBytes = 67_108_864
const maxUnknownBytes = 65_536
const maxTotalBytes = 134_217_728
const maxInflatedBytes = 4_294_967_296
const limits = { maxDepth: 64, maxElements: 5_000_000 }

/**
 * Reads and classifies an instance.
 *
 * @param classify  told between reading and classifying
 * @throws HoldError; GatewayError DICOM_UNREADABLE, DICOM_LIMIT
 */
export async function readInstance(
  source: ByteSource,
  profile: Profile,
  classify: (() => void) | undefined = undefined,
): Promise<Instance> {
  const layout = await findLayout(source)
  const builder = reader()
  if (layout.isDeflated) {
    await using inflated = inflateSource(source, layout.datasetOffset, maxInflatedBytes)
    await walk(inflated, { offset: 0, encoding: layout.encoding }, builder, limits)
  } else {
    const { datasetOffset: offset, encoding, window } = layout
    await walk(source, { offset, encoding, window }, builder, limits)
  }
  classify?.()
  return classified(builder.dataset, layout, profile)
}

/** Values of text and numbers are copied, bulk stays in the source. */
function reader(): DatasetBuilder {
  let leftBytes = maxTotalBytes
  return new DatasetBuilder(
    ({ vr, length }, _depth, holdsItems) => {
      if (holdsItems) return 'enter'
      // UN may be private text of implicit VR; larger ones are none.
      if ((isBulkVr(vr) && (vr !== 'UN' || length > maxUnknownBytes)) || length > maxBytesOf(vr) || length > leftBytes)
        return 'skip'
      leftBytes -= length
      return 'value'
    },
    bytes => Buffer.from(bytes),
  )
}

function maxBytesOf(vr: Vr): number {
  return vrFacts(vr).kind === 'binary' || vr === 'DS' || vr === 'IS' ? maxNumbersBytes : maxTextBytes
}

function classified(dataset: Dataset, layout: Part10Layout, profile: Profile): Instance {
  const sopClassUid = stringOf(dataset, 0x00080016) ?? ''
  const sopInstanceUid = stringOf(dataset, 0x00080018) ?? ''
  if (isDirectory(dataset, layout))
    throw new HoldError('directory', 'a DICOMDIR names patients and files; it is made anew for new files', {
      tag: 0x00041220,
      rule: 'directories are not instances',
    })
  if (sopClassUid === '' || sopInstanceUid === '')
    throw new HoldError('not-an-instance', 'SOP class or SOP instance is not named', {
      tag: sopClassUid === '' ? 0x00080016 : 0x00080018,
      rule: 'an instance names itself',
    })
  refuseClass(sopClassUid, profile)
  checkCharset(dataset)
  const studyUid = stringOf(dataset, 0x0020000d) ?? ''
  return {
    dataset,
    datasetOffset: layout.datasetOffset,
    encoding: layout.encoding,
    isDeflated: layout.isDeflated,
    transferSyntaxUid: syntaxOf(layout),
    sopClassUid,
    sopInstanceUid,
    studyUid,
    subject: subjectOf(dataset, studyUid || sopInstanceUid),
    hasContentReferences: holds(dataset, contentReference),
  }
}

function isDirectory(dataset: Dataset, { meta }: Part10Layout): boolean {
  return stringOf(meta, 0x00020002) === '1.2.840.10008.1.3.10' || findElement(dataset, 0x00041220) !== undefined
}

/** Classes whose content is a document, a file or raw data of a vendor. */
const opaqueClasses = /^1\.2\.840\.10008\.5\.1\.4\.1\.1\.(?:104\.\d+|66|9\.100\.\d+)$/

function refuseClass(sopClassUid: string, { sopClasses }: Profile): void {
  const refuse = (why: string): never => {
    throw new HoldError('sop-class', why, { tag: 0x00080016, rule: shownUid(sopClassUid) })
  }
  if (sopClasses.refuse.includes(sopClassUid)) refuse('the profile refuses this SOP class')
  if (sopClasses.only !== undefined && !sopClasses.only.includes(sopClassUid))
    refuse('the profile does not name this SOP class')
  if (!storageSopClasses.has(sopClassUid)) refuse('a private or unknown SOP class may hold anything')
  if (opaqueClasses.test(sopClassUid))
    refuse('the content of this SOP class is a document or raw data, which cannot be searched')
}

const knownTerm =
  /^(?:|(?:ISO[ _-]?)?(?:2022[ _-]?)?IR[ _-]?(?:6|13|58|87|100|101|109|110|126|127|138|144|148|149|159|166|192|203)|GB18030|GBK|UTF-?8|(?:ISO[ _-]?)?8859[ _-]1)$/i

/** Text in a set that nobody knows cannot be searched for names. */
function checkCharset(dataset: Dataset): void {
  for (const { tag, items } of dataset.elements) {
    if (tag === 0x00080005 && !stringsOf(dataset, tag).every(term => knownTerm.test(term.trim())))
      throw new HoldError('character-set', 'the character set is not a defined one', { tag, rule: 'defined terms' })
    for (const item of items ?? []) checkCharset(item)
  }
}

/** The issuer's name for the patient; without an ID each study is a subject of its own. */
function subjectOf(dataset: Dataset, fallback: string): Subject {
  const id = stringOf(dataset, 0x00100020)?.trim() ?? ''
  if (id === '') return { issuer: 'study', id: fallback }
  const [qualifiers] = itemsOf(dataset, 0x00100024)
  const issuer = stringOf(dataset, 0x00100021) ?? (qualifiers && stringOf(qualifiers, 0x00400032)) ?? ''
  return { issuer: issuer.trim(), id }
}

/** The transfer syntax that the bytes have: where they are native and say otherwise, what they show. */
function syntaxOf({ transferSyntaxUid, encoding, isDeflated }: Part10Layout): string {
  const declared = transferSyntax(transferSyntaxUid)
  const isAsDeclared =
    declared !== undefined &&
    declared.explicitVr === encoding.explicitVr &&
    declared.bigEndian === encoding.bigEndian &&
    declared.deflated === isDeflated
  if (isAsDeclared) return transferSyntaxUid
  if (declared === undefined || declared.encapsulated || declared.deflated)
    throw new HoldError('transfer-syntax', 'the transfer syntax is private, unknown, or not what the bytes show', {
      tag: 0x00020010,
      rule: shownUid(transferSyntaxUid),
    })
  if (!encoding.explicitVr) return implicitVrLittleEndian
  return encoding.bigEndian ? explicitVrBigEndian : explicitVrLittleEndian
}

/** A reason is read by others: what is no UID is not repeated. */
function shownUid(text: string): string {
  return isUid(text) ? text : 'not a UID'
}

function holds(dataset: Dataset, tag: number): boolean {
  return dataset.elements.some(element => element.tag === tag || (element.items ?? []).some(item => holds(item, tag)))
}
