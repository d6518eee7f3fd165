/** Why an instance is held: nothing of it leaves until a person or another profile decides. */
import { formatTag, keywordOf, type Tag } from '../../gateway/dicom/tag.ts'

/** Stable codes of reasons; people read the text beside them. */
export type HoldCode =
  | 'unreadable'
  | 'not-an-instance'
  | 'directory'
  | 'sop-class'
  | 'transfer-syntax'
  | 'character-set'
  | 'vr-conflict'
  | 'burned-in'
  | 'pixels-compressed'
  | 'pixels-unsupported'
  | 'codestream'
  | 'overlay-in-pixels'
  | 'content-references'
  | 'too-large'
  | 'no-pseudonym'
  | 'subjects'
  | 'verification'
  | 'internal'

/** A held instance: reason and evidence in words and attribute names, never with the patient's values. */
export interface Held {
  readonly kind: 'held'
  readonly code: HoldCode
  readonly reason: string
  /** The attribute that showed it, by keyword, and the rule. */
  readonly evidence: readonly { readonly attribute?: string; readonly rule: string }[]
  /** Something that must not happen has happened: the verification found a value, or the engine failed. */
  readonly isAlert: boolean
}

/** Thrown inside the engine to hold the instance. */
export class HoldError extends Error {
  readonly held: Held

  constructor(code: HoldCode, reason: string, evidence: { tag?: Tag; rule: string } | undefined = undefined) {
    super(reason)
    this.name = 'HoldError'
    this.held = {
      kind: 'held',
      code,
      reason,
      evidence:
        evidence === undefined
          ? []
          : [{ rule: evidence.rule, ...(evidence.tag !== undefined && { attribute: attributeName(evidence.tag) }) }],
      isAlert: code === 'verification' || code === 'internal',
    }
  }
}

/** The keyword, or the tag for what has none. */
export function attributeName(tag: Tag): string {
  return keywordOf(tag) ?? formatTag(tag)
}
