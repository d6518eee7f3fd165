/** What changed between two policy documents, part by part: rules and agreements by their ids, not by their places. */
import { canonicalJson, type PolicyDocument } from './document.ts'

/** One difference; `moved` is a rule that stands elsewhere in the order, which may change what it decides. */
export interface PolicyChange {
  /** Such as `rules.chest-ct` or `agreements.network-2026`. */
  readonly path: string
  readonly kind: 'added' | 'removed' | 'changed' | 'moved'
  readonly before?: unknown
  readonly after?: unknown
}

/** Every difference, in the order of the document. Pure. */
export function diffPolicies(before: PolicyDocument, after: PolicyDocument): readonly PolicyChange[] {
  return [
    ...compare('', { title: before.title }, { title: after.title }),
    ...compare('destinations.', before.destinations, after.destinations),
    ...compare('agreements.', before.agreements, after.agreements),
    ...compare('profiles.', byName(before.profiles), byName(after.profiles)),
    ...compareRules('rules.', before.rules, after.rules),
    ...compareRules('incoming.', before.incoming, after.incoming),
  ]
}

type Parts = Readonly<Record<string, unknown>>

const byName = (list: readonly { readonly name: string }[]): Parts =>
  Object.fromEntries(list.map(entry => [entry.name, entry]))
const byId = (list: readonly { readonly id: string }[]): Parts =>
  Object.fromEntries(list.map(entry => [entry.id, entry]))

function compare(prefix: string, before: Parts, after: Parts): PolicyChange[] {
  const changes: PolicyChange[] = []
  for (const [name, old] of Object.entries(before)) {
    const path = `${prefix}${name}`
    if (!Object.hasOwn(after, name)) changes.push({ path, kind: 'removed', before: old })
    else if (canonicalJson(old) !== canonicalJson(after[name]))
      changes.push({ path, kind: 'changed', before: old, after: after[name] })
  }
  for (const [name, fresh] of Object.entries(after))
    if (!Object.hasOwn(before, name)) changes.push({ path: `${prefix}${name}`, kind: 'added', after: fresh })
  return changes
}

function compareRules<R extends { readonly id: string }>(
  prefix: string,
  before: readonly R[],
  after: readonly R[],
): PolicyChange[] {
  const changes = compare(prefix, byId(before), byId(after))
  const kept = (rules: readonly R[], others: readonly R[]): string[] => {
    const ids = new Set(others.map(rule => rule.id))
    return rules.map(rule => rule.id).filter(id => ids.has(id))
  }
  const [old, now] = [kept(before, after), kept(after, before)]
  const inPlace = longestRun(old, now)
  for (const id of now) if (!inPlace.has(id)) changes.push({ path: `${prefix}${id}`, kind: 'moved' })
  return changes
}

/** The most ids that keep their order among each other: the rest has moved. O(n log n). */
function longestRun(before: readonly string[], after: readonly string[]): Set<string> {
  const place = new Map(before.map((id, index) => [id, index]))
  const places = after.map(id => place.get(id) ?? 0)
  /** Index into `places` of the smallest end of a run of each length. */
  const ends: number[] = []
  const previous: number[] = []
  places.forEach((value, index) => {
    let [low, high] = [0, ends.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if ((places[ends[middle] ?? 0] ?? 0) < value) low = middle + 1
      else high = middle
    }
    previous[index] = low > 0 ? (ends[low - 1] ?? -1) : -1
    ends[low] = index
  })
  const kept = new Set<string>()
  for (let index = ends.at(-1) ?? -1; index >= 0; index = previous[index] ?? -1) {
    const id = after[index]
    if (id !== undefined) kept.add(id)
  }
  return kept
}
