/**
 * The commit of an inbound transfer: every object passes the airlock, its bytes become blobs, and one
 * transaction makes the study visible together with the receipt and the audit event. Every step may be
 * repeated after a crash: staging keeps its own link to the bytes until that transaction is through.
 */
import { knownCode, type ObjectRefusal, type ReceiptCounts } from '../../peers/receipt.ts'
import { appendAudit } from '../audit/log.ts'
import type { Tx } from '../db/db.ts'
import { type ErrorCode, GatewayError, isGatewayError } from '../errors.ts'
import { recordImportStable } from '../store/changes.ts'
import { holdConflict, insertInstances, type NewInstance } from '../store/instances.ts'
import type { BlobObject } from './early-blobs.ts'
import { routeImported } from './import-routing.ts'
import { type PassedObject, passAirlock } from './inbound-airlock.ts'
import { type ArrivedRange, mostHeadersKept } from './inbound-arrival.ts'
import { draftReceipt, type InboundContext, type Plan, transferEnded } from './inbound-context.ts'
import { type InboundRow, loadInbound, lockInbound, setState } from './inbound-rows.ts'
import { inParallel } from './parallel.ts'
import { issueReceipt } from './receipts.ts'
import { addStep } from './transfer-steps.ts'

const rowsPerStatement = 200
const conflictReruns = 5

/**
 * Carries a transfer from `committing` to `imported` or `held`; nothing when it is neither.
 *
 * @throws GatewayError STORAGE_FULL, STORAGE_IO, DATABASE_UNAVAILABLE: run it again later
 */
export async function importInbound(context: InboundContext, id: string, signal: AbortSignal): Promise<void> {
  const row = await loadInbound(context.db.kysely, id)
  if (row?.state !== 'committing') return
  await context.guard.idle(id)
  if (!row.peer.isActive) return await hold(context, row, { code: 'PEER_REVOKED', refusals: [] })
  const plan = await context.plans.load(context.db, id)

  const early = await plan.early.settle()
  const { passed, refusals } = await passAll(context, row, plan, signal)
  const [first] = refusals
  if (first) return await hold(context, row, { code: knownCode(first.code), refusals })
  if (row.holdReason !== undefined)
    return await hold(context, row, { code: 'POLICY_DENIED', message: row.holdReason, refusals: [] })
  const committed: Passed[] = []
  try {
    const late = passed.filter(object => !early.has(object.ordinal))
    await inParallel(late, 16, async object => {
      signal.throwIfAborted()
      await commitBlob(context, row.manifestId, object)
      committed.push(object)
    })
    const conflicts = await makeVisible(context, row, plan, passed)
    if (conflicts.length > 0) return await hold(context, row, { code: 'STATE_CONFLICT', refusals: conflicts })
  } finally {
    for (const object of committed) context.blobs.release(object.fileSha256)
    context.plans.forget(id)
  }
  await context.staging.remove(row.manifestId)
}

type Passed = Omit<PassedObject, 'header'> & { readonly header: PassedObject['header'] | undefined }

async function passAll(
  context: InboundContext,
  row: InboundRow,
  { manifest, arrivals }: Plan,
  signal: AbortSignal,
): Promise<{ passed: Passed[]; refusals: ObjectRefusal[] }> {
  const passed: Passed[] = []
  const refusals: ObjectRefusal[] = []
  const keepsHeaders = manifest.objects.length <= mostHeadersKept
  await inParallel([...manifest.objects.keys()], 4, async ordinal => {
    signal.throwIfAborted()
    const path = context.staging.path(row.manifestId, ordinal)
    const result = await passAirlock({ path, manifest, ordinal, arrival: arrivals.get(ordinal) }, context)
    if (result.kind === 'refused') refusals.push(result.refusal)
    else passed.push(keepsHeaders ? result.object : { ...result.object, header: undefined })
  })
  passed.sort((a, b) => a.ordinal - b.ordinal)
  refusals.sort((a, b) => a.object - b.object)
  return { passed, refusals }
}

