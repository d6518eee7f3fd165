/** Clean-up in reverse order: node:test runs `after` hooks in the order of their registration. */
import type { TestContext } from 'node:test'

const registered = new WeakMap<TestContext, (() => unknown)[]>()

/** Runs `action` after the test, before whatever was registered earlier; all run even when one fails. */
export function onEnd(t: TestContext, action: () => unknown): void {
  const known = registered.get(t)
  if (known) {
    known.push(action)
    return
  }
  const actions = [action]
  registered.set(t, actions)
  t.after(async () => {
    const failures: unknown[] = []
    for (const each of actions.reverse()) {
      try {
        await each()
      } catch (error) {
        failures.push(error)
      }
    }
    if (failures.length > 0) throw failures.length === 1 ? failures[0] : new AggregateError(failures)
  })
}
