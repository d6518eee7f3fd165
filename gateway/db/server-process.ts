/**
 * Is a PostgreSQL process of a data directory alive? A pid alone lies: pids are reused, zombies
 * keep theirs, and another container's mean nothing here.
 */
import { readdir, readFile, readlink, stat } from 'node:fs/promises'

/**
 * Is `pid` a live PostgreSQL process of this data directory? PostgreSQL works in its data
 * directory, so on Linux the process's working directory tells it from a reused pid and from a
 * zombie; elsewhere only the pid can be asked.
 */
export async function isServerOf(pid: number, data: string): Promise<boolean> {
  try {
    process.kill(pid, 0)
  } catch (error) {
    if (codeOf(error) === 'ESRCH') return false
  }
  if (process.platform !== 'linux') return true
  return (await worksIn(pid, data)) !== 'no'
}

/** Might any process still work in this data directory? */
export async function hasAnyServer(data: string): Promise<boolean> {
  if (process.platform !== 'linux') return true
  for (const name of await readdir('/proc')) {
    const pid = Number.parseInt(name, 10)
    if (pid > 0 && (await worksIn(pid, data)) !== 'no') return true
  }
  return false
}

/** Root in a container without CAP_SYS_PTRACE may not read the link of another user's process. */
async function worksIn(pid: number, data: string): Promise<'yes' | 'perhaps' | 'no'> {
  try {
    return (await readlink(`/proc/${pid}/cwd`)) === data ? 'yes' : 'no'
  } catch (error) {
    return codeOf(error) === 'EACCES' || codeOf(error) === 'EPERM' ? await guess(pid, data) : 'no'
  }
}

/** By what everybody may read: a living `postgres` of the data directory's owner, not known to serve another one. */
async function guess(pid: number, data: string): Promise<'yes' | 'perhaps' | 'no'> {
  try {
    // "pid (comm) state ppid …", proc(5)
    const [, state = '', parent = ''] =
      /^\d+ \(postgres\) (\S) (\d+)/.exec(await readFile(`/proc/${pid}/stat`, 'utf8')) ?? []
    if (state === '' || state === 'Z' || state === 'X') return 'no'
    if ((await stat(`/proc/${pid}`)).uid !== (await stat(data)).uid) return 'no'
    const served = (await servedBy(pid)) ?? (await servedBy(Number(parent)))
    return served === undefined ? 'perhaps' : served === data ? 'yes' : 'no'
  } catch {
    return 'no' // gone meanwhile
  }
}

/** The data directory in a server's arguments; its children replace theirs by a title. */
async function servedBy(pid: number): Promise<string | undefined> {
  const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0')
  const at = words.indexOf('-D')
  return at > 0 && /postgres$/.test(words[0] ?? '') ? words[at + 1] : undefined
}

/** The code of a system or database error. */
export function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined
}
