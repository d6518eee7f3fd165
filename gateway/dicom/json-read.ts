/** Reads values out of DICOM JSON (PS3.18 Annex F) that this gateway made or has checked. */
import { isObject } from '../decode.ts'
import type { DicomJson, JsonValue } from './json.ts'
import { formatTag, type Tag } from './tag.ts'

/** The values of an element as text, a person name with its component groups joined by `=`; empty when absent. */
export function jsonTexts(document: DicomJson, tag: Tag): string[] {
  return valuesOf(document, tag).map(textOf)
}

/** The first value of an element as text; `''` when absent or empty. */
export function jsonText(document: DicomJson, tag: Tag): string {
  return jsonTexts(document, tag)[0] ?? ''
}

/** The items of a sequence; empty when absent. */
export function jsonItems(document: DicomJson, tag: Tag): DicomJson[] {
  return valuesOf(document, tag).filter(isItem)
}

function valuesOf(document: DicomJson, tag: Tag): readonly JsonValue[] {
  return document[formatTag(tag)]?.Value ?? []
}

function isItem(value: JsonValue): value is DicomJson {
  return isObject(value)
}

function textOf(value: JsonValue): string {
  if (typeof value === 'string' || typeof value === 'number') return String(value)
  if (value === null) return ''
  const group = (name: string): string => {
    const part: unknown = Reflect.get(value, name)
    return typeof part === 'string' ? part : ''
  }
  return [group('Alphabetic'), group('Ideographic'), group('Phonetic')].join('=').replace(/=+$/, '')
}
