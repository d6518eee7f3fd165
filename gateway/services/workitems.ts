/** Workitems for somebody: created, claimed, changed, ended and searched; each is an audit event of its transaction. */
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { type AuditEvent, procedureRecord, queried } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import type { DicomJson } from '../dicom/json.ts'
import { jsonText } from '../dicom/json-read.ts'
import { type MatchKey, matches } from '../dicom/matching.ts'
import { formatTag } from '../dicom/tag.ts'
import { isUid, newUid } from '../dicom/uid.ts'
import {
  problemOfNew,
  procedureStepState,
  protectedTags,
  type Transition,
  transactionUid,
  transition,
  type WorkitemState,
} from '../dicom/workitem.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'

/** Keeps workitems. */
export interface Workitems {
  /**
   * A new one under the UID that is given, that it has, or one made for it.
   *
   * @returns its UID
   * @throws GatewayError BAD_REQUEST, STATE_CONFLICT when the UID is taken, FORBIDDEN
   */
  create(principal: Principal, document: DicomJson, uid?: string): Promise<string>
  /** @throws GatewayError NOT_FOUND, FORBIDDEN */
  get(principal: Principal, uid: string): Promise<DicomJson>
  /** @throws GatewayError NOT_FOUND, BAD_REQUEST, FORBIDDEN, STATE_CONFLICT when it has ended or another one has claimed it */
  update(principal: Principal, uid: string, changes: DicomJson, transaction?: string): Promise<void>
  /** @throws GatewayError NOT_FOUND, BAD_REQUEST, FORBIDDEN */
  changeState(principal: Principal, uid: string, to: WorkitemState, transaction: string): Promise<Transition>
  /** Cancels what is scheduled; whoever works on it cannot be told. @throws GatewayError NOT_FOUND, FORBIDDEN */
  requestCancellation(principal: Principal, uid: string): Promise<Transition>
  /** Those that match, oldest first, some at a time. @throws GatewayError FORBIDDEN */
  find(principal: Principal, keys: readonly MatchKey[]): AsyncGenerator<readonly DicomJson[], void, void>
}

interface Row {
  readonly id: number
  readonly uid: string
  readonly state: WorkitemState
  readonly transaction: string | null
  readonly document: DicomJson
}

const maxDocumentBytes = 1024 * 1024
const pageSize = 256
const unifiedProcedureStepPush = '1.2.840.10008.5.1.4.34.6.1'

