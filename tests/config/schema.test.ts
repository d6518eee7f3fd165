import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import Fastify from 'fastify'
import { type Config, checkConfig, variables } from '../../gateway/config.ts'
import { isObject } from '../../gateway/decode.ts'
import { temporaryFile } from './temporary-file.ts'

const schema: unknown = JSON.parse(readFileSync(new URL('../../gateway/config.schema.json', import.meta.url), 'utf8'))

/** Compiles the published schema with the validator that Fastify brings. */
async function schemaAccepts(): Promise<(value: unknown) => Promise<boolean>> {
  const app = Fastify({ ajv: { customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false } } })
  app.post('/', { schema: { body: schema } }, async () => 'ok')
  await app.ready()
  return async value =>
    (
      await app.inject({
        method: 'POST',
        url: '/',
        headers: { 'content-type': 'application/json' },
        payload: JSON.stringify(value),
      })
    ).statusCode === 200
}

const samples: readonly unknown[] = [
  ...[null, true, false, -1, 0, 1, 2, 200, 201, 1023, 1024, 65_535, 65_536, 10_001, 604_800_000, 604_800_001, 1.5],
  ...[
    '',
    ' ',
    'x',
    'a b',
    'HANSE',
    'A\\B',
    'loopback',
    'all',
    'debug',
    'silent',
    'trace',
    'x'.repeat(17),
    'y'.repeat(65),
  ],
  ...['127.0.0.1', '::1', 'host name', 'ü', 'z'.repeat(254), 'Krankenhaus Süd', 'tab\there', '1.2.840', '01.2'],
  ...[
    'https://b.example',
    'https://b.example:8443/',
    'http://b.example',
    'https://b.example/path',
    'https://u:p@b.example',
  ],
  ...[
    'https://b.example?x',
    'ftp://b.example',
    'postgres://db/hanse',
    'postgresql://u@db:5432/hanse',
    'postgres://u:p@db/x',
  ],
  ...[[], ['1.2.3'], ['1.2.3', 'no'], {}, { url: 'http://proxy.example' }, { certificateFile: 'a' }, { other: 1 }],
]

/** Every path of the schema, as the list of its keys. */
function paths(node: unknown, at: readonly string[] = []): (readonly string[])[] {
  const properties = isObject(node) && isObject(node['properties']) ? node['properties'] : {}
  return Object.entries(properties).flatMap(([key, child]) => [[...at, key], ...paths(child, [...at, key])])
}

const nest = (path: readonly string[], value: unknown): unknown =>
  path.reduceRight<unknown>((inner, key) => ({ [key]: inner }), value)

/** The decoder without the checks that a schema cannot make (files exist, ports differ, order of two numbers). */
function decoderAccepts(value: unknown): boolean {
  using file = temporaryFile(JSON.stringify(value))
  const result = checkConfig({ file: file.path, env: {} })
  const beyondSchema = /beside it|a port of its own|a readable file|at least storage/
  return result.ok || result.problems.every(problem => beyondSchema.test(problem.message))
}

test('the published schema and the decoder accept and refuse the same values at every path', async () => {
  const accepts = await schemaAccepts()
  const found = [['unknownKey'], ...paths(schema)]
  assert.ok(found.length > 35)

  for (const path of found) {
    for (const sample of samples) {
      const value = nest(path, sample)
      assert.equal(decoderAccepts(value), await accepts(value), JSON.stringify(value))
    }
  }
})

test('the defaults in the schema are the decoder’s', () => {
  const at = (value: unknown, path: readonly string[]): unknown =>
    path.reduce<unknown>((inner, key) => (isObject(inner) ? inner[key] : undefined), value)
  const result = checkConfig({ env: {}, cwd: '/' })
  assert.ok(result.ok)
  const config: Config = result.value.config

  for (const path of paths(schema)) {
    const node = path.reduce<unknown>((inner, key) => at(inner, ['properties', key]), schema)
    const expected = at(node, ['default'])
    if (expected === undefined) continue
    assert.deepEqual(at(config, path), path[0] === 'data' ? '/data' : expected, path.join('.'))
  }
})

test('every variable overrides a path of the schema and is named there', () => {
  const known = new Map(paths(schema).map(path => [path.join('.'), path]))
  for (const [name, variable] of Object.entries(variables)) {
    const path = known.get(variable.path)
    assert.ok(path, `${name} overrides ${variable.path}`)
    let node: unknown = schema
    for (const key of path) node = isObject(node) && isObject(node['properties']) ? node['properties'][key] : undefined
    const description = isObject(node) ? String(node['description']) : ''
    assert.ok(description.endsWith(name), `${variable.path} names ${name}`)
  }
})
