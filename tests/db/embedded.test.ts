import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { type Db, openDatabase } from '../../gateway/db/db.ts'
import { joinPrivateCluster, type PrivateCluster } from '../../gateway/db/embedded.ts'
import { isServerOf } from '../../gateway/db/server-process.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { onEnd } from '../support/cleanup.ts'
import { clusterDataDir, fast, kill, openCluster, openInChild, silent } from '../support/cluster.ts'

async function openDb(t: TestContext, cluster: PrivateCluster): Promise<Db> {
  const db = await openDatabase({ connection: cluster.connection, log: silent })
  onEnd(t, () => db.close())
  return db
}

test('a first start makes the cluster, a warm start finds the rows', async t => {
  const dataDir = await clusterDataDir(t)
  const first = await openCluster(t, { dataDir })
  const before = await openDb(t, first)
  await before.pool.query('create table kept (note text)')
  await before.pool.query(`insert into kept values ('here')`)
  await before.close()
  await first.close()

  const second = await openCluster(t, { dataDir })

  assert.equal(second.state().adopted, false)
  const after = await openDb(t, second)
  assert.deepEqual((await after.pool.query('select note from kept')).rows, [{ note: 'here' }])
})

test('the cluster is durable, local, without superuser, and keeps patient data out of its log', async t => {
  const dataDir = await clusterDataDir(t)
  const cluster = await openCluster(t, { dataDir, settings: {} })
  const db = await openDb(t, cluster)

  const { rows } = await db.pool.query(`
    select current_setting('fsync') as fsync, current_setting('synchronous_commit') as commits,
      current_setting('data_checksums') as checksums, current_setting('listen_addresses') as listen,
      current_setting('jit') as jit, (select rolsuper from pg_roles where rolname = current_user) as superuser,
      'ä' < 'z' as "byte order", upper('ä') as upper`)
  await assert.rejects(db.pool.query(`select 'PATIENT^NAME'::integer`))

  assert.deepEqual(rows, [
    {
      fsync: 'on',
      commits: 'on',
      checksums: 'on',
      listen: '',
      jit: 'off',
      superuser: false,
      'byte order': false,
      upper: 'Ä',
    },
  ])
  assert.equal((await readFile(join(cluster.home, 'postgres.log'), 'utf8')).includes('PATIENT'), false)
})

test('a second gateway on the same data directory is refused with the pid of the first', async t => {
  const dataDir = await clusterDataDir(t)
  await openCluster(t, { dataDir })

  const { report } = await openInChild(t, dataDir)

  assert.equal(report.code, 'STATE_CONFLICT')
  assert.match(report.message, new RegExp(`pid ${process.pid}`))
})

test('of two starters at once on a new data directory one wins and the other is refused', async t => {
  const dataDir = await clusterDataDir(t)

  const both = await Promise.all([openInChild(t, dataDir), openInChild(t, dataDir)])

  assert.deepEqual(both.map(({ report }) => report.code).sort(), ['', 'STATE_CONFLICT'])
  for (const { child } of both) await kill(child)
})

test('the command line joins a running gateway, and leaves its database running', async t => {
  const dataDir = await clusterDataDir(t)
  const { child, report } = await openInChild(t, dataDir)

  const joined = await joinPrivateCluster({ dataDir, log: silent, settings: fast })
  const db = await openDatabase({ connection: joined.connection, log: silent })
  await db.close()
  await joined.close()

  assert.equal(joined.state().pid, report.pid)
  assert.equal(await isServerOf(report.pid, join(report.home, 'data')), true)
  await kill(child)
})

test('after kill -9 of the gateway the living server is adopted with what was committed', async t => {
  const dataDir = await clusterDataDir(t)
  const { child, report } = await openInChild(t, dataDir)
  await kill(child)

  const cluster = await openCluster(t, { dataDir })

  assert.equal(report.code, '')
  assert.deepEqual(cluster.state(), { phase: 'running', pid: report.pid, adopted: true, restarts: 0 })
  await openDb(t, cluster)
  await cluster.close()
  assert.equal(await isServerOf(report.pid, join(cluster.home, 'data')), false)
})

test('Ctrl-C at the terminal does not reach the server', async t => {
  const dataDir = await clusterDataDir(t)
  const { child, report } = await openInChild(t, dataDir)

  process.kill(-(child.pid ?? 0), 'SIGINT') // as a terminal does: to the whole group
  await once(child, 'exit')

  assert.equal((await openCluster(t, { dataDir })).state().pid, report.pid)
})

test('a server killed with -9 is started again and the pool recovers', async t => {
  const dataDir = await clusterDataDir(t)
  const cluster = await openCluster(t, { dataDir })
  const db = await openDb(t, cluster)

  for (const kills of [1, 2]) {
    process.kill(cluster.state().pid, 'SIGKILL')
    await until(() => cluster.state().restarts === kills && cluster.state().phase === 'running')
    const one = await db.inTransaction(tx => tx.selectNoFrom(eb => eb.lit(1).as('one')).executeTakeFirst())
    assert.deepEqual(one, { one: 1 })
  }
})

