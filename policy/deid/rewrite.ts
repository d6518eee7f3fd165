/** Goes through a data set and says of every element what of it is copied, changed or left out. */
import { charsetOf } from '../../gateway/dicom/charset.ts'
import type { Dataset, Element, Encoding, Item } from '../../gateway/dicom/dataset.ts'
import { entryOf } from '../../gateway/dicom/dictionary.ts'
import { elementHeader, itemHeader, type NewElement, writeElement } from '../../gateway/dicom/part10-writer.ts'
import { isPrivateTag, type Tag } from '../../gateway/dicom/tag.ts'
import { isBulkVr, isVr, type Vr, vrFacts } from '../../gateway/dicom/vr.ts'
import { type Action, type ActionTable, type Decision, isDate } from './action.ts'
import { type ContentRule, contentReference, contentRule, contentValueTags } from './content.ts'
import { dummyElement } from './dummies.ts'
import { HoldError } from './hold.ts'
import { changedText } from './kept-text.ts'
import { Output } from './output.ts'
import { isCreator, PrivateBlocks } from './private.ts'
import type { Profile } from './profile.ts'
import type { Project } from './project.ts'
import type { Scrubber } from './scrub.ts'

/** What a rewrite needs to know, and where it writes down what it did. */
export interface RewriteContext {
  readonly profile: Profile
  readonly table: ActionTable
  readonly project: Project
  readonly scrubber: Scrubber
  readonly sopClassUid: string
  readonly offsetDays: number
  readonly pseudonym: string
  /** Removed items would shift references by position (0040,DB73). */
  readonly hasContentReferences: boolean
  readonly record: RewriteRecord
  /** Puts the pixel data of the top level. */
  pixels(element: Element, out: Output): void
}

/** What was done, for the certificate and the verification. */
export interface RewriteRecord {
  /** How often each action was taken. */
  readonly counts: Map<string, number>
  /** UIDs replaced, original to new. */
  readonly uids: Map<string, string>
  /** Dates as they were written after moving. */
  readonly dates: Set<string>
  /** What became of each attribute, for those who want to see it. */
  readonly note: ((path: readonly Tag[], element: Element, action: Action, because: string) => void) | undefined
}

const pixelDataTags: ReadonlySet<Tag> = new Set([0x7fe00008, 0x7fe00009, 0x7fe00010])
const contributingEquipment: Tag = 0x0018a001
const delimiters = { item: 0xfffee00d, sequence: 0xfffee0dd } as const

/**
 * Writes the rewritten elements of a data set to `out`.
 *
 * @param inserts  elements to add or to put in the place of those of the same tag, ascending; the items of a sequence
 *   in `appended` are added to what is there
 * @throws HoldError for what cannot be decided
 */
export function rewriteTop(
  dataset: Dataset,
  encoding: Encoding,
  inserts: readonly NewElement[],
  context: RewriteContext,
  out: Output,
): void {
  const waiting = [...inserts].sort((a, b) => a.tag - b.tag)
  const inserted = new Set(waiting.map(({ tag }) => tag).filter(tag => tag !== contributingEquipment))
  const place = (before: number): void => {
    for (let next = waiting[0]; next !== undefined && next.tag < before; next = waiting[0]) {
      waiting.shift()
      out.write(writeElement(next, encoding, dataset.charset))
    }
  }
  const blocks = new PrivateBlocks(dataset, context.profile)
  for (const element of dataset.elements) {
    place(element.tag)
    if (inserted.has(element.tag)) continue
    const [next] = waiting
    if (element.tag === contributingEquipment && next?.tag === contributingEquipment && 'items' in next) {
      waiting.shift()
      rewriteSequence(element, encoding, context, out, [], next.items)
    } else rewriteElement(element, dataset, encoding, blocks, undefined, context, out, [])
  }
  place(Number.POSITIVE_INFINITY)
}

function rewriteElement(
  element: Element,
  dataset: Dataset,
  encoding: Encoding,
  blocks: PrivateBlocks,
  content: ContentRule | undefined,
  context: RewriteContext,
  out: Output,
  path: readonly Tag[],
): void {
  if (isPrivateTag(element.tag)) {
    rewritePrivate(element, dataset, encoding, blocks, context, out, path)
    return
  }
  const decision = decide(element, content, context)
  note(element, decision, context, path)
  apply(element, element.vr, dataset, encoding, decision, context, out, path)
}