/** A second name for the file goes to the blob store; staging keeps its own until the import is committed. */
async function commitBlob(context: InboundContext, manifestId: string, object: BlobObject): Promise<void> {
  await context.blobs.adopt(context.staging.path(manifestId, object.ordinal), object.fileSha256)
}

/**
 * Takes what a range completed on, in the background, while the rest is on its way: objects that lay wholly
 * in it go to the blob store, those whose last leaf it brought are read back and verified first. The
 * import waits for it, and does again what failed.
 */
export function takeEarly(context: InboundContext, manifestId: string, plan: Plan, range: ArrivedRange): void {
  for (const { ordinal, arrival } of range.objects) {
    plan.arrivals.set(ordinal, arrival)
    if (!arrival.isSigned) continue // the airlock will say so
    const object = { ordinal, fileSha256: arrival.fileSha256, sizeBytes: plan.map.sizeOf(ordinal) }
    plan.early.add(object, () => commitBlob(context, manifestId, object))
  }
  plan.leaves.add(range.run)
  const keepsHeaders = plan.manifest.objects.length <= mostHeadersKept
  for (const ordinal of range.partial) {
    const { from, to } = plan.map.runOf(ordinal)
    const run = plan.leaves.nextRun(from, to - from + 1)
    if (!keepsHeaders || run?.from !== from || run.to !== to) continue
    const fileSha256 = Buffer.from(plan.manifest.objects[ordinal]?.sha256 ?? '', 'hex')
    const object = { ordinal, fileSha256, sizeBytes: plan.map.sizeOf(ordinal) }
    plan.early.add(object, async () => {
      const path = context.staging.path(manifestId, ordinal)
      const result = await passAirlock({ path, manifest: plan.manifest, ordinal }, context)
      if (result.kind === 'refused') throw new GatewayError('OBJECT_DIGEST', 'the airlock will say so')
      const { header, datasetSha256 } = result.object
      plan.arrivals.set(ordinal, { fileSha256, isSigned: true, known: { header, datasetSha256 } })
      await commitBlob(context, manifestId, object)
    })
  }
}

/** Objects that cannot be made visible because another content has their UID; empty when all is visible. */
async function makeVisible(
  context: InboundContext,
  row: InboundRow,
  plan: Plan,
  passed: readonly Passed[],
): Promise<ObjectRefusal[]> {
  const to = { siteId: row.peer.siteId, manifestId: row.manifestId }
  // Every byte is durable and verified; its checkpoint is made while the rows are written.
  const drafting = draftReceipt(context, to, { kind: 'imported' })
  drafting.catch(() => undefined) // thrown where it is awaited
  for (let attempt = 1; ; attempt++) {
    try {
      await context.db.inTransaction(async tx => {
        const locked = await lockInbound(tx, row.id)
        if (locked?.state !== 'committing') return
        const counts = await insertAll(tx, context, row, plan, passed)
        await recordImportStable(tx, row.peer.siteId, plan.manifest.studies)
        const draft = await drafting
        await issueReceipt(tx, row.id, { ...draft, kind: 'custody' }, context.keys)
        await issueReceipt(tx, row.id, { ...draft, counts }, context.keys)
        await setState(tx, row.id, 'imported')
        await addStep(tx, row.id, 'imported', { ...counts })
        await routeImported(tx, context.queue, { siteId: row.peer.siteId, studies: plan.manifest.studies })
        const about = { id: row.id, manifestId: row.manifestId, manifest: plan.manifest }
        const action = counts.stored > 0 ? 'C' : 'R'
        await appendAudit(
          tx,
          transferEnded(context, row.peer.siteId, about, { outcome: 'success', action, detail: { ...counts } }),
        )
      })
      context.watch.notify(row.id)
      return []
    } catch (error) {
      if (error instanceof ConflictsFound) return [...error.refusals]
      // Another writer inserted one of the instances meanwhile: look again.
      if (!isGatewayError(error, 'STATE_CONFLICT') || attempt === conflictReruns) throw error
    }
  }
}

