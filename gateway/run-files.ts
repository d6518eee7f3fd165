/** What a running gateway leaves in `<data>/run` for the command line on the same machine. */
import { randomBytes } from 'node:crypto'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { newToken } from './store/tokens.ts'

/** Where the listeners of a running gateway are. */
export interface Listeners {
  readonly http: { readonly url: string; readonly port: number }
  readonly dicom: { readonly aeTitle: string; readonly host: string; readonly port: number; readonly tlsPort?: number }
  readonly federation: { readonly url: string; readonly port: number }
  /** Absent where there is none. */
  readonly hl7?: { readonly port: number }
}

/** Tells the command line where we are. Replaced in one rename: a reader never sees half of it. */
export async function writeListeners(data: string, listeners: Listeners): Promise<void> {
  const dir = join(data, 'run')
  await mkdir(dir, { recursive: true, mode: 0o700 })
  const file = join(dir, 'listeners.json')
  await writeFile(`${file}.new`, `${JSON.stringify({ pid: process.pid, ...listeners }, null, 2)}\n`)
  await rename(`${file}.new`, file)
}

/** The administrator token of this data directory, for the command line; made once, mode 0600. */
export async function adminToken(data: string): Promise<string> {
  const dir = join(data, 'run')
  await mkdir(dir, { recursive: true, mode: 0o700 })
  const file = join(dir, 'admin-token')
  const known = await readFile(file, 'utf8').catch(() => '')
  if (known.trim() !== '') return known.trim()
  const token = newToken()
  const fresh = `${file}.${randomBytes(4).toString('hex')}`
  await writeFile(fresh, `${token}\n`, { mode: 0o600 })
  await rename(fresh, file)
  return token
}