test('no acknowledged commit is lost, and none fails but with an unknown outcome, while the server is killed', async t => {
  const dataDir = await clusterDataDir(t)
  const cluster = await openCluster(t, { dataDir, settings: { shared_buffers: '16MB' } })
  const db = await openDb(t, cluster)
  await db.pool.query('create table kept (number integer)')
  const acknowledged: number[] = []
  const write = async (first: number): Promise<void> => {
    for (let number = first; cluster.state().restarts < 3; number += 10) {
      try {
        await db.inTransaction(tx => tx.withTables<Kept>().insertInto('kept').values({ number }).execute())
        acknowledged.push(number)
      } catch (error) {
        assert.equal(isGatewayError(error) && error.context['outcome'], 'unknown')
      }
    }
  }

  const writing = Promise.all([write(1), write(2), write(3)])
  for (const kills of [1, 2, 3]) {
    const before = acknowledged.length
    await until(() => acknowledged.length > before + 5)
    process.kill(cluster.state().pid, 'SIGKILL')
    await until(() => cluster.state().restarts === kills)
  }
  await writing

  const { rows } = await db.pool.query<{ number: number }>('select number from kept')
  const present = new Set(rows.map(row => row.number))
  assert.deepEqual(
    acknowledged.filter(number => !present.has(number)),
    [],
  )
  assert.equal(rows.length, present.size)
})

type Kept = { kept: { number: number } }

async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 60_000
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`waited too long for ${condition}`)
    await delay(10)
  }
}

test('after kill -9 of both gateway and server the next start recovers', async t => {
  const dataDir = await clusterDataDir(t)
  const { child, report } = await openInChild(t, dataDir)
  process.kill(report.pid, 'SIGKILL')
  await kill(child)

  const cluster = await openCluster(t, { dataDir })

  assert.equal(cluster.state().adopted, false)
  await openDb(t, cluster)
})

test('a lock file with the pid of a stranger does not keep the server from starting', { timeout: 60_000 }, async t => {
  const dataDir = await clusterDataDir(t)
  const { child, report } = await openInChild(t, dataDir)
  process.kill(report.pid, 'SIGKILL')
  await kill(child)
  const lockFile = join(report.home, 'data', 'postmaster.pid')
  const owner = Number(execFileSync('stat', ['-c', '%u', join(report.home, 'data')]).toString())
  const stranger = spawn('sleep', ['300'], process.getuid?.() === 0 ? { uid: owner } : {})
  onEnd(t, () => kill(stranger))
  await writeFile(lockFile, (await readFile(lockFile, 'utf8')).replace(/^\d+/, String(stranger.pid)))

  const cluster = await openCluster(t, { dataDir })

  await openDb(t, cluster)
})

test('a server whose socket directory was cleaned away gets a new one at the next start', {
  timeout: 90_000,
}, async t => {
  const dataDir = await clusterDataDir(t)
  const { child, report } = await openInChild(t, dataDir)
  await kill(child)
  await rm(report.socketDir, { recursive: true })

  const cluster = await openCluster(t, { dataDir })

  await openDb(t, cluster)
})

test('a server that loses its socket while it runs gets it back', async t => {
  const dataDir = await clusterDataDir(t)
  const cluster = await openCluster(t, { dataDir })
  await rm(cluster.connection.host, { recursive: true })

  await until(() => cluster.state().restarts === 1)

  await openDb(t, cluster)
})

test('a cluster of another PostgreSQL major is refused with instructions', async t => {
  const dataDir = await clusterDataDir(t)
  const cluster = await openCluster(t, { dataDir })
  await cluster.close()
  await writeFile(join(cluster.home, 'data', 'PG_VERSION'), '14\n')

  await assert.rejects(openCluster(t, { dataDir }), error => {
    assert.equal(isGatewayError(error, 'DATABASE_MAJOR'), true)
    assert.match(String(error), /made by PostgreSQL 14, .*pg_dump/)
    return true
  })
})

test('an interrupted first start leaves nothing in the way', async t => {
  const dataDir = await clusterDataDir(t)
  await mkdir(join(dataDir, 'pg', 'data.partial', 'base'), { recursive: true })

  const cluster = await openCluster(t, { dataDir })

  assert.deepEqual((await readdir(cluster.home)).sort(), ['cluster.json', 'data', 'postgres.log'])
})

test('nothing of a failed start stays locked', async t => {
  const dataDir = await clusterDataDir(t)
  await assert.rejects(openCluster(t, { dataDir, settings: { shared_buffers: 'plenty' } }), error =>
    isGatewayError(error, 'DATABASE_UNAVAILABLE'),
  )

  await openCluster(t, { dataDir })
})

test('closing while the server is being started again leaves none running', async t => {
  const dataDir = await clusterDataDir(t)
  const cluster = await openCluster(t, { dataDir })
  const { pid } = cluster.state()
  process.kill(pid, 'SIGKILL')
  await until(() => cluster.state().phase === 'restarting')

  await cluster.close()

  assert.equal(cluster.state().phase, 'closed')
  assert.equal(await isServerOf(cluster.state().pid, join(cluster.home, 'data')), false)
})
