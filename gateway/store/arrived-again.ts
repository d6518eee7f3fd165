/** What was sent again, bytes and all, where what is sent replaces what is stored: as if it had come now. */
import { sql } from 'kysely'
import type { Tx } from '../db/db.ts'

/** Studies of these instances are awaited once more, and told stable once more when nothing comes. */
export async function arrivedAgain(
  tx: Tx,
  arrivals: readonly { readonly instance: number; readonly dueAt: Date | undefined }[],
): Promise<void> {
  const due = arrivals.flatMap(({ instance, dueAt }) => (dueAt ? [{ instance, dueAt }] : []))
  if (due.length === 0) return
  await sql`
    with again as (
      update studies s set due_at = greatest(s.due_at, a.due_at)
        from (select c.study, max(t.due_at) as due_at
                from unnest(${due.map(({ instance }) => instance)}::bigint[], ${due.map(({ dueAt }) => dueAt)}::timestamptz[])
                       as t (instance, due_at)
                join instances i on i.id = t.instance
                join series c on c.id = i.series
               group by c.study) a
       where s.id = a.study
      returning s.orthanc_id
    )
    delete from changes k using again where k.resource = again.orthanc_id and k.kind = 'StableStudy'
  `.execute(tx)
}
