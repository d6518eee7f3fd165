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
  const waitFor = async (transfer: string, isInTheWay: (run: LeafRun) => boolean): Promise<void> => {
    for (;;) {
      const other = [...(held.get(transfer) ?? [])].find(entry => isInTheWay(entry.run))
      if (!other) return
      await other.done
    }
  }
  return {
    async hold(transfer, run, work) {
      await waitFor(transfer, other => other.from <= run.to && run.from <= other.to)
      // Synchronous from here to `add`: whoever also waited finds this entry.
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
    idle: transfer => waitFor(transfer, () => true),
  }
}