export function openWorkitems({ db }: { readonly db: Db }): Workitems {
  const change = async <T>(
    principal: Principal,
    uid: string,
    work: (row: Row) => { readonly row?: Partial<Row>; readonly result: T },
  ): Promise<T> => {
    authorize(principal, 'worklist.write')
    return await db.inTransaction(async tx => {
      const found = await load(tx, uid, 'lock')
      const { row, result } = work(found)
      if (row) {
        const next = { ...found, ...row }
        checkSize(next.document)
        await sql`
          update workitems set state = ${next.state}, transaction_uid = ${next.transaction},
                 document = ${JSON.stringify(next.document)}::jsonb, updated_at = now()
           where id = ${next.id}
        `.execute(tx)
        await appendAudit(tx, eventOf(principal, 'U', next))
      }
      return result
    })
  }

  return {
    async create(principal, document, given) {
      authorize(principal, 'worklist.write')
      const problem = problemOfNew(document)
      if (problem !== undefined) throw new GatewayError('BAD_REQUEST', problem)
      const uid = given ?? (jsonText(document, 0x00080018) || newUid())
      if (!isUid(uid)) throw new GatewayError('BAD_REQUEST', 'expected a UID for the workitem')
      const { '00081195': _, ...rest } = document
      const whole: DicomJson = {
        ...rest,
        '00080016': { vr: 'UI', Value: [unifiedProcedureStepPush] },
        '00080018': { vr: 'UI', Value: [uid] },
      }
      checkSize(whole)
      await db.inTransaction(async tx => {
        const { numAffectedRows } = await sql`
          insert into workitems (uid, state, document, created_by)
          values (${uid}, 'SCHEDULED', ${JSON.stringify(whole)}::jsonb, ${principal.id})
          on conflict (uid) do nothing
        `.execute(tx)
        if (numAffectedRows !== 1n) throw new GatewayError('STATE_CONFLICT', 'the workitem exists')
        await appendAudit(tx, eventOf(principal, 'C', { uid, document: whole }))
      })
      return uid
    },

    async get(principal, uid) {
      authorize(principal, 'worklist.read')
      return await db.inTransaction(async tx => {
        const row = await load(tx, uid, 'read')
        await appendAudit(tx, eventOf(principal, 'R', row))
        return row.document
      })
    },

    async update(principal, uid, changes, transaction) {
      const names = Object.keys(changes)
      if (names.some(name => protectedTags.has(name))) {
        throw new GatewayError('BAD_REQUEST', 'expected neither UIDs nor state among the changes')
      }
      await change(principal, uid, row => {
        if (row.state === 'COMPLETED' || row.state === 'CANCELED') {
          throw new GatewayError('STATE_CONFLICT', 'the workitem has ended')
        }
        if (row.state === 'IN PROGRESS' && transaction !== row.transaction) {
          throw new GatewayError('STATE_CONFLICT', 'the transaction UID is not the one of the workitem')
        }
        return { row: { document: { ...row.document, ...changes } }, result: undefined }
      })
    },

    async changeState(principal, uid, to, transaction) {
      if (!isUid(transaction)) throw new GatewayError('BAD_REQUEST', 'expected a Transaction UID')
      return await change(principal, uid, (row): { row?: Partial<Row>; result: Transition } => {
        const result = transition(row.state, to, transaction === row.transaction)
        return result.kind === 'changed' ? { row: inState(row, to, transaction), result } : { result }
      })
    },

    async requestCancellation(principal, uid) {
      return await change(principal, uid, (row): { row?: Partial<Row>; result: Transition } => {
        if (row.state === 'SCHEDULED') return { row: inState(row, 'CANCELED', null), result: { kind: 'changed' } }
        if (row.state === 'CANCELED') return { result: { kind: 'unchanged' } }
        const reason = row.state === 'COMPLETED' ? 'the workitem has ended' : 'the performer cannot be contacted'
        return { result: { kind: 'refused', reason } }
      })
    },

    async *find(principal, keys) {
      authorize(principal, 'worklist.read')
      const { id, address } = principal
      const event = queried({
        requestor: { userId: id, ...(address !== undefined && { address }) },
        detail: { level: 'workitem', keys: keys.map(key => formatTag(key.tag)).join(' ') },
      })
      await db.inTransaction(tx => appendAudit(tx, event))
      for (let after = 0; ; ) {
        const { rows } = await sql<Row>`
          select id, document from workitems where id > ${after} order by id limit ${pageSize}
        `.execute(db.kysely)
        const found = rows.flatMap(({ document }) => (matches(keys, document) ? [document] : []))
        if (found.length > 0) yield found
        if (rows.length < pageSize) return
        after = rows.at(-1)?.id ?? after
      }
    },
  }
}

function inState({ document }: Row, state: WorkitemState, transaction: string | null): Partial<Row> {
  const element = { vr: 'CS', Value: [state] } as const
  return { state, transaction, document: { ...document, [formatTag(procedureStepState)]: element } }
}

async function load(tx: Tx, uid: string, how: 'read' | 'lock'): Promise<Row> {
  const { rows } = await sql<Row>`
    select id, uid, state, transaction_uid as transaction, document from workitems where uid = ${uid}
    ${how === 'lock' ? sql`for update` : sql``}
  `.execute(tx)
  const row = rows[0]
  if (!row) throw new GatewayError('NOT_FOUND', 'no such workitem')
  return row
}

function checkSize(document: DicomJson): void {
  if (Buffer.byteLength(JSON.stringify(document)) > maxDocumentBytes) {
    throw new GatewayError('TOO_LARGE', `expected a workitem of at most ${maxDocumentBytes} bytes`)
  }
}

function eventOf({ id, address }: Principal, action: 'C' | 'R' | 'U', row: Pick<Row, 'uid' | 'document'>): AuditEvent {
  const patientId = jsonText(row.document, 0x00100020)
  return procedureRecord({
    action,
    participants: [{ userId: id, requestor: true, ...(address !== undefined && { address }) }],
    objects: patientId === '' ? [] : [{ kind: 'patient', patientId }],
    detail: { workitem: row.uid },
  })
}

/** The transaction UID in a change of state. */
export function transactionOf(document: DicomJson): string {
  return jsonText(document, transactionUid)
}