async function insertAll(
  tx: Tx,
  context: InboundContext,
  row: InboundRow,
  plan: Plan,
  passed: readonly Passed[],
): Promise<ReceiptCounts> {
  const counts = { stored: 0, duplicates: 0, variants: 0 }
  const refusals: ObjectRefusal[] = []
  for (let start = 0; start < passed.length; start += rowsPerStatement) {
    const batch = await Promise.all(
      passed.slice(start, start + rowsPerStatement).map(object => toInstance(context, row, plan, object)),
    )
    const outcomes = await insertInstances(tx, batch)
    for (const [index, outcome] of outcomes.entries()) {
      const item = batch[index]
      if (!item) continue
      if (outcome.kind === 'stored') counts.stored++
      else if (outcome.kind === 'duplicate') counts.duplicates++
      else if (outcome.kind === 'variant') {
        counts.variants++
        await holdConflict(tx, item, outcome.instance, 'variant')
      } else {
        const object = passed[start + index]?.ordinal ?? 0
        refusals.push({ object, sopInstanceUid: item.header.sopInstanceUid, code: 'STATE_CONFLICT' })
      }
    }
  }
  if (refusals.length > 0) throw new ConflictsFound(refusals)
  return { objects: passed.length, ...counts, refused: 0 }
}

async function toInstance(context: InboundContext, row: InboundRow, plan: Plan, object: Passed): Promise<NewInstance> {
  const { fileSha256, datasetSha256, sizeBytes } = object
  return {
    header: object.header ?? (await readHeaderAgain(context, row, plan, object)),
    issuer: row.peer.siteId, // a peer's patients stay foreign: two hospitals' 12345 never merge
    fileSha256,
    datasetSha256,
    sizeBytes,
    origin: { kind: 'peer', principal: row.peer.siteId, peerId: row.peer.id, transferId: row.id },
    dueAt: undefined, // an import triggers nothing unless a rule names that origin
  }
}

/** Of a transfer with more objects than headers are kept of; the bytes were verified a moment ago. */
async function readHeaderAgain(context: InboundContext, row: InboundRow, plan: Plan, object: Passed) {
  const { ordinal, fileSha256 } = object
  const path = context.staging.path(row.manifestId, ordinal)
  const arrival = { fileSha256, isSigned: true }
  const result = await passAirlock({ path, manifest: plan.manifest, ordinal, arrival }, context)
  if (result.kind === 'refused') throw new ConflictsFound([result.refusal])
  return result.object.header
}

/** Rolls the import back with what stands in its way. */
class ConflictsFound extends Error {
  readonly refusals: readonly ObjectRefusal[]

  constructor(refusals: readonly ObjectRefusal[]) {
    super(`${refusals.length} objects cannot be imported`)
    this.refusals = refusals
  }
}

/** Whole or held: nothing is visible, every byte is kept, both sites see how many objects are fine. */
async function hold(
  context: InboundContext,
  row: InboundRow,
  why: { code: ErrorCode; message?: string; refusals: readonly ObjectRefusal[] },
): Promise<void> {
  const { manifest } = await context.plans.load(context.db, row.id)
  const objects = row.objectCount
  const refused = why.refusals.length
  const draft = await draftReceipt(
    context,
    { siteId: row.peer.siteId, manifestId: row.manifestId },
    {
      kind: 'held',
      code: why.code,
      refusals: why.refusals,
      counts: { objects, stored: 0, duplicates: 0, variants: 0, refused },
    },
  )
  await context.db.inTransaction(async tx => {
    const locked = await lockInbound(tx, row.id)
    if (locked?.state !== 'committing') return
    const { refusals: _, counts: __, code: ___, ...bare } = draft
    if (why.code === 'STATE_CONFLICT') await issueReceipt(tx, row.id, { ...bare, kind: 'custody' }, context.keys)
    await issueReceipt(tx, row.id, draft, context.keys)
    const message = why.message ?? `${objects - refused} of ${objects} objects can be imported`
    await setState(tx, row.id, 'held', { code: why.code, message, refusals: why.refusals })
    await addStep(tx, row.id, 'held', { code: why.code, objects, refused })
    const about = { id: row.id, manifestId: row.manifestId, manifest }
    const end = { outcome: 'serious-failure', reason: why.code, detail: { objects, refused } } as const
    await appendAudit(tx, transferEnded(context, row.peer.siteId, about, end))
  })
}
