/**
 * Queries over the whole collection: what the database finds by its indexes is what matching finds when it looks at
 * every row. Keys are made from values that are there, bent in the ways that people and devices bend them.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import type { Db } from '../../gateway/db/db.ts'
import type { DicomJson, JsonElement } from '../../gateway/dicom/json.ts'
import type { Level } from '../../gateway/dicom/levels.ts'
import { type TextRules, textOf } from '../../gateway/dicom/match-text.ts'
import { matches, matchKeys } from '../../gateway/dicom/matching.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { openIngest } from '../../gateway/services/ingest.ts'
import { computedTags, type Match, type SearchOptions, search } from '../../gateway/store/search.ts'
import { testBlobs } from '../support/blobs.ts'
import { openCorpus } from '../support/corpus.ts'
import { testDatabase } from '../support/database.ts'
import { randomOf } from '../support/mutate-dicom.ts'

const seed = Number(process.env['HANSE_SEED'] ?? 20261123)
const queriesPerLevel = process.env['HANSE_SOAK'] ? 5000 : 150
const levels: readonly Level[] = ['patient', 'study', 'series', 'instance']
const everything = new Set(levels.flatMap(level => [...computedTags[level]]))

test('the database finds what matching finds in every row', async t => {
  const db = await storeCorpus(t)
  if (!db) return
  for (const level of levels) {
    const rows = await all(db, level, {})
    assert.ok(rows.length > 50, `${rows.length} of level ${level}`)
    const random = randomOf(seed)
    let hits = 0
    for (let count = 0; count < queriesPerLevel; count += 1) {
      const identifier = identifierFrom(rows, random)
      const rules = { anyCase: random() < 0.2, fuzzyNames: random() < 0.2 }
      const keys = matchKeys(identifier, rules)
      const expected = rows.filter(row => matches(keys, row.attributes)).map(row => row.orthancId)
      const found: string[] = (await all(db, level, identifier, rules)).map(row => row.orthancId)
      assert.deepEqual(found, expected, `level ${level}, query ${count}: ${JSON.stringify(identifier)}`)
      if (found.length > 0) hits += 1
    }
    const ids = rows.map(row => row.orthancId)
    const part = { order: 'newest-first', offset: 3, limit: rows.length - 10 } as const
    const newest = await all(db, level, {}, {}, part)
    assert.deepEqual(
      newest.map(row => row.orthancId),
      ids.toReversed().slice(3, rows.length - 7),
    )
    t.diagnostic(`${level}: ${rows.length} rows, ${hits} of ${queriesPerLevel} queries found something`)
    assert.ok(hits > queriesPerLevel / 3)
  }
})

async function storeCorpus(t: TestContext): Promise<Db | undefined> {
  const files = openCorpus(t)
  if (!files) return undefined
  const db = await testDatabase(t)
  const blobs = await testBlobs(t)
  const ingest = openIngest({ db, blobs, dueAt: () => undefined })
  const store = async (bytes: Buffer): Promise<void> => {
    const staged = await blobs.stage()
    await staged.append([bytes])
    try {
      await ingest.store(await staged.finish(), { kind: 'cli', principal: 'test' })
    } catch (error) {
      if (!isGatewayError(error)) throw error
    }
  }
  const left = [...files]
  const storeSome = async (): Promise<void> => {
    for (let file = left.pop(); file; file = left.pop()) {
      const bytes = await file.bytes()
      // Pixels are not searched: what is long is left out.
      if (bytes.length < 600_000) await store(bytes)
    }
  }
  await Promise.all(Array.from({ length: 16 }, storeSome))
  await ingest.close()
  return db
}

async function all(
  db: Db,
  level: Level,
  identifier: DicomJson,
  rules: TextRules = {},
  options: Partial<SearchOptions> = {},
): Promise<Match[]> {
  const found: Match[] = []
  const spec = { level, keys: matchKeys(identifier, rules) }
  for await (const some of search(db, spec, { returned: everything, ...options })) found.push(...some)
  return found
}

type Random = () => number

function pick<T>(list: readonly T[], random: Random): T {
  const found = list[Math.floor(random() * list.length)]
  if (found === undefined) throw new RangeError('nothing to pick from')
  return found
}

/** Keys that matter to people come often, so that every index is asked. */
const usual = [
  '00100010',
  '00100020',
  '00080020',
  '00080050',
  '00080061',
  '00080060',
  '0020000D',
  '0020000E',
  '00080018',
  '00080030',
]

