/** Reads Orthanc's configuration as Orthanc does: JSON with comments, environment variables, a file or a folder of files. */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { isObject } from '../../decode.ts'
import { GatewayError } from '../../errors.ts'

const mostBytes = 1024 * 1024

/**
 * The options by name. A folder's `.json` files count as one; an option that two of them give is refused.
 *
 * @throws GatewayError CONFIG_INVALID, which quotes nothing of the content: it may be a password
 */
export function readOrthancConfig(
  path: string,
  env: Readonly<Record<string, string | undefined>>,
): Readonly<Record<string, unknown>> {
  const options: Record<string, unknown> = {}
  for (const file of filesOf(path)) {
    for (const [name, value] of Object.entries(parse(file, env))) {
      if (Object.hasOwn(options, name)) throw invalid(`${file}: ${name} is given by another file too`)
      Object.defineProperty(options, name, { value, enumerable: true })
    }
  }
  return options
}

const invalid = (message: string, cause?: unknown): GatewayError =>
  new GatewayError('CONFIG_INVALID', message, { cause })

function filesOf(path: string): string[] {
  try {
    if (!statSync(path).isDirectory()) return [path]
    const names = readdirSync(path).filter(name => name.toLowerCase().endsWith('.json'))
    return names.sort().map(name => join(path, name))
  } catch (cause) {
    throw invalid(`cannot read ${path}`, cause)
  }
}

function parse(file: string, env: Readonly<Record<string, string | undefined>>): Record<string, unknown> {
  let text: string
  try {
    if (statSync(file).size > mostBytes) throw invalid(`${file}: expected at most ${mostBytes} bytes`)
    text = readFileSync(file, 'utf8')
  } catch (cause) {
    if (cause instanceof GatewayError) throw cause
    throw invalid(`cannot read ${file}`, cause)
  }
  let value: unknown
  try {
    value = JSON.parse(expandVariables(stripComments(text), env))
  } catch {
    throw invalid(`${file}: expected JSON, with or without comments`)
  }
  if (!isObject(value)) throw invalid(`${file}: expected a JSON object`)
  return value
}

/** Without comments of either kind; what looks like one inside of a text stays. */
export function stripComments(text: string): string {
  return text.replace(/"(?:\\.|[^"\\])*"|\/\/[^\n]*|\/\*[\s\S]*?\*\//g, found => (found.startsWith('"') ? found : ' '))
}

/** `${NAME}` and `${NAME:-default}`; a variable that is not set is empty. */
export function expandVariables(text: string, env: Readonly<Record<string, string | undefined>>): string {
  return text.replace(
    /\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}/g,
    (_, name: string, fallback: string | undefined) => env[name] ?? fallback ?? '',
  )
}
