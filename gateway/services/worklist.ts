/** The modality worklist: what is scheduled, from files, the API and HL7 orders (PS3.4 Annex K). */

import { randomUUID } from 'node:crypto'
import { authorize } from '../../policy/authorize.ts'
import { type AuditEvent, type AuditObject, orderRecord, type Participant, queried } from '../audit/event.ts'
import { appendAudit, appendAudits } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import { type WorklistEntry, worklistEntriesFromJson } from '../dicom/worklist-item.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import {
  deleteWorklistItems,
  loadSourceKeys,
  loadWorklistItem,
  loadWorklistPage,
  loadWorklistSubject,
  putWorklistItem,
  setOrderState,
  type WorklistFilter,
  type WorklistItem,
  type WorklistPage,
  type WorklistPlace,
  type WorklistState,
  type WorklistSubject,
} from '../store/worklist.ts'

/** What an order of HL7 wants. */
export type Order =
  | { readonly kind: 'schedule'; readonly orderKey: string; readonly entries: readonly OrderedEntry[] }
  | {
      readonly kind: 'state'
      readonly orderKey: string
      /** One step of the order; all when absent. */
      readonly externalKey?: string | undefined
      readonly state: WorklistState
    }

/** One scheduled step of an order, named by the order and its step. */
export interface OrderedEntry {
  readonly externalKey: string
  readonly entry: WorklistEntry
}

export interface Worklist {
  /** A page of items, the earliest first; audited as a query. */
  list(
    principal: Principal,
    filter: WorklistFilter,
    page: { readonly limit: number; readonly after?: WorklistPlace | undefined },
  ): Promise<WorklistPage>
  /** One item; audited. @throws GatewayError NOT_FOUND */
  get(principal: Principal, id: string): Promise<WorklistItem>
  /**
   * Creates or replaces an item of the API.
   *
   * @param raw  DICOM JSON of an untrusted source with one scheduled procedure step
   * @throws GatewayError BAD_REQUEST, TOO_LARGE; STATE_CONFLICT when the id is a file's or an order's item
   */
  put(principal: Principal, raw: unknown, id?: string): Promise<WorklistItem>
  /** @throws GatewayError NOT_FOUND; STATE_CONFLICT for an item of a file, which the file would bring back */
  remove(principal: Principal, id: string): Promise<void>
  /**
   * Does what orders want, all of one message or none.
   *
   * @throws GatewayError NOT_FOUND when a change of state names an order that is not known
   */
  apply(principal: Principal, orders: readonly Order[]): Promise<void>
  /** Makes the items of one file those given; entries are in the order of the file's scheduled steps. */
  putFile(principal: Principal, path: string, entries: readonly WorklistEntry[]): Promise<void>
  /** Removes the items of files other than these. */
  keepFiles(principal: Principal, paths: ReadonlySet<string>): Promise<void>
  /**
   * All items, page by page, the earliest first; audited as one query by the attributes that it matches.
   *
   * @throws also the signal's reason
   */
  find(
    principal: Principal,
    query: { readonly keys: readonly string[]; readonly filter: WorklistFilter; readonly signal: AbortSignal },
  ): AsyncGenerator<readonly WorklistItem[], void, void>
}

const pageRows = 200

