/**
 * Project keys: one secret of 32 bytes for each recipient and project, in a file of its own below `<data>/keys/projects`,
 * outside of the database and its backups. From a key come the UIDs, dates and pseudonyms of what one recipient gets for
 * one project, so two recipients have nothing in common to join on. A key that is lost is not made anew: it would be
 * another one, and late objects would refer to nothing.
 */
import { createHash, createHmac } from 'node:crypto'
import { join } from 'node:path'
import { sql } from 'kysely'
import type { Profile } from '../../policy/deid/profile.ts'
import type { Db } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import { ensureSecretFile, readSecretFile } from './secret-file.ts'

/** A project of one recipient. */
export interface DeidProject {
  /** Its row. */
  readonly id: number
  /** Site id, or another name of whom it is for. */
  readonly recipient: string
  readonly name: string
  /** 32 bytes, secret. */
  readonly key: Uint8Array
}

export interface ProjectKeys {
  /**
   * The project with its key; both are made when the recipient has no such project yet.
   *
   * @throws GatewayError PROJECT_KEY when the key's file is gone, damaged, readable by others, or another one
   */
  ensure(recipient: string, name: string): Promise<DeidProject>
  /** A project that is there. @throws GatewayError NOT_FOUND, PROJECT_KEY */
  load(id: number): Promise<DeidProject>
}

/** The project that a profile is for: the trial's protocol where it names one, else the profile itself. */
export function projectNameOf(profile: Pick<Profile, 'name' | 'trial'>): string {
  return profile.trial?.protocolId ?? profile.name
}

/** The keys below `dir`, which is made when there is one. */
export function openProjectKeys(options: { db: Db; dir: string }): ProjectKeys {
  const { db, dir } = options

  const pathOf = (recipient: string, name: string): string => {
    const digest = createHash('sha256')
      .update(JSON.stringify([recipient, name]))
      .digest('hex')
    return join(dir, `${digest.slice(0, 32)}.json`)
  }

  const find = async (where: { recipient: string; name: string } | { id: number }) => {
    let query = db.kysely.selectFrom('deid_projects').select(['id', 'recipient', 'name', 'key_check'])
    query =
      'id' in where
        ? query.where('id', '=', where.id)
        : query.where('recipient', '=', where.recipient).where('name', '=', where.name)
    return await query.executeTakeFirst()
  }

  const open = async (row: NonNullable<Awaited<ReturnType<typeof find>>>): Promise<DeidProject> => {
    const { id, recipient, name, key_check } = row
    const key = await readSecretFile(pathOf(recipient, name), 'hanse-project-key-1')
    if (key === undefined)
      throw new GatewayError(
        'PROJECT_KEY',
        `the key of project ${name} is missing: restore it from your copy of the keys`,
      )
    if (!checkOf(key).equals(key_check))
      throw new GatewayError('PROJECT_KEY', `the key of project ${name} is not the one that was used before`)
    return { id, recipient, name, key }
  }

  return {
    async ensure(recipient, name) {
      const known = await find({ recipient, name })
      if (known) return await open(known)
      const key = await ensureSecretFile(pathOf(recipient, name), 'hanse-project-key-1', name)
      // A key that was made before a crash is taken; of two makers at once the first row counts.
      await sql`
        insert into deid_projects (recipient, name, key_check) values (${recipient}, ${name}, ${checkOf(key)})
        on conflict (recipient, name) do nothing`.execute(db.kysely)
      const row = await find({ recipient, name })
      if (!row) throw new GatewayError('UNAVAILABLE', 'the project vanished while it was made')
      return await open(row)
    },
    async load(id) {
      const row = await find({ id })
      if (!row) throw new GatewayError('NOT_FOUND', 'no such project')
      return await open(row)
    },
  }
}

/** Tells two keys apart without telling either. */
function checkOf(key: Uint8Array): Buffer {
  return createHmac('sha256', key).update('hanse project key check').digest()
}
