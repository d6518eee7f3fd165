/** Secrets of 32 bytes in files of their own, mode 0600: written once, durably, never in another one's place. */
import { randomBytes } from 'node:crypto'
import { link, mkdir, open, readFile, rm, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { decode, object, oneOf, optional, text } from '../decode.ts'
import { GatewayError } from '../errors.ts'
import { errnoOf, storageError } from '../store/io-error.ts'

/** What a secret is for; stands in its file. A project key is one of `hanse deidentify --project`. */
export type SecretFormat = 'hanse-project-key-1' | 'hanse-pseudonym-key-1' | 'hanse-endpoint-key-1'

const secretBytes = 32

/**
 * A secret; undefined when there is no file.
 *
 * @throws GatewayError PROJECT_KEY when the file is damaged or open to others, STORAGE_IO
 */
export async function readSecretFile(path: string, format: SecretFormat): Promise<Uint8Array | undefined> {
  let content: string
  try {
    if (((await stat(path)).mode & 0o077) !== 0)
      throw new GatewayError('PROJECT_KEY', 'the file of a key is open to others: chmod it to 600')
    content = await readFile(path, 'utf8')
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined
    throw storageError(error, 'reading a key')
  }
  let raw: unknown
  try {
    raw = JSON.parse(content)
  } catch {
    raw = undefined // the parser's message would quote the file
  }
  const shape = object({
    format: oneOf(format),
    name: optional(text({ max: 200 }), ''),
    key: text({ pattern: /^[A-Za-z0-9+/]{43}=$/, expected: 'a key of 32 bytes in base64' }),
  })
  const decoded = decode(shape, raw)
  if (!decoded.ok) throw new GatewayError('PROJECT_KEY', 'the file of a key is damaged: restore it from your copy')
  return Buffer.from(decoded.value.key, 'base64')
}

/** The secret of the file, made durably when there is none. @throws as `readSecretFile`; STORAGE_FULL */
export async function ensureSecretFile(path: string, format: SecretFormat, name = ''): Promise<Uint8Array> {
  const known = await readSecretFile(path, format)
  if (known) return known
  const document = { format, name, key: randomBytes(secretBytes).toString('base64') }
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 })
    await writeDurably(temporary, `${JSON.stringify(document, null, 2)}\n`)
    // A link never takes another file's place: of two makers at once, the first one's key counts.
    await link(temporary, path).catch((error: unknown) => {
      if (errnoOf(error) !== 'EEXIST') throw error
    })
    await rm(temporary)
    await syncDirectory(dirname(path))
  } catch (error) {
    await rm(temporary, { force: true })
    throw storageError(error, 'making a key')
  }
  const made = await readSecretFile(path, format)
  if (made === undefined) throw new GatewayError('PROJECT_KEY', 'the key that was made is not there')
  return made
}

async function writeDurably(path: string, content: string): Promise<void> {
  const file = await open(path, 'wx', 0o600)
  try {
    await file.writeFile(content)
    await file.sync()
  } finally {
    await file.close()
  }
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}
