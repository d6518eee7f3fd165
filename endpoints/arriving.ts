/** What lies at a place and may be taken: files below a folder, by their names, with what says that they are whole. */
import { GatewayError, isGatewayError } from '../gateway/errors.ts'
import type { FileStore } from './file-store.ts'
import { folderOf } from './paths.ts'

/** A file at a place. */
export interface ArrivingFile {
  /** Below the root of the place. */
  readonly path: string
  readonly size: number
  /** When it was changed, ISO 8601; empty where the place does not tell. */
  readonly modified: string
}

/** What a look has found. */
export interface Look {
  readonly files: readonly ArrivingFile[]
  /** Links, devices, names that lead elsewhere: they are not touched. */
  readonly strange: readonly { readonly path: string; readonly why: string }[]
  /** Folders that hold a `.done`, or the signature of a delivery (path of the file). */
  readonly finished: ReadonlySet<string>
  readonly signatures: ReadonlyMap<string, string>
  /** Paths of files beside which a `NAME.done` lies. */
  readonly marked: ReadonlySet<string>
}

export interface LookOptions {
  readonly folder: string
  readonly pattern: string
  /** A folder that is passed over: where taken files are moved to. */
  readonly except: string | undefined
}

const mostEntries = 200_000
const mostDepth = 16
/** What belongs to a delivery beside its content, and what is being written by servers' and people's clients. */
const isBeside = (name: string): boolean =>
  /^(manifest\.(json|csv|sig)|certificate\.json|dicomdir)$|\.(done|part|partial|filepart|tmp|temp)$|^\.|~$/i.test(name)

/**
 * Looks at a folder and those in it; links are not followed.
 *
 * @throws GatewayError ENDPOINT_*; DICOM_LIMIT when there is more than can be remembered
 */
export async function lookAround(store: FileStore, options: LookOptions, signal: AbortSignal): Promise<Look> {
  const files: ArrivingFile[] = []
  const strange: { path: string; why: string }[] = []
  const [finished, marked] = [new Set<string>(), new Set<string>()]
  const signatures = new Map<string, string>()
  const matches = patternOf(options.pattern)
  let seen = 0
  const walk = async (folder: string, depth: number): Promise<void> => {
    signal.throwIfAborted()
    const entries = await listed(store, folder, signal, depth === 0)
    if (!entries) strange.push({ path: folder, why: 'the folder may not be read' })
    for (const { name, kind, size, modified } of entries ?? []) {
      if (++seen > mostEntries)
        throw new GatewayError('DICOM_LIMIT', `more than ${mostEntries} files lie there: move away what was taken`)
      const path = folder === '' ? name : `${folder}/${name}`
      if (!isPlain(name)) strange.push({ path: printable(path), why: 'its name is not that of a file in this folder' })
      else if (kind === 'other') strange.push({ path, why: 'it is a link or a device: only files are taken' })
      else if (kind === 'folder' && path === options.except) continue
      else if (kind === 'folder' && depth >= mostDepth) strange.push({ path, why: 'it lies too deep' })
      else if (kind === 'folder') await walk(path, depth + 1)
      else if (name.toLowerCase() === '.done') finished.add(folder)
      else if (name.toLowerCase() === 'manifest.sig') signatures.set(folder, path)
      else if (/\.done$/i.test(name)) marked.add(path.slice(0, -'.done'.length))
      else if (!isBeside(name) && matches(name)) files.push({ path, size, modified: modified?.toISOString() ?? '' })
    }
  }
  await walk(options.folder, 0)
  return { files, strange, finished, signatures, marked }
}

/** The folder of the delivery that a file belongs to: the nearest that says so, else its own. */
export function deliveryOf({ path }: ArrivingFile, { finished, signatures }: Look): string {
  for (let folder = folderOf(path); ; folder = folderOf(folder)) {
    if (finished.has(folder) || signatures.has(folder)) return folder
    if (folder === '') return folderOf(path)
  }
}

/** Folders go and come while they are looked at; the first one must be there. */
async function listed(store: FileStore, folder: string, signal: AbortSignal, isFirst: boolean) {
  try {
    return await store.list(folder, signal)
  } catch (error) {
    if (
      !isFirst &&
      isGatewayError(error) &&
      (error.code === 'ENDPOINT_DENIED' || error.code === 'ENDPOINT_UNSUPPORTED')
    )
      return undefined
    throw error
  }
}

const isPlain = (name: string): boolean =>
  name !== '' && name !== '.' && name !== '..' && name.length <= 255 && !/[/\\\p{Cc}]/u.test(name)

const printable = (text: string): string => text.replaceAll(/\p{Cc}/gu, '?').slice(0, 1_000)

function patternOf(pattern: string): (name: string) => boolean {
  const parts = pattern.replaceAll(/\*+/g, '*').replaceAll(/[.+^${}()|[\]\\]/g, '\\$&')
  const expression = new RegExp(`^${parts.replaceAll('*', '.*').replaceAll('?', '.')}$`, 'iu')
  return name => expression.test(name)
}
