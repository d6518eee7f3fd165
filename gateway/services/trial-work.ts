/** Open work of a trial: what waits, for which task, and who has that task today. It belongs to roles, not persons. */
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import type { Db } from '../db/db.ts'
import type { Principal } from '../principal.ts'
import { findSubjects, inForce, loadTrial, type TrialTask } from './trial-rows.ts'
import { findUploads } from './trial-upload-rows.ts'

/** Something that waits for somebody with a task. */
export interface OpenWork {
  readonly task: TrialTask
  /** `choose` a study, `correct` or `approve` what was chosen, `send` it, `answer` the sponsor, `attend` to transfers. */
  readonly what: 'choose' | 'correct' | 'approve' | 'send' | 'answer' | 'attend'
  readonly subject: string
  readonly visit: string
  readonly upload: string | null
  /** Last day of the visit's window, `YYYY-MM-DD`, where something is to be chosen. */
  readonly due: string | null
  /** Who may do it today. */
  readonly people: readonly string[]
}

const dayMs = 86_400_000
const dayText = (at: number): string => new Date(at).toISOString().slice(0, 10)

/** All of it. @throws GatewayError NOT_FOUND */
export async function listOpenWork(db: Db, principal: Principal, name: string): Promise<readonly OpenWork[]> {
  authorize(principal, 'trial.read')
  const { document } = await loadTrial(db.kysely, name)
  const uploads = await findUploads(db.kysely, name)
  const { rows } = await sql<{ task: TrialTask; person: string }>`
    select distinct task, person from trial_delegations where trial = ${name} and ${inForce} order by 1, 2`.execute(
    db.kysely,
  )
  const work = (task: TrialTask, rest: Omit<OpenWork, 'task' | 'people'>): OpenWork => ({
    ...{ task, ...rest },
    people: rows.filter(row => row.task === task).map(({ person }) => person),
  })
  const waiting = uploads.flatMap(({ id, subject, visit, progress, findings }): OpenWork[] => {
    const at = { subject, visit, upload: id, due: null }
    if (progress === 'draft')
      return findings.some(({ severity }) => severity === 'stop')
        ? [work('upload', { what: 'correct', ...at })]
        : [work('approve', { what: 'approve', ...at })]
    if (progress === 'approved') return [work('approve', { what: 'send', ...at })]
    if (progress === 'queried') return [work('answer', { what: 'answer', ...at })]
    return progress === 'attention' ? [work('upload', { what: 'attend', ...at })] : []
  })
  const uploaded = new Set(
    uploads
      .filter(({ progress }) => progress !== 'cancelled' && progress !== 'replaced')
      .map(({ subject, visit }) => JSON.stringify([subject, visit])),
  )
  const lacking = (await findSubjects(db.kysely, name)).flatMap(({ code, state, dayZero }) =>
    state !== 'enrolled' || dayZero === null
      ? []
      : document.visits.flatMap((visit): OpenWork[] => {
          if (visit.day === undefined || uploaded.has(JSON.stringify([code, visit.name]))) return []
          const at = Date.parse(`${dayZero}T00:00:00Z`) + visit.day * dayMs
          if (at - visit.before * dayMs > Date.now()) return []
          const due = dayText(at + visit.after * dayMs)
          return [work('upload', { what: 'choose', subject: code, visit: visit.name, upload: null, due })]
        }),
  )
  return [...waiting, ...lacking]
}
