/** Runs the engine in tests. */
import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { type Dataset, findElement, itemsOf, stringOf, stringsOf } from '../../gateway/dicom/dataset.ts'
import { type Part10, readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { tagOf } from '../../gateway/dicom/tag.ts'
import type { Certificate } from '../../policy/deid/certificate.ts'
import { Deidentifier, memorySpool, type RunOptions } from '../../policy/deid/engine.ts'
import type { Held } from '../../policy/deid/hold.ts'
import { decodeProfile, type Profile } from '../../policy/deid/profile.ts'
import { run } from '../support/dcmtk.ts'

export const testKey = new Uint8Array(32).fill(5)

/** A profile with these fields over the smallest one. */
export function testProfile(fields: Record<string, unknown> = {}): Profile {
  return decodeProfile({ format: 'hanse-deid-1', name: 'test', basis: 'consent', ...fields })
}

export interface Output extends Part10 {
  readonly bytes: Uint8Array
  readonly certificate: Certificate
  /** First value by keyword, at the top level. */
  text(keyword: string): string | undefined
  has(keyword: string): boolean
}

/** De-identifies bytes that must not be held. */
export async function deidentified(
  bytes: Uint8Array,
  profile: Profile,
  options: RunOptions & { key?: Uint8Array } = {},
): Promise<Output> {
  const outcome = await new Deidentifier(profile, options.key ?? testKey).run(bufferSource(bytes), memorySpool, options)
  assert.ok(
    outcome.kind === 'done',
    outcome.kind === 'held' ? `${outcome.reason} ${JSON.stringify(outcome.evidence)}` : '',
  )
  const { output, certificate } = outcome
  const file = await readPart10(output)
  return {
    ...file,
    bytes: await output.read(0, output.sizeBytes),
    certificate,
    text: keyword => stringOf(file.dataset, tagOf(keyword) ?? 0),
    has: keyword => findElement(file.dataset, tagOf(keyword) ?? 0) !== undefined,
  }
}

/** De-identifies bytes that must be held. */
export async function held(bytes: Uint8Array, profile: Profile, options: RunOptions = {}): Promise<Held> {
  const outcome = await new Deidentifier(profile, testKey).run(bufferSource(bytes), memorySpool, options)
  assert.ok(outcome.kind === 'held', 'expected the instance to be held')
  return outcome
}

/** All values of an attribute at any depth. */
export function deepStrings(dataset: Dataset, keyword: string): string[] {
  const tag = tagOf(keyword) ?? 0
  const own = stringsOf(dataset, tag)
  const below = dataset.elements.flatMap(({ items = [] }) => items.flatMap(item => deepStrings(item, keyword)))
  return [...own, ...below]
}

/** The first item of a sequence by keyword. */
export function firstItem(dataset: Dataset, keyword: string): Dataset {
  const [item] = itemsOf(dataset, tagOf(keyword) ?? 0)
  assert.ok(item, `no item in ${keyword}`)
  return item
}

/** DCMTK reads each of a folder's files to its end, marked as de-identified, without an error. */
export async function assertReadable(t: TestContext, folder: string, files: number): Promise<void> {
  const { output } = await run(t, 'dcmdump', ['+sd', '+r', '+P', '0012,0062', folder], { timeoutMs: 300_000 })
  assert.equal((output.match(/\[YES\]/g) ?? []).length, files, output.slice(-500))
  assert.deepEqual(
    output.split('\n').filter(line => /^[EF]: /.test(line)),
    [],
  )
}
