/**
 * Worklist items from a folder: `.wl` files (DICOM, as DCMTK's wlmscpfs and Orthanc read them) and `.json` files (one
 * DICOM JSON document or a list of them). Files that change are read again, those that go take their items along.
 *
 * What cannot be read keeps the items it had: a file may be in the middle of being written.
 */
import { type FSWatcher, watch } from 'node:fs'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join, relative } from 'node:path'
import {
  maxWorklistBytes,
  type WorklistEntry,
  worklistEntriesFromDicom,
  worklistEntriesFromJson,
} from '../dicom/worklist-item.ts'
import { errorLine, isGatewayError } from '../errors.ts'
import type { Log } from '../log.ts'
import { systemPrincipal } from '../principal.ts'
import type { Worklist } from './worklist.ts'

/** A file that could not be taken, and why. */
export interface FolderProblem {
  /** Below the folder; `''` is the folder itself. */
  readonly path: string
  readonly reason: string
}

export interface WorklistFolder {
  readonly folder: string
  /** Files that could not be taken when they were last looked at. */
  problems(): readonly FolderProblem[]
  /** Looks at the folder now. */
  scan(): Promise<void>
  close(): Promise<void>
}

const scanEveryMs = 10_000
/** Changes come in bursts; a file is often written in several steps. */
const settleMs = 200
const mostFiles = 20_000
const maxDepth = 4
const maxFileBytes = 4 * maxWorklistBytes

/** Starts following a folder; its first scan has ended. */
export async function openWorklistFolder(options: {
  readonly folder: string
  readonly worklist: Worklist
  readonly log: Log
}): Promise<WorklistFolder> {
  const { folder, worklist } = options
  const log = options.log.child({ part: 'worklist' })
  const seen = new Map<string, string>()
  const problems = new Map<string, string>()
  let scanning: Promise<void> | undefined
  let wanted = false
  let isClosed = false
  /** Files that went while nobody looked have been found. */
  let isComplete = false

  /** One after the other: a change during a scan makes another one. */
  const scan = async (): Promise<void> => {
    wanted = true
    scanning ??= (async () => {
      while (wanted && !isClosed) {
        wanted = false
        await look().catch(error => log.warn({ cause: errorLine(error) }, 'the worklist folder could not be followed'))
      }
    })().finally(() => {
      scanning = undefined
    })
    await scanning
  }

  const look = async (): Promise<void> => {
    const found = await list(folder).catch((error: unknown) => {
      // Its items stay: an unmounted share is no empty worklist.
      complain('', codeOf(error))
      return undefined
    })
    if (!found) return
    problems.delete('')
    for (const [path, mark] of found) {
      if (isClosed) return
      if (seen.get(path) !== mark) await take(path, mark)
    }
    const gone = [...seen.keys()].filter(path => !found.has(path))
    for (const path of gone) {
      seen.delete(path)
      problems.delete(path)
    }
    if (gone.length > 0 || !isComplete) await worklist.keepFiles(systemPrincipal, new Set(found.keys()))
    isComplete = true
  }
  const take = async (path: string, mark: string): Promise<void> => {
    try {
      await worklist.putFile(systemPrincipal, path, await entriesOf(join(folder, path), path))
      problems.delete(path)
      seen.set(path, mark)
    } catch (error) {
      // Not the file's fault: it is read again at the next scan.
      if (isGatewayError(error) && error.meaning.retry === 'yes') throw error
      complain(path, isGatewayError(error) ? error.message : codeOf(error))
      seen.set(path, mark)
    }
  }

  const complain = (path: string, reason: string): void => {
    if (problems.get(path) === reason) return
    problems.set(path, reason)
    // File names may hold patients' names; the list of problems has them.
    log.warn({ problems: problems.size }, 'a worklist file cannot be taken')
  }

  let settling: NodeJS.Timeout | undefined
  const onChange = (): void => {
    settling ??= setTimeout(() => {
      settling = undefined
      void scan()
    }, settleMs)
  }
  await scan()
  const watcher = watching(folder, onChange)
  // Network shares tell nothing of changes that others make.
  const timer = setInterval(() => void scan(), scanEveryMs)

  return {
    folder,
    problems: () => [...problems].map(([path, reason]) => ({ path, reason })),
    scan,
    close: async () => {
      isClosed = true
      clearInterval(timer)
      clearTimeout(settling)
      watcher?.close()
      await scanning
    },
  }
}

function watching(folder: string, onChange: () => void): FSWatcher | undefined {
  try {
    const watcher = watch(folder, { recursive: true, persistent: false }, onChange)
    watcher.on('error', () => watcher.close())
    return watcher
  } catch {
    return undefined
  }
}

/** Worklist files below the folder with a mark that changes when they do. */
async function list(folder: string): Promise<Map<string, string>> {
  const found = new Map<string, string>()
  const visit = async (directory: string, depth: number): Promise<void> => {
    for (const entry of await readdir(directory, { withFileTypes: true })) {
      if (entry.name.startsWith('.')) continue
      const path = join(directory, entry.name)
      if (entry.isDirectory() && depth < maxDepth) await visit(path, depth + 1)
      if (!entry.isFile() || !/\.(?:wl|json)$/i.test(entry.name) || found.size >= mostFiles) continue
      const { mtimeMs, size, ino } = await stat(path)
      found.set(relative(folder, path), `${mtimeMs} ${size} ${ino}`)
    }
  }
  await visit(folder, 1)
  return found
}

async function entriesOf(file: string, path: string): Promise<WorklistEntry[]> {
  const { size } = await stat(file)
  if (size > maxFileBytes) throw new RangeError(`expected at most ${maxFileBytes} bytes`)
  const bytes = await readFile(file)
  if (!/\.json$/i.test(file)) return await worklistEntriesFromDicom(bytes, path)
  const parsed: unknown = JSON.parse(bytes.toString('utf8'))
  const documents: readonly unknown[] = Array.isArray(parsed) ? parsed : [parsed]
  const entries: WorklistEntry[] = []
  for (const [index, document] of documents.entries())
    entries.push(...(await worklistEntriesFromJson(document, documents.length === 1 ? path : `${path}@${index}`)))
  return entries
}

function codeOf(error: unknown): string {
  if (error instanceof SyntaxError) return 'expected JSON'
  if (error instanceof RangeError) return error.message
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : 'cannot be read'
}
