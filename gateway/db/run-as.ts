/**
 * The user that runs PostgreSQL. PostgreSQL refuses to run as root, so a gateway that runs as root
 * hands the cluster to an unprivileged user; every other gateway runs it as itself.
 */
import { execFile } from 'node:child_process'
import { stat } from 'node:fs/promises'
import { promisify } from 'node:util'
import { GatewayError } from '../errors.ts'

const run = promisify(execFile)

/** An unprivileged user, by number. */
export interface RunAs {
  readonly uid: number
  readonly gid: number
}

/**
 * Whom to run the cluster as; undefined for "as ourselves". An existing cluster keeps its owner.
 *
 * @param clusterData  PostgreSQL's data directory, which may not exist yet
 * @throws GatewayError CONFIG_INVALID when the cluster belongs to somebody we cannot become
 */
export async function chooseRunAs(clusterData: string): Promise<RunAs | undefined> {
  const self = process.getuid?.()
  const owner = await stat(clusterData).catch(() => undefined)
  if (self === undefined || (owner && owner.uid === self && self !== 0)) return undefined
  if (self !== 0) {
    if (!owner) return undefined
    throw new GatewayError(
      'CONFIG_INVALID',
      `the database belongs to user ${owner.uid}, the gateway runs as ${self}: start it as that user, or give the data directory to ${self}`,
    )
  }
  if (owner && owner.uid !== 0) return { uid: owner.uid, gid: owner.gid }
  for (const name of ['postgres', 'nobody']) {
    const [uid, gid] = await Promise.all([idOf(name, '-u'), idOf(name, '-g')])
    if (uid && gid) return { uid, gid }
  }
  throw new GatewayError(
    'CONFIG_INVALID',
    'PostgreSQL does not run as root and there is no user postgres or nobody: start the gateway as an ordinary user, or set database.url',
  )
}

async function idOf(name: string, option: '-u' | '-g'): Promise<number | undefined> {
  try {
    const { stdout } = await run('id', [option, name])
    return Number.parseInt(stdout, 10) || undefined
  } catch {
    return undefined
  }
}

/** The options of `spawn` for that user (Node also drops the supplementary groups). */
export function spawnIdentity(runAs: RunAs | undefined): { uid?: number; gid?: number } {
  return runAs ? { uid: runAs.uid, gid: runAs.gid } : {}
}

/** Can that user enter `dir`? Asked of the kernel, so ACLs and mounts count too. */
export async function canEnter(dir: string, runAs: RunAs | undefined): Promise<boolean> {
  try {
    await run('/bin/sh', ['-c', 'cd "$1"', 'sh', dir], { ...spawnIdentity(runAs), cwd: '/' })
    return true
  } catch {
    return false
  }
}
