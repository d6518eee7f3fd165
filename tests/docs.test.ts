/** What the documents say in tables and links must be so. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { otherVariables, variables } from '../gateway/config.ts'
import { errorTable } from '../gateway/errors.ts'
import { conformanceStatement } from '../scripts/generate-conformance.ts'

const root = join(import.meta.dirname, '..')
const documents = [
  'README.md',
  'gateway/dimse/CONFORMANCE.md',
  'CHANGELOG.md',
  'deploy/README.md',
  'deploy/TRIALS.md',
  'gateway/ARCHITECTURE.md',
  'gateway/hl7/ORDERS.md',
  'endpoints/PACKAGES.md',
  'peers/PROTOCOL.md',
  'policy/PROFILES.md',
]
const textOf = (file: string): string => readFileSync(join(root, file), 'utf8')

/** Rows of the first table whose header begins with `first`, cells trimmed and without backticks. */
function tableOf(file: string, first: string): string[][] {
  const lines = textOf(file).split('\n')
  const head = lines.findIndex(line => line.startsWith(`| ${first} `))
  assert.notEqual(head, -1, `${file} has no table that begins with ${first}`)
  const after = lines.slice(head + 2)
  const end = after.findIndex(line => !line.startsWith('|'))
  return after.slice(0, end < 0 ? undefined : end).map(line =>
    line
      .slice(1, line.lastIndexOf('|'))
      .split('|')
      .map(cell => cell.trim().replaceAll(/^`|`$/g, '')),
  )
}

test('README lists every environment variable with its place in the file', () => {
  const expected = [
    ...Object.entries(variables).map(([name, { path, help }]) => [name, path, help]),
    ...Object.entries(otherVariables).map(([name, help]) => [name, '', help]),
  ]

  assert.deepEqual(tableOf('README.md', 'variable'), expected)
})

test('the protocol lists every error code that may cross the wire or reach an administrator', () => {
  const expected = Object.entries(errorTable).map(([code, { http, retry }]) => [code, String(http), retry])

  assert.deepEqual(
    tableOf('peers/PROTOCOL.md', 'code').map(row => row.slice(0, 3)),
    expected,
  )
})

test('the conformance statement says what the tables of the gateway say', () => {
  assert.equal(
    textOf('gateway/dimse/CONFORMANCE.md'),
    conformanceStatement(),
    'run node scripts/generate-conformance.ts',
  )
})

test('every link between documents leads somewhere', () => {
  const broken: string[] = []
  for (const file of documents) {
    for (const [, target = ''] of withoutCode(textOf(file)).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue
      const [path = '', anchor] = target.split('#')
      const found = path === '' ? file : join(dirname(file), path)
      if (!existsSync(join(root, found))) broken.push(`${file}: ${target}`)
      else if (anchor !== undefined && !anchorsOf(found).has(anchor)) broken.push(`${file}: ${target}`)
    }
  }

  assert.deepEqual(broken, [])
})

test('every file of this repository that a document names exists', () => {
  const missing: string[] = []
  for (const file of documents) {
    const named = textOf(file).matchAll(
      /\b((?:gateway|peers|policy|endpoints|certs|tests|deploy|scripts)\/[\w./-]+\.(?:ts|mjs|md|json|service|png))\b/g,
    )
    for (const [, path = ''] of named) if (!existsSync(join(root, path))) missing.push(`${file}: ${path}`)
  }

  assert.deepEqual(missing, [])
})

const withoutCode = (markdown: string): string => markdown.replaceAll(/```[\s\S]*?```|`[^`\n]*`/g, '')

/** Anchors of a document's headings, as GitHub makes them. */
function anchorsOf(file: string): Set<string> {
  return new Set(
    [...textOf(file).matchAll(/^#+ (.+)$/gm)].map(([, title = '']) =>
      title
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
        .replaceAll(/\s/g, '-'),
    ),
  )
}