function identifierFrom(rows: readonly Match[], random: Random): DicomJson {
  const identifier: Record<string, JsonElement> = {}
  const { attributes } = pick(rows, random)
  const present = Object.keys(attributes).filter(name => name !== '00080005')
  for (let count = 1 + Math.floor(random() * 3); count > 0; count -= 1) {
    const often = usual.filter(name => attributes[name])
    const name = random() < 0.6 && often.length > 0 ? pick(often, random) : pick(present, random)
    const element = attributes[name]
    if (element) identifier[name] = bent(element, rows, name, random)
  }
  return identifier
}

/** The element as a key: its value, a piece of it with wildcards, a range around it, a list, an item. */
function bent(element: JsonElement, rows: readonly Match[], name: string, random: Random): JsonElement {
  const { vr, Value: values = [] } = element
  if (values.length === 0) return { vr }
  if (vr === 'SQ') {
    const item = pick(values, random)
    if (typeof item !== 'object' || item === null) return { vr }
    const inner = Object.entries(item).filter((entry): entry is [string, JsonElement] => typeof entry[1] === 'object')
    if (inner.length === 0) return { vr }
    const [key, found] = pick(inner, random)
    return { vr, Value: [{ [key]: bent(found, [], key, random) }] }
  }
  const text = textOf(vr, pick(values, random))
  if (text === undefined || text.trim() === '') return { vr }
  const key = (value: string): JsonElement => ({
    vr,
    Value: [vr === 'PN' ? { Alphabetic: value.split('=')[0] ?? '' } : value],
  })
  if (vr === 'DA' || vr === 'TM' || vr === 'DT') {
    const start = text.slice(0, vr === 'TM' ? 2 : 8)
    return key(pick([text, `${text}-`, `-${text}`, `${text}-${text}`, `${start}-${text}`, '19000101-20991231'], random))
  }
  if (vr === 'UI') {
    const others = rows.slice(0, 20).flatMap(row => row.attributes[name]?.Value ?? [])
    return { vr, Value: pick([[text], [text, ...others], [text, '1.2.3']], random) }
  }
  const at = Math.floor(random() * text.length)
  const variants = [
    text,
    `${text.slice(0, at + 1)}*`,
    `*${text.slice(at)}`,
    `${text.slice(0, at)}?${text.slice(at + 1)}`,
    `${text.slice(0, 1)}*${text.slice(-1)}`,
    ` ${text} `,
    text.toUpperCase(),
    text.toLowerCase(),
    `${text}^`,
    '*',
    `${text.slice(0, at)}%${text.slice(at)}`,
  ]
  if (vr === 'PN') {
    const groups = text.split('=')
    const chosen = pick(
      groups.filter(group => group !== ''),
      random,
    )
    const plain = chosen.normalize('NFD').replace(/\p{M}/gu, '')
    const cut = Math.floor(random() * chosen.length)
    const name = pick(
      [chosen, plain, chosen.toUpperCase(), `${chosen.slice(0, cut + 1)}*`, `*${chosen.slice(cut)}`, `${chosen}^*`],
      random,
    )
    return random() < 0.8 ? { vr, Value: [{ Alphabetic: name }] } : { vr, Value: [nameOf(text)] }
  }
  return key(pick(variants, random))
}

function nameOf(text: string): { Alphabetic?: string; Ideographic?: string; Phonetic?: string } {
  const [alphabetic, ideographic, phonetic] = text.split('=')
  return {
    ...(alphabetic && { Alphabetic: alphabetic }),
    ...(ideographic && { Ideographic: ideographic }),
    ...(phonetic && { Phonetic: phonetic }),
  }
}
