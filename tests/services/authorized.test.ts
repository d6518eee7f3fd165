/**
 * Reads the services: whatever takes a principal must ask what that one may do. It finds what is added later and
 * forgot to; what needs no question of its own stands below with the reason. The formatter's indentation is relied on.
 */
import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

const root = join(import.meta.dirname, '../..')

/** `file method` and why it asks nothing itself. */
const exempt: Readonly<Record<string, string>> = {
  'background-jobs submit': 'the service that submits work has asked whether its caller may have it done',
  'modify-sources accessEvents': 'builds the audit events of a service that has asked',
  'modify firstInstance': 'part of a service that has asked',
  'resource-audit auditResource': 'writes the audit event of a service that has asked',
  'transfers cancelIn': 'part of services that have asked',
  'trial-rows assertDelegated': 'a question of its own, after the one by role',
  'trial-rows recordTrial': 'writes down what a service does that has asked',
  'worklist participantOf': 'describes a principal for the audit log',
  'worklist recordOf': 'describes a principal for the audit log',
}

const indentOf = (line: string): number => line.length - line.trimStart().length

/** Everything that begins on a line `name(…`, `name: (…` or `const name = (…`, to the end of its block. */
function unitsOf(lines: readonly string[], name: string): string[] {
  const head = new RegExp(
    `^ *(?:export )?(?:async )?(?:const |function\\*? |\\*)?${name}(?:: | = )?(?:async )?(?:function\\*? )?(?:<[^(]*>)?\\(`,
  )
  return lines.flatMap((line, at) => {
    if (!head.test(line)) return []
    let end = at + 1
    while (
      end < lines.length &&
      (indentOf(lines[end] ?? '') > indentOf(line) || /^ *([)}\]].*)?$/.test(lines[end] ?? ''))
    )
      end++
    return [lines.slice(at, end).join('\n')]
  })
}

/** Names of methods of interfaces and of exported functions that take a `Principal`. */
function takers(text: string): Set<string> {
  const methods = text.matchAll(/^ {2}(\w+)\([^()]*: Principal\b/gm)
  const functions = text.matchAll(/^export (?:async )?(?:function\*? |const )(\w+)(?: = )?\([^()]*: Principal\b/gm)
  return new Set([...methods, ...functions].map(([, name = '']) => name))
}

/** Is there a question in a unit of this name, or in what it hands the principal on to? */
function asks(lines: readonly string[], name: string, depth = 0): boolean {
  return unitsOf(lines, name).some(
    unit =>
      /\bauthorize\(/.test(unit) ||
      (depth < 3 &&
        [...unit.matchAll(/\b(\w+)\((?:\w+, )?principal\b/g)].some(
          ([, to = '']) => to !== name && asks(lines, to, depth + 1),
        )),
  )
}

test('every service that acts for a principal asks what it may do', () => {
  const silent: string[] = []
  let checked = 0
  for (const file of globSync('gateway/services/*.ts', { cwd: root }).sort()) {
    const text = readFileSync(join(root, file), 'utf8')
    const lines = text.split('\n')
    for (const name of takers(text)) {
      checked++
      const title = `${file.replace(/^.*\/|\.ts$/g, '')} ${name}`
      if (!asks(lines, name) && !exempt[title]) silent.push(title)
    }
  }
  assert.deepEqual(silent, [])
  assert.ok(checked > 40, `${checked} found`)
})