/** Opens the worklist. */
export function openWorklist(options: { readonly db: Db }): Worklist {
  const { db } = options

  const write = async (
    tx: Tx,
    principal: Principal,
    item: Omit<Parameters<typeof putWorklistItem>[1], 'id'> & { readonly id?: string | undefined },
  ): Promise<string> => {
    const { id, change } = await putWorklistItem(tx, { ...item, id: item.id ?? randomUUID() })
    if (change !== 'unchanged') {
      const { keys } = item.entry
      const subject = { id, patientId: keys.patientId, issuer: keys.issuer, studyInstanceUid: keys.studyInstanceUid }
      await appendAudit(tx, recordOf(principal, change === 'created' ? 'C' : 'U', subject, item.source))
    }
    return id
  }

  const drop = async (tx: Tx, principal: Principal, ids: readonly string[], source: string): Promise<void> => {
    const removed = await deleteWorklistItems(tx, ids)
    await appendAudits(
      tx,
      removed.map(subject => recordOf(principal, 'D', subject, source)),
    )
  }

  return {
    list: async (principal, filter, page) => {
      authorize(principal, 'worklist.read')
      const found = await loadWorklistPage(db, filter, page)
      await db.inTransaction(tx =>
        appendAudit(
          tx,
          queried({ requestor: participantOf(principal), detail: { model: 'worklist', items: found.items.length } }),
        ),
      )
      return found
    },

    get: async (principal, id) =>
      await db.inTransaction(async tx => {
        authorize(principal, 'worklist.read')
        const item = await loadWorklistItem(tx, id)
        await appendAudit(tx, recordOf(principal, 'R', await loadWorklistSubject(tx, id), item.source))
        return item
      }),

    put: async (principal, raw, id = randomUUID()) => {
      authorize(principal, 'worklist.write')
      const [entry, ...others] = await worklistEntriesFromJson(raw, id)
      if (!entry || others.length > 0)
        throw new GatewayError('BAD_REQUEST', 'expected one item in Scheduled Procedure Step Sequence (0040,0100)')
      return await db.inTransaction(async tx => {
        await write(tx, principal, { id, source: 'rest', entry })
        return await loadWorklistItem(tx, id)
      })
    },

    remove: async (principal, id) => {
      authorize(principal, 'worklist.write')
      await db.inTransaction(async tx => {
        const { source } = await loadWorklistItem(tx, id)
        if (source === 'file')
          throw new GatewayError('STATE_CONFLICT', 'the item is in a file of the worklist folder: remove the file')
        await drop(tx, principal, [id], source)
      })
    },

    apply: async (principal, orders) => {
      authorize(principal, 'worklist.write')
      await db.inTransaction(async tx => {
        for (const order of orders) await applyOne(tx, principal, order)
      })
    },

    putFile: async (principal, path, entries) => {
      authorize(principal, 'worklist.write')
      const known = await loadSourceKeys(db, 'file', `${path}#`)
      const surplus = known
        .filter(({ externalKey }) => placeOf(externalKey).index >= entries.length)
        .map(({ id }) => id)
      await db.inTransaction(async tx => {
        for (const [index, entry] of entries.entries())
          await write(tx, principal, { source: 'file', externalKey: `${path}#${index}`, entry })
        await drop(tx, principal, surplus, 'file')
      })
    },

    keepFiles: async (principal, paths) => {
      authorize(principal, 'worklist.write')
      const known = await loadSourceKeys(db, 'file', '')
      const gone = known.filter(({ externalKey }) => !paths.has(placeOf(externalKey).path)).map(({ id }) => id)
      for (let at = 0; at < gone.length; at += pageRows)
        await db.inTransaction(tx => drop(tx, principal, gone.slice(at, at + pageRows), 'file'))
    },

    async *find(principal, { keys, filter, signal }) {
      authorize(principal, 'worklist.read')
      const detail = { model: 'worklist', keys: keys.join(' ') }
      const event = queried({ requestor: participantOf(principal), detail })
      await db.inTransaction(tx => appendAudit(tx, event))
      let after: WorklistPlace | undefined
      do {
        signal.throwIfAborted()
        const page: WorklistPage = await loadWorklistPage(db, filter, { limit: pageRows, after })
        if (page.items.length > 0) yield page.items
        after = page.next
      } while (after)
    },
  }

  async function applyOne(tx: Tx, principal: Principal, order: Order): Promise<void> {
    if (order.kind === 'schedule') {
      const { orderKey } = order
      for (const { externalKey, entry } of order.entries) {
        // An order that is sent again is wanted again; what was performed stays performed.
        const { changed } = await setOrderState(tx, { orderKey, externalKey }, 'scheduled', ['cancelled'])
        await auditStates(tx, principal, changed)
        await write(tx, principal, { source: 'hl7', externalKey, orderKey, entry })
      }
      return
    }
    const { known, changed } = await setOrderState(tx, order, order.state)
    if (known === 0) throw new GatewayError('NOT_FOUND', 'no worklist item belongs to this order')
    await auditStates(tx, principal, changed)
  }

  async function auditStates(tx: Tx, principal: Principal, changed: readonly WorklistSubject[]): Promise<void> {
    await appendAudits(
      tx,
      changed.map(subject => recordOf(principal, 'U', subject, 'hl7')),
    )
  }
}

/** Path and index of a file's item. */
function placeOf(externalKey: string): { path: string; index: number } {
  const at = externalKey.lastIndexOf('#')
  return { path: externalKey.slice(0, at), index: Number(externalKey.slice(at + 1)) }
}

/** The one who asks, as a participant of an event. */
export const participantOf = (principal: Principal): Participant => ({
  userId: principal.id,
  requestor: true,
  ...(principal.address !== undefined && { address: principal.address }),
})

/** The audit event of one item (PS3.15 §A.5.3.13): "may only include information about a single patient". */
export function recordOf(
  principal: Principal,
  action: 'C' | 'R' | 'U' | 'D',
  subject: WorklistSubject | undefined,
  source: string,
): AuditEvent {
  const objects: AuditObject[] = subject
    ? [
        { kind: 'patient', patientId: subject.patientId, issuer: subject.issuer },
        { kind: 'study', studyInstanceUid: subject.studyInstanceUid },
      ]
    : []
  return orderRecord({
    action,
    participants: [participantOf(principal)],
    objects,
    detail: { source, ...(subject && { item: subject.id }) },
  })
}
