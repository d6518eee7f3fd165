/**
 * Directory syncs, shared: everyone who asks while a sync of the directory waits for its turn is
 * served by that one. A sync that already runs may have started before the caller's rename, so it
 * is never shared.
 */
import { open } from 'node:fs/promises'

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
  const handle = await open(dir, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}
