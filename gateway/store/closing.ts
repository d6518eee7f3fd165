/** Closes with `await using` what has a `close`: beside it, since who is handed it may dispose of what it is handed. */
export function closing(open: { close(): Promise<void> }): AsyncDisposable {
  return { [Symbol.asyncDispose]: () => open.close() }
}
