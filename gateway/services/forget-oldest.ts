/** Forgets what was put in first, until no more than `most` are left. Sets and maps keep their order. */
export function forgetOldest<K>(
  known: { readonly size: number; keys(): Iterable<K>; delete(key: K): boolean },
  most: number,
): void {
  for (const oldest of known.keys()) {
    if (known.size <= most) break
    known.delete(oldest)
  }
}
