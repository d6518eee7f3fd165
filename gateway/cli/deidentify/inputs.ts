/** The files that were named, and those of the folders that were named. */
import { lstat, opendir, realpath, stat } from 'node:fs/promises'
import { join, resolve, sep } from 'node:path'
import { UsageError } from '../command.ts'

/**
 * Files in the order of their names, folders gone through; links are followed where they were named, not inside of
 * folders.
 *
 * @throws UsageError for a name that does not exist
 */
export async function* inputFiles(names: readonly string[], cwd: string): AsyncGenerator<string> {
  for (const name of names) {
    const path = resolve(cwd, name)
    const found = await stat(path).catch(() => undefined)
    if (found === undefined) throw new UsageError(`${name}: no such file or folder`)
    if (found.isDirectory()) yield* filesBelow(path)
    else if (found.isFile()) yield path
  }
}

async function* filesBelow(folder: string): AsyncGenerator<string> {
  const names: string[] = []
  for await (const entry of await opendir(folder)) names.push(entry.name)
  for (const name of names.sort()) {
    const path = join(folder, name)
    const found = await lstat(path)
    if (found.isDirectory()) yield* filesBelow(path)
    else if (found.isFile()) yield path
  }
}

/**
 * Output among the inputs would be taken for input the next time.
 *
 * @throws UsageError
 */
export async function refuseOverlap(names: readonly string[], out: string, cwd: string): Promise<void> {
  const target = await realpath(out)
  for (const name of names) {
    const source = await realpath(resolve(cwd, name)).catch(() => undefined)
    if (source !== undefined && `${target}${sep}`.startsWith(`${source}${sep}`))
      throw new UsageError(`--out: ${out} lies in ${name}, whose files are read`)
  }
}
