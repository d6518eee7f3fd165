/**
 * Verifies the audit log from its rows alone: every commitment, every leaf, the tree's head, and every
 * signed checkpoint. What was changed is named by its event id; where an event and its leaf were
 * rewritten together, by the range between the two checkpoints that disagree.
 *
 * A log is only as strong as its newest checkpoint that somebody else holds: events after it could be
 * cut off together with ours. Receipts carry checkpoints to the other side for that reason; `witnesses`
 * takes them back.
 */
import { type Selectable, sql } from 'kysely'
import type { Db, Tx } from '../db/db.ts'
import type { AuditCheckpointsTable } from '../db/schema.ts'
import { isGatewayError } from '../errors.ts'
import { erasedBy } from './erase.ts'
import { commitmentOf } from './log.ts'
import { emptyRoot, MerkleTree } from './merkle.ts'
import { isSigned, type NoteKey, parseCheckpoint } from './note.ts'

export type AuditProblemKind =
  | 'changed' // a record does not match its commitment, or a commitment not its leaf
  | 'removed' // an event or a leaf is missing
  | 'added' // an event or a leaf that the log never took in
  | 'erased' // a record without content, and no record of its erasure
  | 'rewritten' // rows agree with each other, but not with a signed checkpoint
  | 'checkpoint' // a checkpoint that is malformed, unsigned, or not of this log

export interface AuditProblem {
  readonly kind: AuditProblemKind
  /** For people; names the rows. */
  readonly message: string
  /** Id of the event, where one is named. */
  readonly event?: number
  /** Index of the leaf, where one is named. */
  readonly leaf?: number
}

export interface AuditReport {
  readonly ok: boolean
  /** At most `maxProblems`; the first ones found. */
  readonly problems: readonly AuditProblem[]
  /** Leaves in the log. */
  readonly size: number
  /** Leaves that the newest good checkpoint covers. */
  readonly signedSize: number
  /** Records erased with a record of it. */
  readonly erased: number
  /** Committed events that the sequencer has not come to yet. */
  readonly pending: number
  readonly checkpoints: number
}

const batchSize = 2000
const maxProblems = 1000

/**
 * Verifies everything, reading the log once, in one snapshot of the database.
 *
 * @param keys  the site's signing keys, former ones included
 * @param options.witnesses  checkpoints of this log that others gave back (signed notes)
 */
export async function verifyAudit(
  db: Db,
  keys: readonly NoteKey[],
  options: { witnesses?: readonly string[]; signal?: AbortSignal } = {},
): Promise<AuditReport> {
  return await db.kysely
    .transaction()
    .setIsolationLevel('repeatable read')
    .setAccessMode('read only')
    .execute(tx => verify(tx, keys, options))
}

interface LeafRow {
  readonly leaf: number
  readonly event: number
  readonly leafCommitment: Buffer
  readonly at: Date | null
  readonly salt: Buffer | null
  readonly payload: string | null
  readonly commitment: Buffer | null
}

async function verify(
  tx: Tx,
  keys: readonly NoteKey[],
  { witnesses = [], signal }: { witnesses?: readonly string[]; signal?: AbortSignal },
): Promise<AuditReport> {
  const problems: AuditProblem[] = []
  const report = (kind: AuditProblemKind, message: string, row: { event?: number; leaf?: number } = {}): void => {
    if (problems.length < maxProblems) problems.push({ kind, message, ...row })
  }

  const { rows: trees } = await sql<{ size: number; frontier: Buffer[]; settled: number }>`
    select size, frontier, settled from audit_tree
  `.execute(tx)
  const head = trees[0] ?? { size: 0, frontier: [], settled: 0 }
  const stored = await tx.selectFrom('audit_checkpoints').selectAll().orderBy('size').execute()
  const claims = [...stored.map(row => storedClaim(row, keys)), ...witnesses.map(note => witnessClaim(note, keys))]
  for (const claim of claims) if (claim.problem) report('checkpoint', claim.problem)
  const good = claims.filter(claim => !claim.problem).sort((a, b) => a.size - b.size)

  const tree = new MerkleTree()
  const erased = new Set<number>()
  const erasures = new Set<number>()
  let expected = 0
  let whole = true // no leaf is missing so far, so roots mean something
  let checkedTo = 0 // leaves below are covered by a checkpoint that agrees
  let suspect = false // a row since `checkedTo` was named already
  let firstEvent: number | undefined // of the leaves since `checkedTo`
  let lastEvent: number | undefined
  let next = 0

  const compareClaims = (): void => {
    for (let claim = good[next]; claim && claim.size <= expected; claim = good[++next]) {
      if (!whole) continue
      if (tree.root().equals(claim.root)) {
        ;[checkedTo, suspect, firstEvent] = [claim.size, false, undefined]
      } else {
        const events = firstEvent === undefined ? 'no events' : `events ${firstEvent} to ${lastEvent}`
        if (!suspect) {
          const range = `leaves ${checkedTo} to ${claim.size - 1} (${events})`
          report('rewritten', `${range} do not give the root that the checkpoint of size ${claim.size} signs`)
        }
        whole = false // every later root is off for the same reason
      }
    }
  }

  compareClaims()
  for await (const row of leaves(tx, signal)) {
    if (row.leaf !== expected) {
      const missing = row.leaf - 1 === expected ? `leaf ${expected}` : `leaves ${expected} to ${row.leaf - 1}`
      report('removed', `${missing} missing, after event ${lastEvent ?? 'none'} and before event ${row.event}`, {
        leaf: expected,
      })
      whole = false
    }
    expected = row.leaf + 1
    firstEvent ??= row.event
    lastEvent = row.event
    if (row.leaf >= head.size) {
      report('added', `event ${row.event} has leaf ${row.leaf}, beyond the log's ${head.size} leaves`, row)
      continue
    }
    tree.append(row.leafCommitment)
    const wrong = checkRow(row)
    if (wrong) {
      report(wrong.kind, wrong.message, { event: row.event, leaf: row.leaf })
      suspect = true
    }
    if (row.commitment && row.payload === null) erased.add(row.event)
    const erasure = row.payload === null ? undefined : erasedBy(row.payload)
    if (erasure !== undefined) erasures.add(erasure)
    compareClaims()
  }

  if (expected < head.size) {
    const missing = `leaves ${expected} to ${head.size - 1}`
    report('removed', `${missing} missing at the end, after event ${lastEvent ?? 'none'}`, { leaf: expected })
  } else if (whole && !suspect && !sameFrontier(tree.frontier, head.frontier)) {
    report('rewritten', `leaves ${checkedTo} to ${head.size - 1} do not give the stored head of the tree`)
  }
  const beyond = good[next]
  if (beyond)
    report('removed', `a checkpoint signs ${beyond.size} leaves, the log has ${Math.min(expected, head.size)}`)
  for (const event of erased) {
    if (!erasures.has(event)) report('erased', `event ${event} has no content and no record of its erasure`, { event })
  }
  const pending = await checkUnsequenced(tx, head.settled, report)

  return {
    ok: problems.length === 0,
    problems,
    size: head.size,
    signedSize: checkedTo,
    erased: erased.size,
    pending,
    checkpoints: stored.length,
  }
}

