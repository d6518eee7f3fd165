/** The database that a configuration names. */
import { type Config, readSecret } from '../config.ts'
import { lockDataDir } from '../db/data-lock.ts'
import { type Db, openDatabase } from '../db/db.ts'
import { openPrivateCluster } from '../db/embedded.ts'
import type { Log } from '../log.ts'

/** Registers how a part is closed. */
export function use<T extends { close(): Promise<void> | void }>(stack: AsyncDisposableStack, part: T): T {
  stack.defer(() => part.close())
  return part
}

/** The configured server, or the private cluster; either way no other gateway has this data directory. */
export async function openStore(
  config: Config,
  log: Log,
  stack: AsyncDisposableStack,
): Promise<{ db: Db; clusterHome: string | undefined }> {
  const { url, passwordFile, poolSize } = config.database
  if (url !== undefined) {
    const lock = lockDataDir(config.data)
    stack.defer(() => lock.release())
    const password = passwordFile === undefined ? {} : { password: readSecret(passwordFile) }
    return { db: use(stack, await openDatabase({ url, ...password, poolSize, log })), clusterHome: undefined }
  }
  const cluster = use(stack, await openPrivateCluster({ dataDir: config.data, log }))
  const db = use(stack, await openDatabase({ connection: cluster.connection, poolSize, log }))
  return { db, clusterHome: cluster.home }
}

/** The watermark's settings; absent ones take the store's defaults. */
export function watermarkOf({ storage }: Config): { lowWatermarkBytes?: number; resumeBytes?: number } {
  return {
    ...(storage.lowWatermarkBytes !== undefined && { lowWatermarkBytes: storage.lowWatermarkBytes }),
    ...(storage.resumeBytes !== undefined && { resumeBytes: storage.resumeBytes }),
  }
}
