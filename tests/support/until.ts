/** Waits for conditions with a deadline, never for durations. */
import { setTimeout as delay } from 'node:timers/promises'

/** Asks until `condition` gives something truthy; fails with `what` after `deadlineMs`. */
export async function until<T>(
  what: string,
  deadlineMs: number,
  condition: () => Promise<T | undefined | false> | T | undefined | false,
): Promise<T> {
  const end = Date.now() + deadlineMs
  for (;;) {
    const value = await condition()
    if (value) return value
    if (Date.now() > end) throw new Error(`not within ${deadlineMs} ms: ${what}`)
    await delay(25)
  }
}