function decide(element: Element, content: ContentRule | undefined, context: RewriteContext): Decision {
  const { tag, vr } = element
  const usual = context.table.decide(tag, vr, context.sopClassUid)
  if (content === undefined || content === 'usual' || !contentValueTags.has(tag)) return usual
  const action: Action = content === 'remove' || content === 'hold' ? 'empty' : content
  return { action: content === 'keep' && !isDate(vr) ? 'echo' : action, because: 'E.3.4-1' }
}

function rewritePrivate(
  element: Element,
  dataset: Dataset,
  encoding: Encoding,
  blocks: PrivateBlocks,
  context: RewriteContext,
  out: Output,
  path: readonly Tag[],
): void {
  if (isCreator(element.tag)) {
    const isUsed = blocks.isUsedCreator(element.tag)
    note(element, { action: isUsed ? 'keep' : 'remove', because: 'private creator' }, context, path)
    if (isUsed) out.copy(element.offset, endOf(element))
    return
  }
  const vr = blocks.vrOf(element)
  if (vr === undefined) {
    note(element, { action: 'remove', because: 'private' }, context, path)
    return
  }
  const action: Action = vr === 'SQ' ? 'enter' : vr === 'UI' ? 'uid' : isDate(vr) || vr === 'PN' ? 'remove' : 'clean'
  const decision: Decision = { action: isBulkVr(vr) ? 'keep' : action, because: 'E.3.10-1' }
  note(element, decision, context, path)
  apply(element, vr, dataset, encoding, decision, context, out, path)
}

function note(element: Element, { action, because }: Decision, { record }: RewriteContext, path: readonly Tag[]): void {
  record.counts.set(action, (record.counts.get(action) ?? 0) + 1)
  record.note?.(path, element, action, because)
}

function apply(
  element: Element,
  vr: Vr,
  dataset: Dataset,
  encoding: Encoding,
  decision: Decision,
  context: RewriteContext,
  out: Output,
  path: readonly Tag[],
): void {
  const { tag } = element
  switch (decision.action) {
    case 'remove':
      return
    case 'empty':
    case 'dummy':
      replace(element, dataset, encoding, decision, context, out)
      return
    case 'enter':
      if (element.items === undefined) {
        if (element.length === 0) out.copy(element.offset, endOf(element))
        else throw conflict(element)
      } else rewriteSequence(element, encoding, context, out, path, [])
      return
    case 'keep':
    case 'echo':
    case 'clean':
    case 'uid':
    case 'shift':
      break
  }
  checkVr(element, vr)
  if (pixelDataTags.has(tag)) {
    if (path.length > 0)
      throw new HoldError('pixels-unsupported', 'pixel data inside a sequence cannot be judged', {
        tag,
        rule: 'no row',
      })
    context.pixels(element, out)
    return
  }
  const changed = isTextual(vr)
    ? changedText(element, vr, dataset.charset, decision, context)
    : hasPlausibleLength(element, vr)
      ? undefined
      : new Uint8Array(0)
  if (changed === undefined) out.copy(element.offset, endOf(element))
  else out.write(writeElement({ tag, vr: writtenVr(element, vr), value: changed }, encoding, dataset.charset))
}

// ---- sequences --------------------------------------------------------------------------------------

/** Lengths are written anew; whether they are defined stays as it was. */
function rewriteSequence(
  element: Element,
  encoding: Encoding,
  context: RewriteContext,
  out: Output,
  path: readonly Tag[],
  appended: readonly (readonly NewElement[])[],
): void {
  const content = new Output()
  const below = [...path, element.tag]
  const items = element.items ?? []
  let written = 0
  for (const item of items) {
    const rule = contentRule(item, context.profile, context.hasContentReferences ? 'keep-places' : 'remove')
    if (rule === 'hold')
      throw new HoldError('content-references', 'a content item that must go is in a tree with references by place', {
        tag: contentReference,
        rule: 'E.3.4-1',
      })
    if (rule === 'remove') {
      context.record.counts.set('remove-item', (context.record.counts.get('remove-item') ?? 0) + 1)
      continue
    }
    written++
    rewriteItem(item, element, rule, context, content, below)
  }
  for (const item of appended) writeItem(item, element, content)
  // A sequence whose items are all gone is absent: without items a content tree has none.
  if (written === 0 && items.length > 0 && appended.length === 0) return
  const isUnknown = encoding.explicitVr && !element.encoding.explicitVr
  if (element.isUndefinedLength) out.copy(element.offset, element.valueOffset)
  else out.write(elementHeader(element.tag, isUnknown ? 'UN' : 'SQ', content.sizeBytes, encoding))
  out.append(content)
  if (element.isUndefinedLength) out.write(itemHeader(delimiters.sequence, 0, element.encoding))
}