/** Leaves in order, each with its event as far as it is there. */
async function* leaves(tx: Tx, signal: AbortSignal | undefined): AsyncGenerator<LeafRow & { leaf: number }> {
  for (let from = -1; ; ) {
    signal?.throwIfAborted()
    const { rows } = await sql<LeafRow>`
      select l.leaf_index as leaf, l.event, l.commitment as "leafCommitment", e.at, e.salt, e.payload, e.commitment
        from (select * from audit_leaves where leaf_index > ${from} order by leaf_index limit ${batchSize}) l
        left join audit_events e on e.id = l.event
       order by l.leaf_index
    `.execute(tx)
    yield* rows
    const last = rows.at(-1)
    if (!last || rows.length < batchSize) return
    from = last.leaf
  }
}

function checkRow(row: LeafRow): { kind: AuditProblemKind; message: string } | undefined {
  const { event, commitment, salt, payload } = row
  if (commitment === null)
    return { kind: 'removed', message: `event ${event} is missing; its leaf ${row.leaf} is there` }
  const matches = salt === null || payload === null || commitmentOf(salt, payload).equals(commitment)
  const isLeaf = commitment.equals(row.leafCommitment)
  if (!matches) {
    return { kind: 'changed', message: `the record of event ${event} does not match its commitment: it was changed` }
  }
  if (!isLeaf) {
    const what = payload === null ? 'commitment or leaf' : 'record with its commitment, or the leaf,'
    return { kind: 'changed', message: `event ${event} does not match its leaf ${row.leaf}: ${what} was changed` }
  }
  if (payload !== null && row.at && !hasTime(payload, row.at)) {
    return { kind: 'changed', message: `the time of event ${event} is not that of its record: it was changed` }
  }
  return undefined
}

/** The column `at` repeats the payload's time for queries; it is not in the commitment itself. */
function hasTime(payload: string, at: Date): boolean {
  return payload.includes(`"at":"${at.toISOString()}"`)
}

/** A checkpoint to hold the log against. */
interface Claim {
  readonly size: number
  readonly root: Buffer
  readonly problem?: string
}

function storedClaim(row: Selectable<AuditCheckpointsTable>, keys: readonly NoteKey[]): Claim {
  const claim = witnessClaim(row.note, keys, `checkpoint of size ${row.size}`)
  if (claim.problem) return { ...claim, size: row.size }
  const agrees = claim.size === row.size && claim.root.equals(row.root)
  return agrees
    ? claim
    : { ...claim, problem: `checkpoint of size ${row.size}: its row does not say what its note says` }
}

function witnessClaim(note: string, keys: readonly NoteKey[], name = 'witnessed checkpoint'): Claim {
  try {
    const { origin, size, root } = parseCheckpoint(note)
    // The key's name is the log's origin: another log's checkpoint does not vouch for this one.
    const own = keys.filter(key => key.name === origin)
    const claim = { size, root }
    return isSigned(note, own) ? claim : { ...claim, problem: `${name}: not signed by a key of this log` }
  } catch (error) {
    const reason = isGatewayError(error) ? error.message : 'unreadable'
    return { size: 0, root: emptyRoot, problem: `${name}: ${reason}` }
  }
}

/** Events without a leaf: new ones are pending; below the settled mark none can be new. */
async function checkUnsequenced(
  tx: Tx,
  settled: number,
  report: (kind: AuditProblemKind, message: string, row: { event: number }) => void,
): Promise<number> {
  const { rows } = await sql<{ id: number }>`
    select e.id from audit_events e
     where e.id <= ${settled} and not exists (select from audit_leaves l where l.event = e.id)
     order by e.id limit ${maxProblems}
  `.execute(tx)
  for (const { id } of rows) {
    report('added', `event ${id} is not in the log: it was added later, or its leaf was removed`, { event: id })
  }
  const { rows: waiting } = await sql<{ count: number }>`
    select count(*) as count from audit_events e
     where e.id > ${settled} and not exists (select from audit_leaves l where l.event = e.id)
  `.execute(tx)
  return waiting[0]?.count ?? 0
}

function sameFrontier(a: readonly Buffer[], b: readonly Buffer[]): boolean {
  return a.length === b.length && a.every((node, index) => b[index]?.equals(node))
}
