/** Memory of a process, as Linux counts it. */
import { readFile } from 'node:fs/promises'

/** Sizes in bytes. */
export interface ProcessMemory {
  /** Resident now. */
  readonly residentBytes: number
  /** The most that was resident since the start, or since `resetPeak`. */
  readonly peakBytes: number
}

/** @throws Error where there is no such process, or no /proc */
export async function memoryOf(pid: number): Promise<ProcessMemory> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  const bytes = (field: string): number => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) * 1024
  return { residentBytes: bytes('VmRSS'), peakBytes: bytes('VmHWM') }
}

/** Mebibytes, for messages. */
export const inMiB = (bytes: number): number => Math.round(bytes / 1024 ** 2)
