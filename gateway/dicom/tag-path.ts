/** Places in a data set as Orthanc's API names them: `PatientName`, `0010,0010`, `Sequence[0].Tag`, `Sequence[*].Tag`. */
import { GatewayError } from '../errors.ts'
import type { Dataset } from './dataset.ts'
import { findElement } from './dataset.ts'
import { parseTag, type Tag, tagOf } from './tag.ts'

/** A tag inside of items; `within` is empty at the top level. */
export interface TagPath {
  readonly within: readonly { readonly tag: Tag; readonly item: number | 'all' }[]
  readonly tag: Tag
}

const maxDepth = 16

/** @throws GatewayError BAD_REQUEST for a tag that nobody knows */
export function readTagName(name: string): Tag {
  const tag = parseTag(name.replace('-', ',')) ?? tagOf(name)
  if (tag === undefined) throw new GatewayError('BAD_REQUEST', 'expected the keyword or the number of a DICOM tag')
  return tag
}

/** @throws GatewayError BAD_REQUEST for what is no path */
export function readTagPath(text: string): TagPath {
  const parts = text.split('.')
  if (parts.length > maxDepth) throw new GatewayError('BAD_REQUEST', `expected a path of at most ${maxDepth} levels`)
  const last = parts.pop() ?? ''
  const within = parts.map(part => {
    const match = /^(.+)\[(\*|\d{1,9})\]$/.exec(part)
    if (!match) throw new GatewayError('BAD_REQUEST', 'expected an item such as [0] or [*] in the path of a tag')
    return { tag: readTagName(match[1] ?? ''), item: match[2] === '*' ? ('all' as const) : Number(match[2]) }
  })
  return { within, tag: readTagName(last) }
}

/** A place that is there: the way to its item, as `Edit` names it, and the item itself. */
export interface Place {
  readonly within: readonly number[]
  readonly item: Dataset
}

/** The items of a data set that a path leads to; none where a sequence or an item is missing. */
export function placesOf(dataset: Dataset, path: TagPath): Place[] {
  let places: Place[] = [{ within: [], item: dataset }]
  for (const { tag, item } of path.within) {
    places = places.flatMap(place =>
      (findElement(place.item, tag)?.items ?? [])
        .map((inner, index) => ({ within: [...place.within, tag, index], item: inner, index }))
        .filter(({ index }) => item === 'all' || item === index),
    )
  }
  return places
}
