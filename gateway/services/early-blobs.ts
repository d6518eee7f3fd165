/**
 * Moves verified objects into the blob store while the rest of their transfer is still on its way: the
 * commit then waits for few directory syncs. Without rows they are orphans, which the sweeper removes
 * when the transfer comes to nothing; staging keeps its own link until the import is through.
 */
import type { PassedObject } from './inbound-airlock.ts'

export type BlobObject = Pick<PassedObject, 'ordinal' | 'fileSha256' | 'sizeBytes'>

export interface EarlyBlobs {
  /** Commits in the background; what fails is tried again, and reported, by the import. */
  add(object: BlobObject, commit: () => Promise<void>): void
  /** Waits for what was begun; the objects that are in the blob store. */
  settle(): Promise<ReadonlySet<number>>
  /** Gives every blob up, to a row or to the sweeper. */
  release(free: (fileSha256: Buffer) => void): Promise<void>
}

const parallel = 4

export function createEarlyBlobs(): EarlyBlobs {
  const done = new Map<number, Buffer>()
  const waiting: (() => Promise<void>)[] = []
  const lanes = new Set<Promise<void>>()

  const lane = async (): Promise<void> => {
    for (let work = waiting.shift(); work; work = waiting.shift()) await work()
  }
  const settle = async (): Promise<ReadonlySet<number>> => {
    await Promise.all(lanes)
    return new Set(done.keys())
  }
  return {
    add(object, commit) {
      waiting.push(async () => {
        if (done.has(object.ordinal)) return
        try {
          await commit()
          done.set(object.ordinal, object.fileSha256)
        } catch {
          // The import commits it again, and that error counts.
        }
      })
      if (lanes.size === parallel) return
      const running = lane().finally(() => lanes.delete(running))
      lanes.add(running)
    },
    settle,
    async release(free) {
      waiting.length = 0
      await settle()
      for (const fileSha256 of done.values()) free(fileSha256)
      done.clear()
    },
  }
}
