/** CPU time and memory of a server with all its processes, from Linux's /proc. */
import { readdirSync, readFileSync } from 'node:fs'

/** Ticks of /proc's CPU times in a second: USER_HZ, 100 on every Linux that Node runs on. */
const ticksPerSecond = 100

interface ProcessStat {
  readonly pid: number
  readonly parent: number
  /** User and system time, that of children it has waited for included. */
  readonly cpuTicks: number
}

/** The processes below `roots`, they themselves included. */
export function processTree(roots: readonly number[]): number[] {
  return tree(roots).map(process => process.pid)
}

/** CPU time in milliseconds that the trees below `roots` have used so far, ended children included. */
export function cpuMs(roots: readonly number[]): number {
  const ticks = tree(roots).reduce((sum, process) => sum + process.cpuTicks, 0)
  return (ticks * 1000) / ticksPerSecond
}

/** Samples the memory of process trees until `stop`: seldom, because a look at thirty processes takes 20 ms of a core. */
export class MemoryWatch {
  readonly #roots: readonly number[]
  readonly #timer: NodeJS.Timeout
  #peakBytes = 0
  #largestBytes = 0

  constructor(roots: readonly number[]) {
    this.#roots = roots
    this.#sample()
    this.#timer = setInterval(() => this.#sample(), 1_000)
  }

  /** Peak of the whole tree (shared pages counted once), and of its largest process (resident). */
  stop(): { treeBytes: number; largestProcessBytes: number } {
    clearInterval(this.#timer)
    this.#sample()
    return { treeBytes: this.#peakBytes, largestProcessBytes: this.#largestBytes }
  }

  #sample(): void {
    let sum = 0
    for (const pid of processTree(this.#roots)) {
      sum += kilobytes(`/proc/${pid}/smaps_rollup`, 'Pss') * 1024
      this.#largestBytes = Math.max(this.#largestBytes, kilobytes(`/proc/${pid}/status`, 'VmRSS') * 1024)
    }
    this.#peakBytes = Math.max(this.#peakBytes, sum)
  }
}

function tree(roots: readonly number[]): ProcessStat[] {
  const all = readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .flatMap(name => readStat(Number(name)) ?? [])
  const inside = new Set(roots)
  // Parents may be listed after their children, so this goes on until nothing is added.
  for (let before = -1; before !== inside.size; ) {
    before = inside.size
    for (const process of all) if (inside.has(process.parent)) inside.add(process.pid)
  }
  return all.filter(process => inside.has(process.pid))
}

function readStat(pid: number): ProcessStat | undefined {
  const text = readOr(`/proc/${pid}/stat`)
  // The name in parentheses may hold anything, so fields are counted from the last one.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  if (fields.length < 15) return undefined
  const [user, system, childUser, childSystem] = fields.slice(11, 15).map(Number)
  return {
    pid,
    parent: Number(fields[1]),
    cpuTicks: (user ?? 0) + (system ?? 0) + (childUser ?? 0) + (childSystem ?? 0),
  }
}

function kilobytes(path: string, field: string): number {
  const match = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readOr(path))
  return match ? Number(match[1]) : 0
}

/** Empty when the process is gone. */
function readOr(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
