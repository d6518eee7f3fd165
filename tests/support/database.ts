/**
 * A database of its own for each test (file): one private cluster per test process, started on
 * first use, with a migrated template that every `testDatabase` copies.
 *
 * `HANSE_TEST_DATABASE_SOCKET` names the socket directory of a cluster that a test runner keeps
 * running for all files; then the template is made there once.
 */
import { createHash, randomBytes } from 'node:crypto'
import { chmod, mkdtemp, readdir, readFile, rm, statfs } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, type TestContext } from 'node:test'
import { type Db, openDatabase } from '../../gateway/db/db.ts'
import { openPrivateCluster, type PrivateCluster } from '../../gateway/db/embedded.ts'
import { migrate } from '../../gateway/db/migrations.ts'
import { adminClient, readPidFile } from '../../gateway/db/postmaster.ts'
import { isServerOf } from '../../gateway/db/server-process.ts'
import { openLog } from '../../gateway/log.ts'
import { onEnd } from './cleanup.ts'

const log = openLog({ level: 'silent' })

/** A migrated, empty database; dropped after the test. Without `t`, after all tests of the file. */
export async function testDatabase(t?: TestContext): Promise<Db> {
  const { socketDir, template } = await shared.template()
  const name = `test_${randomBytes(6).toString('hex')}`
  await admin(socketDir, `create database ${name} template ${template} strategy file_copy owner hanse`)
  const connection = { host: socketDir, port: 5432, user: 'hanse', database: name }
  const db = await openDatabase({ connection, log, poolSize: 6 })
  const cleanUp = async (): Promise<void> => {
    await db.close()
    // not awaited: the server waits 100 ms for a connection that is just being closed
    shared.background(admin(socketDir, `drop database ${name} with (force)`))
  }
  if (t) onEnd(t, cleanUp)
  else shared.afterFile(cleanUp)
  return db
}

/** How to reach that database with another client (pg-boss). */
export function connectionOf(db: Db): { host: string; port: number; user: string; database: string } {
  const { host = '', port = 5432, user = 'hanse', database = '' } = db.poolConfig
  return { host, port, user, database }
}

interface Template {
  readonly socketDir: string
  readonly template: string
}

/** The process's cluster. Test processes are one file each, so this is per file. */
class SharedCluster {
  #template: Promise<Template> | undefined
  readonly #cleanUps: (() => Promise<void>)[] = []
  readonly #background: Promise<void>[] = []
  #stop: (() => Promise<void>) | undefined

  constructor() {
    // registered at import, at the file's top level, so that it runs after every test of the file
    after(async () => {
      for (const cleanUp of this.#cleanUps.reverse()) await cleanUp()
      await Promise.all(this.#background)
      await this.#stop?.()
    })
  }

  /** Work that only has to be over before the cluster stops. */
  background(work: Promise<void>): void {
    this.#background.push(work)
    work.catch(() => undefined) // reported after the file
  }

  afterFile(cleanUp: () => Promise<void>): void {
    this.#cleanUps.push(cleanUp)
  }

  template(): Promise<Template> {
    this.#template ??= this.#make()
    return this.#template
  }

  async #make(): Promise<Template> {
    const running = process.env['HANSE_TEST_DATABASE_SOCKET']
    const socketDir = running ?? (await this.#start())
    const template = `template_${(await schemaHash()).slice(0, 12)}`
    await makeTemplate(socketDir, template)
    return { socketDir, template }
  }

  async #start(): Promise<string> {
    const { cluster, remove } = await startTestCluster()
    this.#stop = remove
    return cluster.connection.host
  }
}

const shared = new SharedCluster()

/** A private cluster in a temporary directory, without fsync; `remove` stops and deletes it. */
export async function startTestCluster(): Promise<{ cluster: PrivateCluster; remove: () => Promise<void> }> {
  const parent = await clusterParent()
  await sweepDeadClusters(parent)
  const dataDir = await mkdtemp(join(parent, `hanse-test-db-${process.pid}-`))
  await chmod(dataDir, 0o711)
  const cluster = await openPrivateCluster({
    dataDir,
    log,
    settings: {
      fsync: 'off',
      synchronous_commit: 'off',
      full_page_writes: 'off',
      shared_buffers: '64MB',
      wal_compression: 'off',
      wal_level: 'minimal',
      max_wal_senders: '0',
      autovacuum: 'off',
    },
  })
  return {
    cluster,
    remove: async () => {
      await cluster.close()
      await rm(dataDir, { recursive: true, force: true })
    },
  }
}

/** Memory where there is plenty: copying a template makes 300 files, 0.3 s on a disk, 0.05 s in memory. */
async function clusterParent(): Promise<string> {
  const shm = await statfs('/dev/shm').catch(() => undefined)
  return shm && shm.bavail * shm.bsize > 2 * 1024 ** 3 ? '/dev/shm' : tmpdir()
}

/** A test process that was killed leaves its server behind. */
async function sweepDeadClusters(parent: string): Promise<void> {
  for (const name of await readdir(parent)) {
    const pid = Number(/^hanse-test-db-(\d+)-/.exec(name)?.[1])
    if (!pid || isAlive(pid)) continue
    const data = join(parent, name, 'pg', 'data')
    const server = await readPidFile(data)
    if (server && (await isServerOf(server.pid, data))) process.kill(server.pid, 'SIGQUIT')
    await rm(join(parent, name), { recursive: true, force: true }).catch(() => undefined) // another file sweeps too
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

async function makeTemplate(socketDir: string, template: string): Promise<void> {
  const client = adminClient(socketDir)
  await client.connect()
  try {
    await client.query('select pg_advisory_lock(7238601)') // of several test files at once one makes it
    const { rows } = await client.query('select 1 from pg_database where datname = $1', [template])
    if (rows.length > 0) return
    const making = `${template}_new`
    await client.query(`drop database if exists ${making} with (force)`)
    await client.query(`create database ${making} owner hanse`)
    const connection = { host: socketDir, port: 5432, user: 'hanse', database: making }
    const db = await openDatabase({ connection, log, poolSize: 1 })
    await migrate(db)
    await db.close()
    await client.query(`alter database ${making} rename to ${template}`)
  } finally {
    await client.end()
  }
}

async function schemaHash(): Promise<string> {
  const hash = createHash('sha256')
  const directory = new URL('../../gateway/db/migrations/', import.meta.url)
  for (const name of (await readdir(directory)).sort()) hash.update(await readFile(new URL(name, directory)))
  return hash.digest('hex')
}

async function admin(socketDir: string, statement: string): Promise<void> {
  const client = adminClient(socketDir)
  await client.connect()
  try {
    await client.query(statement)
  } finally {
    await client.end()
  }
}
