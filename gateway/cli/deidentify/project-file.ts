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
 * A table of pseudonyms: lines `ISSUER,PATIENTID,PSEUDONYM`, a header line first; the issuer may be empty.
 *
 * @throws UsageError naming the lines that do not fit; two patients never share a pseudonym
 */
export function readPseudonyms(path: string): PseudonymLookup {
  const [, ...lines] = readText(path).split(/\r?\n/)
  const table = new Map<string, string>()
  const taken = new Set<string>()
  const wrong: number[] = []
  lines.forEach((line, index) => {
    if (line.trim() === '') return
    const [issuer = '', id = '', pseudonym = '', ...more] = line.split(',').map(field => field.trim())
    const key = JSON.stringify([issuer, id])
    const isGood = id !== '' && more.length === 0 && /^[ -[\]-~]{1,64}$/.test(pseudonym)
    if (!isGood || table.has(key) || taken.has(pseudonym)) wrong.push(index + 2)
    table.set(key, pseudonym)
    taken.add(pseudonym)
  })
  if (wrong.length > 0)
    throw new UsageError(
      `${path}: expected ISSUER,PATIENTID,PSEUDONYM, each once, in line ${wrong.slice(0, 10).join(', ')}`,
    )
  return ({ issuer, id }) => table.get(JSON.stringify([issuer, id])) ?? table.get(JSON.stringify(['', id]))
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    throw new UsageError(`${path}: cannot be read`)
  }
}
