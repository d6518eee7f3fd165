import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { chmod, chown, mkdir, mkdtemp, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { openSocketDir, placeCluster } from '../../gateway/db/cluster-place.ts'
import { openDatabase } from '../../gateway/db/db.ts'
import { isGatewayError } from '../../gateway/errors.ts'
import { onEnd } from '../support/cleanup.ts'
import { clusterDataDir, kill, openCluster, openInChild, silent, stopCluster } from '../support/cluster.ts'

const isRoot = process.getuid?.() === 0
const rootOnly = isRoot ? {} : { skip: 'only root runs PostgreSQL as another user' }

test('an ordinary user runs the cluster as itself', rootOnly, async t => {
  const dataDir = await clusterDataDir(t)
  const nobody = { uid: idOf('nobody', '-u'), gid: idOf('nobody', '-g') }
  await mkdir(dataDir)
  await chown(dataDir, nobody.uid, nobody.gid)

  const { report } = await openInChild(t, dataDir, { ...nobody, env: { HOME: '/nonexistent', XDG_RUNTIME_DIR: '' } })

  assert.equal(report.code, '')
  assert.equal((await stat(join(dataDir, 'pg', 'data'))).uid, nobody.uid)
})

test('a cluster of an ordinary user is run as that user when root opens it', rootOnly, async t => {
  const dataDir = await clusterDataDir(t)
  const nobody = { uid: idOf('nobody', '-u'), gid: idOf('nobody', '-g') }
  await mkdir(dataDir)
  await chown(dataDir, nobody.uid, nobody.gid)
  const { child } = await openInChild(t, dataDir, nobody)
  await kill(child)
  await stopCluster(dataDir)

  await openCluster(t, { dataDir })

  assert.equal((await stat(join(dataDir, 'pg', 'data'))).uid, nobody.uid)
})

test('a closed data directory of root lets only the cluster pass', rootOnly, async t => {
  const dataDir = await clusterDataDir(t)
  await mkdir(dataDir, { mode: 0o700 })

  const cluster = await openCluster(t, { dataDir })

  assert.equal(cluster.home.startsWith(dataDir), true)
  assert.equal((await stat(dataDir)).mode & 0o777, 0o710)
  await writeFile(join(cluster.home, 'proof'), '')
})

test("below root's closed home the cluster lies in a system directory, and is found again", rootOnly, async t => {
  const home = await closedHome(t)
  const dataDir = join(home, 'hanse', 'data')

  const first = await openCluster(t, { dataDir })
  await first.close()
  onEnd(t, () => rm(first.home, { recursive: true, force: true }))
  const second = await openCluster(t, { dataDir })

  assert.match(first.home, /^\/var\/lib\/hanse\/[0-9a-f]{16}$/)
  assert.equal(second.home, first.home)
  assert.equal((await stat(home)).mode & 0o777, 0o700)
  const db = await openDatabase({ connection: second.connection, log: silent })
  await db.close()
})

test('a lost system directory is named, not silently replaced by an empty database', rootOnly, async t => {
  const home = await closedHome(t)
  const cluster = await openCluster(t, { dataDir: join(home, 'data') })
  await cluster.close()
  await rm(cluster.home, { recursive: true })

  await assert.rejects(openCluster(t, { dataDir: join(home, 'data') }), error => {
    assert.equal(isGatewayError(error, 'CONFIG_INVALID'), true)
    assert.match(String(error), new RegExp(cluster.home))
    return true
  })
})

test('a cluster directory that was asked for is remembered', async t => {
  const dataDir = await clusterDataDir(t)
  const clusterDir = join(dataDir, '..', 'elsewhere')
  const first = await openCluster(t, { dataDir, clusterDir })
  await first.close()

  const second = await openCluster(t, { dataDir })

  assert.equal(second.home, first.home)
  assert.equal((await readdir(clusterDir)).includes('data'), true)
  await assert.rejects(placeCluster(dataDir, join(dataDir, 'third')), error => isGatewayError(error, 'CONFIG_INVALID'))
})

test('a socket directory that somebody else planted is passed over', rootOnly, async t => {
  const dataDir = await clusterDataDir(t)
  const place = await placeCluster(dataDir, undefined)
  const first = await openSocketDir(place, undefined)
  onEnd(t, () => rm(first, { recursive: true, force: true }))
  await chown(first, 12_345, 12_345)

  const second = await openSocketDir(place, undefined)
  onEnd(t, () => rm(second, { recursive: true, force: true }))

  assert.notEqual(second, first)
  assert.equal((await stat(second)).mode & 0o777, 0o700)
})

test('a socket directory behind a symbolic link or too deep is refused', async t => {
  const dataDir = await clusterDataDir(t)
  const place = await placeCluster(dataDir, undefined)
  await symlink('/tmp', join(dataDir, 'link'))

  for (const dir of [join(dataDir, 'link'), join('/tmp', 'x'.repeat(100))]) {
    await assert.rejects(openSocketDir(place, dir), error => isGatewayError(error, 'CONFIG_INVALID'))
  }
})

async function closedHome(t: TestContext): Promise<string> {
  const home = await mkdtemp(join(tmpdir(), 'hanse-test-'))
  await chmod(home, 0o700)
  onEnd(t, async () => {
    await stopCluster(join(home, 'data'))
    await rm(home, { recursive: true, force: true })
  })
  return home
}

function idOf(name: string, option: '-u' | '-g'): number {
  return Number(execFileSync('id', [option, name]).toString())
}
