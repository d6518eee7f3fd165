/**
 * Keeps two ranges of one transfer that overlap from being written at the same time. Without it a
 * peer that sends a leaf twice with different bytes could change a file after it was verified.
 */
import type { LeafRun } from '../../peers/bitmap.ts'

export interface RangeGuard {
  /** Runs `work` when nothing that overlaps `run` is being written. */
  hold<T>(transfer: string, run: LeafRun, work: () => Promise<T>): Promise<T>
  /** Resolves when nothing of the transfer is being written. */
  idle(transfer: string): Promise<void>
}

export function createRangeGuard(): RangeGuard {
  const held = new Map<string, Set<{ run: LeafRun; done: Promise<void> }>>()
  const inTheWay = (transfer: string, run: LeafRun | undefined) =>
    [...(held.get(transfer) ?? [])].find(({ run: other }) => !run || (other.from <= run.to && run.from <= other.to))
  return {
    async hold(transfer, run, work) {
      for (let other = inTheWay(transfer, run); other; other = inTheWay(transfer, run)) await other.done
      // No await from the last look to `add`: of two that waited, one finds the other's entry.
      const { promise: done, resolve } = Promise.withResolvers<void>()
      const entry = { run, done }
      const entries = held.get(transfer) ?? new Set()
      held.set(transfer, entries.add(entry))
      try {
        return await work()
      } finally {
        entries.delete(entry)
        if (entries.size === 0 && held.get(transfer) === entries) held.delete(transfer)
        resolve()
      }
    },
    async idle(transfer) {
      for (let other = inTheWay(transfer, undefined); other; other = inTheWay(transfer, undefined)) await other.done
    },
  }
}
