import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { type TestContext, test } from 'node:test'
import { promisify } from 'node:util'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { toJson } from '../../gateway/dicom/json.ts'
import { readPart10 } from '../../gateway/dicom/part10-reader.ts'
import { type CorpusFile, openCorpus } from '../support/corpus.ts'

const run = promisify(execFile)

test('DICOM JSON agrees with that of dcm2json', async t => {
  const files = openCorpus(t)
  if (files === undefined || !(await isInstalled(t, 'dcm2json'))) return

  for (const file of files.filter(isSample)) {
    const theirs = await dcm2json(file.path)
    const { dataset } = await readPart10(bufferSource(await file.bytes()), { maxValueBytes: 1 << 24 })

    const ours: unknown = JSON.parse(JSON.stringify(toJson(dataset)))
    assert.deepEqual(comparable(ours), comparable(theirs), file.name)
  }
})

test('elements and their order, nested ones included, agree with dcmdump', async t => {
  const files = openCorpus(t)
  if (files === undefined || !(await isInstalled(t, 'dcmdump'))) return

  for (const file of files.filter((candidate, index) => index % 40 === 3 && isPlain(candidate))) {
    const { stdout } = await run('dcmdump', ['-q', file.path], { maxBuffer: 1 << 26, encoding: 'latin1' })
    const { dataset } = await readPart10(bufferSource(await file.bytes()))

    const theirs = [...stdout.matchAll(/^ *\((?!fffe|0002)([0-9a-f]{4}),([0-9a-f]{4})\)/gm)].map(
      ([, g, e]) => `${g}${e}`,
    )
    assert.deepEqual([...tagsOf(dataset)], theirs, file.name)
  }
})

/** Every twelfth file that dcm2json can convert: it knows no fragments, no ISO 2022, and its own private dictionary. */
function isSample(file: CorpusFile, index: number): boolean {
  return index % 12 === 0 && isPlain(file) && /^(?:(?:Implicit|Explicit|Deflated)(?:LE|BE))$/.test(file.transferSyntax)
}

function isPlain(file: CorpusFile): boolean {
  return (
    !file.isMalformed &&
    !file.name.includes('DICOMDIR') &&
    file.isReadByDcmtk &&
    !file.charset.includes('2022') &&
    !file.charset.includes('-')
  )
}

async function isInstalled(t: TestContext, tool: string): Promise<boolean> {
  try {
    await run(tool, ['--version'])
    return true
  } catch {
    if (process.env['CI']) throw new Error(`${tool} is not installed`)
    t.skip(`${tool} is not installed (Debian package dcmtk)`)
    return false
  }
}

async function dcm2json(path: string): Promise<unknown> {
  const { stdout } = await run('dcm2json', ['-q', '-fc', '-ee', path], { maxBuffer: 1 << 28 })
  return JSON.parse(stdout)
}

function* tagsOf(dataset: { readonly elements: readonly { tag: number; items?: unknown }[] }): Generator<string> {
  for (const { tag, items } of dataset.elements) {
    yield tag.toString(16).padStart(8, '0')
    if (Array.isArray(items)) for (const item of items) yield* tagsOf(item)
  }
}

/**
 * What both sides can agree on: no private elements (dcm2json knows some of their VRs), numbers to six digits, names
 * without trailing carets, empty values and nulls left out.
 */
function comparable(json: unknown): unknown {
  if (Array.isArray(json)) return json.map(comparable)
  if (typeof json === 'number') return Number(json.toPrecision(6))
  if (typeof json === 'string') {
    const number = Number(json)
    return json !== '' && Number.isFinite(number) ? Number(number.toPrecision(6)) : json.replace(/\^+$/, '')
  }
  if (typeof json !== 'object' || json === null) return null
  const entries = Object.entries(json)
    .filter(([key]) => !/^...[13579BDF]....$/.test(key))
    .map(([key, value]) => [key, comparable(value)] as const)
    .filter(([key, value]) => !(isHollow(value) && key !== 'vr'))
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)))
}

function isHollow(value: unknown): boolean {
  if (Array.isArray(value)) return value.every(isHollow)
  return value === null || value === '' || (typeof value === 'object' && Object.keys(value).length === 0)
}
