/** What two policies say of the same studies: nothing is planned, nothing changes. */
import { sql } from 'kysely'
import { type Decision, decide } from '../../policy/decide.ts'
import type { PolicyDocument } from '../../policy/document.ts'
import type { Tx } from '../db/db.ts'
import type { DryRunOutcome } from '../db/schema.ts'
import { type ConsentGap, describeGap } from './consent-transfers.ts'
import { type FindArchive, type RouteTarget, resolveTarget } from './route-target.ts'
import { loadFacts, type StudyFacts } from './study-facts.ts'

/** What would become of a study's instances of one origin for one destination, and what becomes of them now. */
export interface Judged {
  readonly origin: string
  readonly destination: string
  readonly outcome: DryRunOutcome
  readonly rule: string | null
  /** Why it would be held or denied. */
  readonly reason: string | null
  readonly purpose: string | null
  readonly profile: string | null
  readonly before: DryRunOutcome
  readonly beforeRule: string | null
}

/** Only what one of both policies decides is told. */
export async function compareBatch(
  tx: Tx,
  input: {
    readonly draft: PolicyDocument
    readonly baseline: PolicyDocument | undefined
    readonly studies: readonly number[]
    readonly at: Date
    readonly findArchive: FindArchive
  },
): Promise<readonly (Judged & { readonly study: number; readonly studyInstanceUid: string })[]> {
  const { studies, at } = input
  const facts = await loadFacts(tx, studies, { at, by: 'class' })
  const now = await judgeAll(tx, input.draft, facts, input)
  const before = input.baseline ? await judgeAll(tx, input.baseline, facts, input) : facts.map(() => new Map())
  return facts.flatMap(({ study, studyInstanceUid, origin }, index) => {
    const [then, old] = [now[index] ?? new Map(), before[index] ?? new Map()]
    return [...new Set([...then.keys(), ...old.keys()])].map(destination => {
      const after: Verdict = then.get(destination) ?? nothing
      const { outcome, rule } = old.get(destination) ?? nothing
      return { study, studyInstanceUid, origin, destination, ...after, before: outcome, beforeRule: rule }
    })
  })
}

interface Verdict extends Pick<Judged, 'outcome' | 'rule' | 'reason' | 'purpose' | 'profile'> {}

const nothing: Verdict = { outcome: 'none', rule: null, reason: null, purpose: null, profile: null }

/** A verdict for each study and destination; consents of all are asked for at once. */
async function judgeAll(
  tx: Tx,
  document: PolicyDocument,
  facts: readonly StudyFacts[],
  { at, findArchive }: { readonly at: Date; readonly findArchive: FindArchive },
): Promise<readonly Map<string, Verdict>[]> {
  const targets = new Map<string, RouteTarget>()
  for (const [name, { peer, modality, endpoint, zone }] of Object.entries(document.destinations))
    targets.set(name, await resolveTarget(tx, findArchive, { peer, modality, endpoint, zone }, 'rule'))
  const going: { readonly about: StudyFacts; readonly decision: Decision; readonly into: Map<string, Verdict> }[] = []
  const verdicts = facts.map(about => {
    const into = new Map<string, Verdict>()
    for (const decision of decide(about.facts, document, at).decisions) {
      const verdict = verdictOf(decision, targets.get(decision.destination))
      into.set(decision.destination, verdict)
      if (verdict.outcome === 'go') going.push({ about, decision, into })
    }
    return into
  })
  const gaps = await findGaps(
    tx,
    going.map(({ about, decision }) => {
      const target = targets.get(decision.destination)
      const { issuer, patientId } = about
      const purpose = decision.effect.kind === 'send' ? decision.effect.purpose : ''
      const recipient = target?.modality ?? target?.userId ?? ''
      return {
        issuer,
        patientId,
        purpose,
        recipient,
        needsConsent: decision.needsConsent,
        zone: target?.zone ?? 'outside',
      }
    }),
  )
  for (const [index, { decision, into }] of going.entries()) {
    const gap = gaps.get(index)
    const verdict = into.get(decision.destination)
    if (gap && verdict)
      into.set(decision.destination, { ...verdict, outcome: 'held', reason: describeGap(gap).message })
  }
  return verdicts
}

function verdictOf({ rule, effect, obstacle }: Decision, target: RouteTarget | undefined): Verdict {
  if (effect.kind === 'deny') return { ...nothing, outcome: 'denied', rule, reason: effect.reason }
  if (effect.kind === 'hold') return { ...nothing, outcome: 'held', rule, reason: effect.reason }
  const { purpose, profile } = effect
  const problem = obstacle ?? target?.problem
  if (problem) return { outcome: 'held', rule, reason: problem.message, purpose, profile }
  return { outcome: 'go', rule, reason: null, purpose, profile }
}

/** What patients have not consented to, or object to, by the place in the list. */
async function findGaps(
  tx: Tx,
  asked: readonly {
    readonly issuer: string
    readonly patientId: string
    readonly purpose: string
    readonly recipient: string
    readonly needsConsent: boolean
    readonly zone: string
  }[],
): Promise<ReadonlyMap<number, ConsentGap>> {
  if (asked.length === 0) return new Map()
  const { rows } = await sql<{ place: number; gap: ConsentGap }>`
    select (a.place - 1)::int as place, g.gap
      from unnest(${asked.map(one => one.issuer)}::text[], ${asked.map(one => one.patientId)}::text[],
             ${asked.map(one => one.purpose)}::text[], ${asked.map(one => one.recipient)}::text[],
             ${asked.map(one => one.needsConsent)}::boolean[], ${asked.map(one => one.zone)}::text[])
             with ordinality as a (issuer, patient, purpose, recipient, needs, zone, place)
      cross join lateral (select consent_gap(a.issuer, a.patient, a.purpose, a.recipient, a.needs, a.zone) as gap) g
     where g.gap is not null`.execute(tx)
  return new Map(rows.map(row => [row.place, row.gap]))
}
