/** Opens a data directory on which no gateway runs, for checks. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { openSiteKeys, type SiteKeys } from '../../peers/keys.ts'
import { type Config, loadConfig, readSecret } from '../config.ts'
import { type Db, openDatabase } from '../db/db.ts'
import { openPrivateCluster } from '../db/embedded.ts'
import { openLog } from '../log.ts'
import { type Blobs, openBlobs } from '../store/blobs.ts'
import { type Args, type Io, UsageError } from './command.ts'

/** What a check may use; closed with its scope. */
export interface OfflineStore extends AsyncDisposable {
  readonly config: Config
  readonly db: Db
  readonly blobs: Blobs
  readonly keys: SiteKeys
}

/**
 * Opens database, blobs and keys.
 *
 * @throws UsageError when there is no gateway's data; GatewayError, STATE_CONFLICT among them when a
 *   gateway holds the directory
 */
export async function openOffline(args: Args, io: Io): Promise<OfflineStore> {
  const [file, data] = [args.text('config'), args.text('data')]
  const { config } = loadConfig({
    env: io.env,
    cwd: io.cwd,
    ...(file !== undefined && { file }),
    ...(data !== undefined && { data }),
  })
  const keyDir = join(config.data, 'keys')
  if (!existsSync(join(keyDir, 'site.json'))) {
    throw new UsageError(`${config.data} holds no gateway's data: name its directory with --data`)
  }
  const log = openLog({ level: 'error', pretty: io.interactive })
  const { url, passwordFile } = config.database
  await using opening = new AsyncDisposableStack()
  let db: Db
  if (url === undefined) {
    io.note('no gateway answers: opening the database by ourselves')
    const cluster = await openPrivateCluster({ dataDir: config.data, log })
    opening.defer(() => cluster.close())
    db = await openDatabase({ connection: cluster.connection, poolSize: 4, log })
  } else {
    const password = passwordFile === undefined ? {} : { password: readSecret(passwordFile) }
    db = await openDatabase({ url, ...password, poolSize: 4, log })
  }
  opening.defer(() => db.close())
  const blobs = await openBlobs({ dir: config.data, log, freeSpace: { lowWatermarkBytes: 0 } })
  const keys = await openSiteKeys({ dir: keyDir, siteName: config.site.name, hosts: [] })
  const open = opening.move()
  return { config, db, blobs, keys, [Symbol.asyncDispose]: () => open.disposeAsync() }
}
