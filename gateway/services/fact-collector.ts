/** Gathers what is known of a study into facts for conditions. */
import type { Facts } from '../../policy/conditions.ts'
import { isObject } from '../decode.ts'
import { keywordOf, parseTag } from '../dicom/tag.ts'

const maxValues = 1000

/** Gathers distinct values by name, bounded. */
export class FactCollector {
  readonly #values = new Map<string, Set<string>>()

  add(name: string, value: unknown): void {
    const text = textOf(value)
    if (text === undefined) return
    const set = this.#values.get(name) ?? new Set<string>()
    if (set.size < maxValues) set.add(text)
    this.#values.set(name, set)
  }

  /** Adds the top-level elements of a DICOM JSON object. */
  addAttributes(json: unknown): void {
    if (!isObject(json)) return
    for (const [key, element] of Object.entries(json)) {
      const tag = parseTag(key)
      const keyword = tag === undefined ? undefined : keywordOf(tag)
      if (!keyword || !isObject(element) || !Array.isArray(element['Value'])) continue
      for (const value of element['Value']) this.add(keyword, value)
    }
  }

  take(): Facts {
    return Object.fromEntries([...this.#values].map(([name, values]) => [name, [...values]]))
  }
}

function textOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value
  if (typeof value === 'number') return String(value)
  // A person name (PS3.18 F.2.2): its alphabetic group.
  if (isObject(value) && typeof value['Alphabetic'] === 'string') return value['Alphabetic']
  return undefined
}
