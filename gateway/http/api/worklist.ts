/** The modality worklist: what is scheduled, and the procedure steps that modalities report. */
import type { FastifyInstance } from 'fastify'
import { isObject } from '../../decode.ts'
import { GatewayError } from '../../errors.ts'
import type { Mpps } from '../../services/mpps.ts'
import type { Worklist } from '../../services/worklist.ts'
import type { FolderProblem } from '../../services/worklist-folder.ts'
import type { ProcedureStep, ProcedureStepState } from '../../store/procedure-steps.ts'
import type { WorklistItem, WorklistPlace, WorklistSource, WorklistState } from '../../store/worklist.ts'
import {
  answers,
  array,
  date,
  input,
  integer,
  limit,
  nullableString,
  object,
  open,
  rowId,
  string,
  uuid,
  uuidParams,
} from './schema.ts'

export interface WorklistServices {
  readonly worklist: Worklist
  readonly mpps: Mpps
  /** Undefined where no folder is configured. */
  readonly worklistFolder: { readonly folder: string; problems(): readonly FolderProblem[] } | undefined
}

const tags = ['Worklist']
const states = { enum: ['scheduled', 'started', 'completed', 'discontinued', 'cancelled'] } as const
const stepStates = { enum: ['in-progress', 'completed', 'discontinued'] } as const
const document = { ...open, description: 'DICOM JSON (PS3.18 Annex F) with one scheduled procedure step' }
const item = object({
  id: uuid,
  source: { enum: ['file', 'rest', 'hl7'] },
  key: { ...nullableString, description: 'How its source names it' },
  state: states,
  document,
  createdAt: date,
  updatedAt: date,
})
const step = object({
  id: integer,
  sopInstanceUid: string,
  state: stepStates,
  callingAe: string,
  document: { ...open, description: 'DICOM JSON of the whole step' },
  createdAt: date,
  updatedAt: date,
})
const day = { type: 'string', pattern: '^\\d{8}$' } as const
const narrowing = {
  state: states,
  source: { enum: ['file', 'rest', 'hl7'] },
  modality: { ...string, maxLength: 16 },
  stationAe: { ...string, maxLength: 16 },
  from: { ...day, description: 'First start date, YYYYMMDD' },
  to: { ...day, description: 'Last start date, YYYYMMDD' },
  after: { ...string, maxLength: 200, description: 'Where the page before ended: its `next`' },
  limit,
} as const
const page = object({ items: array(item), next: nullableString })
const uidParams = input({ uid: { ...string, pattern: '^[0-9.]{1,64}$' } }, ['uid'])

interface Narrowing {
  readonly state?: WorklistState
  readonly source?: WorklistSource
  readonly modality?: string
  readonly stationAe?: string
  readonly from?: string
  readonly to?: string
  readonly after?: string
  readonly limit: number
}

