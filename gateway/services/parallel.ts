/**
 * Runs `work` over all items, at most `width` at a time. The first failure starts no further item, and
 * is thrown when those that run have ended, so that nothing works on after the caller has gone on.
 */
export async function inParallel<T>(
  items: readonly T[],
  width: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0
  let isFailed = false
  const lane = async (): Promise<void> => {
    while (!isFailed && next < items.length) {
      const item = items[next++]
      if (item === undefined) continue
      try {
        await work(item)
      } catch (error) {
        isFailed = true
        throw error
      }
    }
  }
  const lanes = await Promise.allSettled(Array.from({ length: Math.min(width, items.length) }, lane))
  const failed = lanes.find(result => result.status === 'rejected')
  if (failed) throw failed.reason
}
