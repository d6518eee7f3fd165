/** Project keys and pseudonym tables in files. */
import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { type PseudonymLookup, projectKeyBytes } from '../../../policy/deid/project.ts'
import { decode, object, oneOf, optional, text } from '../../decode.ts'
import { UsageError } from '../command.ts'

const shape = object({
  format: oneOf('hanse-project-key-1'),
  name: optional(text({ max: 200 }), ''),
  key: text({ pattern: /^[A-Za-z0-9+/]{43}=$/, expected: 'a key of 32 bytes in base64' }),
})

/**
 * The key of a project file.
 *
 * @throws UsageError when the file is no project file
 */
export function readProjectKey(path: string): Uint8Array {
  const result = decode(shape, readJson(path))
  if (!result.ok) {
    // What is wrong with the key is not repeated: it would be on the screen.
    const places = result.problems.map(({ path: at, expected }) => `${at}: ${expected ?? 'not as expected'}`)
    throw new UsageError(`${path}: ${places.join('; ')}`)
  }
  return Buffer.from(result.value.key, 'base64')
}

/**
 * Makes a project file with a new key, readable for its owner only.
 *
 * @throws UsageError when the file exists: its key would be lost, and with it the way back to older output
 */
export function createProjectKey(path: string): void {
  const project = { format: 'hanse-project-key-1', key: randomBytes(projectKeyBytes).toString('base64') }
  try {
    writeFileSync(path, `${JSON.stringify(project, null, 2)}\n`, { mode: 0o600, flag: 'wx' })
  } catch (error) {
    throw new UsageError(
      `${path}: ${error instanceof Error && 'code' in error ? String(error.code) : 'cannot be written'}`,
    )
  }
}

/** Any JSON file. */
export function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    const why = error instanceof SyntaxError ? 'is not JSON' : 'cannot be read'
    throw new UsageError(`${path}: ${why}`)
  }
}

/**
 * A table of pseudonyms: lines `ISSUER,PATIENTID,PSEUDONYM`, a header line first; the issuer may be empty, fields may be
 * quoted (RFC 4180 §2).
 *
 * @throws UsageError naming the lines that do not fit; two patients never share a pseudonym
 */
export function readPseudonyms(path: string): PseudonymLookup {
  const table = new Map(
    readPseudonymLines(path).map(([issuer, id, pseudonym]) => [JSON.stringify([issuer, id]), pseudonym]),
  )
  return ({ issuer, id }) => table.get(JSON.stringify([issuer, id])) ?? table.get(JSON.stringify(['', id]))
}

/** The lines of such a table. @throws as `readPseudonyms` */
export function readPseudonymLines(
  path: string,
): readonly (readonly [issuer: string, id: string, pseudonym: string])[] {
  const [, ...lines] = readText(path).split(/\r?\n/)
  const subjects = new Set<string>()
  const taken = new Set<string>()
  const wrong: number[] = []
  const entries: [string, string, string][] = []
  lines.forEach((line, index) => {
    if (line.trim() === '') return
    const [issuer = '', id = '', pseudonym = '', ...more] = fieldsOf(line)
    const key = JSON.stringify([issuer, id])
    const isGood = id !== '' && more.length === 0 && /^[ -[\]-~]{1,64}$/.test(pseudonym)
    if (!isGood || subjects.has(key) || taken.has(pseudonym)) wrong.push(index + 2)
    subjects.add(key)
    taken.add(pseudonym)
    entries.push([issuer, id, pseudonym])
  })
  if (wrong.length > 0)
    throw new UsageError(
      `${path}: expected ISSUER,PATIENTID,PSEUDONYM, each once, in line ${wrong.slice(0, 10).join(', ')}`,
    )
  return entries
}

function fieldsOf(line: string): string[] {
  const fields: string[] = []
  for (let rest = line; ; ) {
    const [all = '', quoted, plain = '', end] = /^\s*(?:"((?:[^"]|"")*)"\s*|([^,]*))(,|$)/.exec(rest) ?? []
    fields.push(quoted?.replaceAll('""', '"') ?? plain.trim())
    if (end !== ',') return fields
    rest = rest.slice(all.length)
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    throw new UsageError(`${path}: cannot be read`)
  }
}
