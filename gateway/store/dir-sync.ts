/**
 * Directory syncs, shared: everyone who asks while a sync of the directory waits for its turn is
 * served by that one. A sync that already runs may have started before the caller's rename, so it
 * is never shared.
 */
import { closeSync, fsync as fsyncCallback, openSync } from 'node:fs'
import { promisify } from 'node:util'

const fsync = promisify(fsyncCallback)

/** Makes the names in directories durable. */
export class DirSync {
  readonly #queued = new Map<string, Promise<void>>()
  readonly #running = new Map<string, Promise<void>>()

  /** Resolves when every rename and mkdir in `dir` that was complete at the call is durable. */
  sync(dir: string): Promise<void> {
    const queued = this.#queued.get(dir)
    if (queued) return queued
    const running = this.#running.get(dir)
    if (!running) return this.#start(dir)
    const next = running
      .catch(() => undefined) // its callers hear of it
      .then(() => {
        this.#queued.delete(dir)
        return this.#start(dir)
      })
    this.#queued.set(dir, next)
    return next
  }

  #start(dir: string): Promise<void> {
    const run = syncDir(dir).finally(() => {
      if (this.#running.get(dir) === run) this.#running.delete(dir)
    })
    this.#running.set(dir, run)
    return run
  }
}

async function syncDir(dir: string): Promise<void> {
  // Opening and closing are cheap, and cheaper than a trip to another thread each; the sync is neither.
  const fd = openSync(dir, 'r')
  try {
    await fsync(fd)
  } finally {
    closeSync(fd)
  }
}
