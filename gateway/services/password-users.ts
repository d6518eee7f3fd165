/** Users who come with a name and a password, as Orthanc's configuration lists them; only scrypt hashes are kept. */

import { createHmac, randomBytes, scrypt, timingSafeEqual } from 'node:crypto'
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { eventTypes, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import type { Principal } from '../principal.ts'

export interface PasswordUsers {
  /** True for the user's password. One wrong user costs as much time as one wrong password. */
  verify(name: string, password: string): Promise<boolean>
  /** Makes these the users: others go, changed passwords change. */
  replace(principal: Principal, users: Readonly<Record<string, string>>): Promise<void>
}

/** About 60 ms and 32 MiB for each check that is not remembered. */
const cost = { N: 32_768, r: 8, p: 1, maxmem: 64 * 1024 * 1024 }
/** A password that was right is remembered for so long, by a key that dies with the process. */
const rememberedMs = 60_000
const mostRemembered = 1_000
/** Guesses that are worked on at the same time; further ones wait. */
const mostAtOnce = 2

interface UserRow {
  readonly name: string
  readonly salt: Buffer
  readonly hash: Buffer
}

export function openPasswordUsers({
  db,
  clock = Date.now,
}: {
  readonly db: Db
  readonly clock?: () => number
}): PasswordUsers {
  const key = randomBytes(32)
  const remembered = new Map<string, number>()
  let lanes: Promise<unknown>[] = Array.from({ length: mostAtOnce }, () => Promise.resolve())
  let turn = 0

  const hashOf = (password: string, salt: Buffer): Promise<Buffer> => {
    const place = turn++ % mostAtOnce
    const next = (lanes[place] ?? Promise.resolve()).then(() => derive(password, salt))
    lanes = lanes.with(
      place,
      next.catch(() => undefined),
    )
    return next
  }
  const load = async (name: string): Promise<UserRow | undefined> => {
    const { rows } = await sql<UserRow>`select name, salt, hash from password_users where name = ${name}`.execute(
      db.kysely,
    )
    return rows[0]
  }
  const nobody: UserRow = { name: '', salt: randomBytes(16), hash: randomBytes(32) }

  return {
    async verify(name, password) {
      const user = await load(name)
      const { salt, hash } = user ?? nobody
      const mark = createHmac('sha256', key)
        .update(hash)
        .update(JSON.stringify([name, password]))
        .digest('base64')
      const until = remembered.get(mark)
      if (user && until !== undefined && until > clock()) return true
      const isRight = timingSafeEqual(await hashOf(password, salt), hash) && user !== undefined
      if (!isRight) return false
      if (remembered.size >= mostRemembered) remembered.clear()
      remembered.set(mark, clock() + rememberedMs)
      return true
    },

    async replace(principal, users) {
      authorize(principal, 'gateway.administer')
      const { rows } = await sql<UserRow>`select name, salt, hash from password_users`.execute(db.kysely)
      const gone = rows.filter(({ name }) => !Object.hasOwn(users, name)).map(({ name }) => name)
      const changed: UserRow[] = []
      for (const [name, password] of Object.entries(users)) {
        const known = rows.find(row => row.name === name)
        if (known && timingSafeEqual(await hashOf(password, known.salt), known.hash)) continue
        const salt = randomBytes(16)
        changed.push({ name, salt, hash: await hashOf(password, salt) })
      }
      if (gone.length === 0 && changed.length === 0) return
      await db.inTransaction(async tx => {
        await sql`delete from password_users where name = any(${gone}::text[])`.execute(tx)
        for (const { name, salt, hash } of changed) {
          await sql`
            insert into password_users (name, salt, hash) values (${name}, ${salt}, ${hash})
            on conflict (name) do update set salt = excluded.salt, hash = excluded.hash, updated_at = now()
          `.execute(tx)
        }
        await appendAudit(
          tx,
          securityAlert({
            type: eventTypes.securityConfiguration,
            participants: [
              { userId: principal.id, requestor: true },
              ...[...gone, ...changed.map(({ name }) => name)].map(name => ({ userId: `user:${name}` })),
            ],
            objects: [{ kind: 'setting', name: 'password-users' }],
            reason: 'password-users-replaced',
            detail: { changed: changed.length, removed: gone.length },
          }),
        )
      })
      remembered.clear()
    },
  }
}

function derive(password: string, salt: Buffer): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>()
  scrypt(password.normalize('NFC'), salt, 32, cost, (error, hash) => (error ? reject(error) : resolve(hash)))
  return promise
}