/** Registers the routes. */
export function worklistRoutes(app: FastifyInstance, services: WorklistServices): void {
  const { worklist, mpps, worklistFolder } = services

  const list = async (
    principal: Parameters<Worklist['list']>[0],
    asked: Narrowing & { readonly patientId?: string; readonly accessionNumber?: string },
  ) => {
    const { state, source, modality, stationAe, from, to, after, limit, patientId, accessionNumber } = asked
    const filter = {
      ...(state && { states: [state] }),
      source,
      modality,
      stationAe,
      patientId,
      accessionNumber,
      startFrom: from,
      startTo: to,
    }
    const found = await worklist.list(principal, filter, {
      limit,
      after: after === undefined ? undefined : placeOf(after),
    })
    return { items: found.items.map(itemJson), next: found.next ? cursorOf(found.next) : null }
  }

  app.get<{ Querystring: Narrowing }>(
    '/worklist',
    {
      schema: {
        tags,
        summary: 'List worklist items, the earliest first; audited',
        querystring: input(narrowing),
        response: answers('A page of items', page),
      },
    },
    async request => await list(request.principal, request.query),
  )

  app.post<{ Body: Narrowing & { patientId?: string; accessionNumber?: string } }>(
    '/worklist/search',
    {
      schema: {
        tags,
        summary: 'List worklist items, also by patient, whose identifiers do not belong into a URL; audited',
        body: input({
          ...narrowing,
          patientId: { ...string, maxLength: 64 },
          accessionNumber: { ...string, maxLength: 16 },
        }),
        response: answers('A page of items', page),
      },
    },
    async request => await list(request.principal, request.body),
  )

  app.get(
    '/worklist/files',
    {
      schema: {
        tags,
        summary: 'The worklist folder and its files that could not be taken',
        response: answers(
          'The folder',
          object({ folder: nullableString, problems: array(object({ path: string, reason: string })) }),
        ),
      },
    },
    async () => ({ folder: worklistFolder?.folder ?? null, problems: worklistFolder?.problems() ?? [] }),
  )

  app.post<{ Body: unknown }>(
    '/worklist',
    {
      schema: {
        tags,
        summary: 'Schedule a procedure step',
        body: document,
        response: answers('The item', item),
      },
    },
    async request => itemJson(await worklist.put(request.principal, request.body)),
  )

  app.get<{ Params: { id: string } }>(
    '/worklist/:id',
    {
      schema: { tags, summary: 'One worklist item; audited', params: uuidParams, response: answers('The item', item) },
    },
    async request => itemJson(await worklist.get(request.principal, request.params.id)),
  )

  app.put<{ Params: { id: string }; Body: unknown }>(
    '/worklist/:id',
    {
      schema: {
        tags,
        summary: 'Schedule a procedure step under an id of yours, or replace it; its state stays',
        params: uuidParams,
        body: document,
        response: answers('The item', item),
      },
    },
    async request => itemJson(await worklist.put(request.principal, request.body, request.params.id)),
  )

  app.delete<{ Params: { id: string } }>(
    '/worklist/:id',
    {
      schema: {
        tags,
        summary: 'Remove a worklist item',
        params: uuidParams,
        response: answers('What was removed', object({ id: uuid })),
      },
    },
    async request => {
      await worklist.remove(request.principal, request.params.id)
      return { id: request.params.id }
    },
  )

  app.get<{ Querystring: { state?: ProcedureStepState; studyInstanceUid?: string; before?: number; limit: number } }>(
    '/procedure-steps',
    {
      schema: {
        tags,
        summary: 'List performed procedure steps, the newest first; audited',
        querystring: input({
          state: stepStates,
          studyInstanceUid: { ...string, maxLength: 64 },
          before: { ...rowId, description: 'Only those with a smaller id: the last one of the page before' },
          limit,
        }),
        response: answers('A page of steps', object({ procedureSteps: array(step) })),
      },
    },
    async request => ({ procedureSteps: (await mpps.list(request.principal, request.query)).map(stepJson) }),
  )

  app.get<{ Params: { uid: string } }>(
    '/procedure-steps/:uid',
    {
      schema: {
        tags,
        summary: 'One performed procedure step by its SOP Instance UID; audited',
        params: uidParams,
        response: answers('The step', step),
      },
    },
    async request => stepJson(await mpps.get(request.principal, request.params.uid)),
  )
}

function itemJson({ id, source, externalKey, state, document, createdAt, updatedAt }: WorklistItem) {
  return { id, source, key: externalKey ?? null, state, document, createdAt, updatedAt }
}

function stepJson({ id, sopInstanceUid, state, callingAe, document, createdAt, updatedAt }: ProcedureStep) {
  return { id, sopInstanceUid, state, callingAe, document, createdAt, updatedAt }
}

/** A place in the list as an opaque text. */
function cursorOf({ startDate, startTime, id }: WorklistPlace): string {
  return Buffer.from(JSON.stringify({ startDate, startTime, id })).toString('base64url')
}

/** @throws GatewayError BAD_REQUEST */
function placeOf(cursor: string): WorklistPlace {
  try {
    const parsed: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'))
    const { startDate, startTime, id } = isObject(parsed) ? parsed : {}
    if (
      typeof startDate === 'string' &&
      typeof startTime === 'string' &&
      typeof id === 'string' &&
      /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(id) &&
      !`${startDate}${startTime}`.includes('\0')
    )
      return { startDate, startTime, id }
  } catch {
    // The same answer as for JSON of another shape.
  }
  throw new GatewayError('BAD_REQUEST', 'after: expected the `next` of a page')
}
