/** Names elements of a data set by their place in it: tags, and numbers of items from 1, such as `00880200/1/7FE00010`. */
import { type Dataset, type Element, findElement } from './dataset.ts'
import { formatTag } from './tag.ts'
import { isBulkVr } from './vr.ts'

const maxSteps = 64

/** The paths of all elements that may be bulk data: binary values, and values that were left in the source. */
export function bulkPaths(dataset: Dataset): Map<Element, string> {
  const paths = new Map<Element, string>()
  collect(dataset, '', paths)
  return paths
}

function collect(dataset: Dataset, prefix: string, paths: Map<Element, string>): void {
  for (const element of dataset.elements) {
    const path = `${prefix}${formatTag(element.tag)}`
    if (element.items) for (const [i, item] of element.items.entries()) collect(item, `${path}/${i + 1}/`, paths)
    else if (element.value === undefined || isBulkVr(element.vr)) paths.set(element, path)
  }
}

/** The element at a path; undefined when there is none. */
export function elementAt(dataset: Dataset, path: string): Element | undefined {
  const steps = path.split('/')
  if (steps.length > maxSteps || steps.length % 2 === 0) return undefined
  let within: Dataset | undefined = dataset
  for (let at = 0; within; at += 2) {
    const [tag = '', item] = [steps[at], steps[at + 1]]
    if (!/^[0-9A-Fa-f]{8}$/.test(tag)) return undefined
    const found: Element | undefined = findElement(within, Number.parseInt(tag, 16))
    if (item === undefined) return found
    if (!/^[1-9]\d{0,5}$/.test(item)) return undefined
    within = found?.items?.[Number(item) - 1]
  }
  return undefined
}