function rewriteItem(
  item: Item,
  sequence: Element,
  rule: ContentRule | undefined,
  context: RewriteContext,
  out: Output,
  path: readonly Tag[],
): void {
  const content = new Output()
  const blocks = new PrivateBlocks(item, context.profile)
  for (const element of item.elements)
    rewriteElement(element, item, sequence.encoding, blocks, rule, context, content, path)
  out.write(itemHeader(0xfffee000, item.isUndefinedLength ? 0xffffffff : content.sizeBytes, sequence.encoding))
  out.append(content)
  if (item.isUndefinedLength) out.write(itemHeader(delimiters.item, 0, sequence.encoding))
}

function writeItem(elements: readonly NewElement[], sequence: Element, out: Output): void {
  const bytes = elements.map(element => writeElement(element, sequence.encoding, charsetOf([])))
  const length = bytes.reduce((sum, part) => sum + part.length, 0)
  out.write(itemHeader(0xfffee000, length, sequence.encoding))
  for (const part of bytes) out.write(part)
}

// ---- values -----------------------------------------------------------------------------------------

const patientName: Tag = 0x00100010
const patientId: Tag = 0x00100020

function replace(
  element: Element,
  dataset: Dataset,
  encoding: Encoding,
  { action, value }: Decision,
  context: RewriteContext,
  out: Output,
): void {
  const { tag, length } = element
  const entry = entryOf(tag)
  const vr = element.vr === 'UN' || entry?.vrs.includes(element.vr) === false ? (entry?.vrs[0] ?? 'UN') : element.vr
  if (value !== undefined) out.write(writeElement({ tag, vr, value }, encoding, dataset.charset))
  else if (tag === patientId || tag === patientName)
    out.write(writeElement({ tag, vr, value: context.pseudonym }, encoding, dataset.charset))
  else if (action === 'dummy' && length > 0) {
    const dummy = dummyElement(tag, vr)
    if (dummy !== undefined) out.write(writeElement(dummy, encoding, dataset.charset))
  } else out.write(writeElement(emptyElement(tag, vr), encoding, dataset.charset))
}

function emptyElement(tag: Tag, vr: Vr): NewElement {
  return vr === 'SQ' ? { tag, items: [] } : { tag, vr, value: new Uint8Array(0) }
}

// ---- what the bytes may be --------------------------------------------------------------------------

function isTextual(vr: Vr): boolean {
  const { kind } = vrFacts(vr)
  return kind === 'text' || kind === 'ascii'
}

/** A value many times longer than its VM allows hides something. */
function hasPlausibleLength({ tag, length }: Element, vr: Vr): boolean {
  if (isBulkVr(vr)) return true
  const vm = entryOf(tag)?.vm ?? 'n'
  if (vm.includes('n')) return true
  const most = Number(vm.split('-').at(-1))
  return length <= Math.max(1, most) * (vr === 'AT' ? 4 : vrFacts(vr).unitBytes) * 2
}

/** A kept attribute must be of a kind that the dictionary gives it: text in a number's place would not be searched. */
function checkVr(element: Element, vr: Vr): void {
  const known = entryOf(element.tag)?.vrs
  if (known === undefined || element.length === 0 || known.includes(vr)) return
  if (known.some(one => kindOf(one) === kindOf(vr))) return
  throw conflict(element)
}

function kindOf(vr: Vr): string {
  if (isBulkVr(vr) && vr !== 'UN') return 'bulk'
  if (vr === 'UI' || vr === 'SQ' || vr === 'UN' || isDate(vr)) return vr
  return isTextual(vr) ? 'text' : 'number'
}

function conflict({ tag, vr }: Element): HoldError {
  return new HoldError('vr-conflict', 'an attribute is encoded as what it cannot be', { tag, rule: `encoded as ${vr}` })
}

function writtenVr(element: Element, vr: Vr): Vr {
  return element.vr === 'UN' && isVr(vr) ? vr : element.vr
}

function endOf({ valueOffset, length }: Element): number {
  return valueOffset + length
}
