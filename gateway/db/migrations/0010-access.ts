/** Roles, domains and expiry of access tokens. Tokens from before there were roles could do everything, and still can. */
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<never>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(db)
}

const statements = [
  `alter table access_tokens
     add column role text not null default 'administrator',
     add column domain text,
     add column expires_at timestamptz`,
  `alter table access_tokens alter column role set default 'viewer'`,
]
