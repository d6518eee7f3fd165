/** Brings the database to the schema of this release. */
import { Kysely, PostgresDialect } from 'kysely'
import { type Migration, Migrator } from 'kysely/migration'
import { GatewayError } from '../errors.ts'
import { type Db, openPool } from './db.ts'
import * as foundation from './migrations/0001-foundation.ts'
import * as search from './migrations/0002-search.ts'
import * as worklist from './migrations/0004-worklist.ts'
import * as commitment from './migrations/0005-commitment.ts'
import * as modalityJobs from './migrations/0006-modality-jobs.ts'
import * as resources from './migrations/0007-resources.ts'
import * as backgroundJobs from './migrations/0008-background-jobs.ts'
import * as remote from './migrations/0009-remote.ts'
import * as access from './migrations/0010-access.ts'
import * as policy from './migrations/0011-policy.ts'
import * as deidentifiedTransfers from './migrations/0012-deidentified-transfers.ts'
import * as retention from './migrations/0013-retention.ts'
import * as workitems from './migrations/0013-workitems.ts'
import * as endpoints from './migrations/0014-endpoints.ts'
import * as recalls from './migrations/0016-recalls.ts'
import * as uploads from './migrations/0017-uploads.ts'
import * as orthanc from './migrations/0018-orthanc.ts'
import * as trials from './migrations/0019-trials.ts'
import * as arrivals from './migrations/0020-arrivals.ts'
import * as importSaid from './migrations/0022-import-said.ts'

/** Imported one by one: the published package and the tests must not depend on a directory listing. */
const migrations: Readonly<Record<string, Migration>> = {
  '0001-foundation': foundation,
  '0002-search': search,
  '0004-worklist': worklist,
  '0005-commitment': commitment,
  '0006-modality-jobs': modalityJobs,
  '0007-resources': resources,
  '0008-background-jobs': backgroundJobs,
  '0009-remote': remote,
  '0010-access': access,
  '0011-policy': policy,
  '0012-deidentified-transfers': deidentifiedTransfers,
  '0013-retention': retention,
  '0013-workitems': workitems,
  '0014-endpoints': endpoints,
  '0016-recalls': recalls,
  '0017-uploads': uploads,
  '0018-orthanc': orthanc,
  '0019-trials': trials,
  '0020-arrivals': arrivals,
  '0022-import-said': importSaid,
}

/**
 * Runs the migrations that are missing; of two starters at once the second waits for the first.
 * Uses a connection of its own without statement timeout.
 *
 * @returns names of the migrations that ran
 * @throws GatewayError STATE_CONFLICT when a newer release has migrated this database
 */
export async function migrate(db: Db): Promise<readonly string[]> {
  const pool = openPool({ ...db.poolConfig, max: 2, statement_timeout: 0, lock_timeout: 0 }, () => undefined)
  const kysely = new Kysely<unknown>({ dialect: new PostgresDialect({ pool }) })
  try {
    await refuseNewer(kysely)
    const migrator = new Migrator({ db: kysely, provider: { getMigrations: async () => migrations } })
    const { error, results } = await migrator.migrateToLatest()
    if (error !== undefined) throw error
    return (results ?? []).map(result => result.migrationName)
  } finally {
    await pool.end()
  }
}

async function refuseNewer(kysely: Kysely<unknown>): Promise<void> {
  const tables = await kysely.introspection.getTables({ withInternalKyselyTables: true })
  if (!tables.some(table => table.name === 'kysely_migration')) return
  const done = await kysely
    .withTables<{ kysely_migration: { name: string } }>()
    .selectFrom('kysely_migration')
    .select('name')
    .execute()
  const unknown = done.map(row => row.name).filter(name => !Object.hasOwn(migrations, name))
  if (unknown.length > 0) {
    throw new GatewayError(
      'STATE_CONFLICT',
      `the database was migrated by a newer release (${unknown.join(', ')}): start that release, or restore a backup`,
    )
  }
}
