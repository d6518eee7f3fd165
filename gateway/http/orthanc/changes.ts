/** `/changes`, the feed by which scripts follow what arrives, and `/exports`. */
import type { FastifyInstance } from 'fastify'
import { GatewayError } from '../../errors.ts'
import type { ChangeFeed } from '../../services/change-feed.ts'
import type { ExportedResource, ExportLog } from '../../services/export-log.ts'
import type { Change } from '../../store/changes.ts'
import { isAsked } from './lenient-scope.ts'
import { pathOfLevel } from './navigation.ts'
import { levelName, orthancTime } from './resources.ts'

const tags = ['Orthanc']
const defaultLimit = 100
const mostChanges = 10_000

const kinds: ReadonlySet<string> = new Set([
  ...['New', 'Stable', 'Modified', 'Anonymized'].flatMap(what =>
    ['Patient', 'Study', 'Series'].map(level => what + level),
  ),
  'NewInstance',
  'NewChildInstance',
  'CompletedSeries',
  'UpdatedMetadata',
  'UpdatedAttachment',
  'Deleted',
])

interface ChangesQuery {
  readonly since?: string
  readonly to?: string
  readonly limit?: string
  readonly type?: string
  readonly last?: string
}

const position = { type: 'string', maxLength: 20 } as const
const querystring = {
  type: 'object',
  properties: {
    since: { ...position, description: 'Changes after this position' },
    to: { ...position, description: 'Changes up to this position; without since the latest of them' },
    limit: { ...position, description: `Changes at most, default ${defaultLimit}` },
    type: { type: 'string', maxLength: 1024, description: 'Only these kinds, separated by semicolons' },
    last: { type: 'string', description: 'The newest change only' },
  },
} as const

const { since, limit, last } = querystring.properties
const exportsQuery = { type: 'object', properties: { since, limit, last } } as const

/** Registers the routes. */
export function changeRoutes(
  app: FastifyInstance,
  { changes, exportLog }: { readonly changes: ChangeFeed; readonly exportLog: ExportLog },
): void {
  app.get<{ Querystring: ChangesQuery }>(
    '/changes',
    {
      schema: {
        tags,
        summary: 'What has changed, by position',
        description: 'Changes of deleted resources are forgotten; the deletions themselves are told to type=Deleted.',
        querystring,
      },
    },
    async request => {
      const { query } = request
      if (isAsked(query.last)) {
        const { changes: found, last } = await changes.newest()
        return { Changes: found.map(changeJson), Done: true, Last: found.at(-1)?.seq ?? last }
      }
      const limit = Math.min(numberOf(query.limit) ?? defaultLimit, mostChanges)
      const [since, to, wanted] = [numberOf(query.since), numberOf(query.to), kindsOf(query.type)]
      const { changes: found, isLast, last } = await changes.list({ since, to, limit, kinds: wanted })
      return {
        Changes: found.map(changeJson),
        Done: isLast,
        // Where there is nothing more, a reader goes on from the last position that was given.
        Last: found.at(-1)?.seq ?? last,
        ...((to !== undefined || wanted) && { First: found[0]?.seq ?? last }),
      }
    },
  )
  app.delete(
    '/changes',
    { schema: { tags, summary: 'Forget all changes until now; audited' } },
    async (request, reply) => {
      await changes.clear(request.principal)
      return reply.type('text/plain').send('')
    },
  )
  const note =
    'Kept where orthanc.logExportedResources is set, as in Orthanc; the record of all that left is in /api/v1/transfers and the audit log'
  app.get<{ Querystring: Pick<ChangesQuery, 'since' | 'limit' | 'last'> }>(
    '/exports',
    { schema: { tags, summary: 'Exports', description: note, querystring: exportsQuery } },
    async request => {
      const { query } = request
      if (isAsked(query.last)) {
        const newest = await exportLog.newest()
        return { Done: true, Exports: newest ? [exportJson(newest)] : [], Last: newest?.seq ?? 0 }
      }
      const since = numberOf(query.since) ?? 0
      const limit = Math.min(numberOf(query.limit) ?? defaultLimit, mostChanges)
      const { entries, isLast } = await exportLog.list(since, limit)
      const last = entries.at(-1)?.seq ?? (await exportLog.newest())?.seq ?? 0
      return { Done: isLast, Exports: entries.map(exportJson), Last: last }
    },
  )
  app.delete(
    '/exports',
    { schema: { tags, summary: 'Forget exports; audited', description: note } },
    async (request, reply) => {
      await exportLog.clear(request.principal)
      return reply.type('text/plain').send('')
    },
  )
}

function exportJson({ seq, at, receiver, level, orthancId, ...ids }: ExportedResource) {
  return {
    Date: orthancTime(at),
    ID: orthancId,
    Path: `/${pathOfLevel[level]}/${orthancId}`,
    PatientID: ids.patientId,
    RemoteModality: receiver,
    ResourceType: levelName[level],
    ...(ids.sopInstanceUid !== null && { SOPInstanceUID: ids.sopInstanceUid }),
    Seq: seq,
    ...(ids.seriesInstanceUid !== null && { SeriesInstanceUID: ids.seriesInstanceUid }),
    ...(ids.studyInstanceUid !== null && { StudyInstanceUID: ids.studyInstanceUid }),
  }
}

/** As Orthanc has it, what is no number is not there. */
function numberOf(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined
}

/** @throws GatewayError BAD_REQUEST */
function kindsOf(text: string | undefined): string[] | undefined {
  const wanted = (text ?? '').split(';').filter(kind => kind !== '')
  if (wanted.length === 0) return undefined
  if (!wanted.every(kind => kinds.has(kind))) throw new GatewayError('BAD_REQUEST', 'unknown type of change')
  return wanted
}

function changeJson({ seq, kind, level, orthancId, at }: Change) {
  return {
    ChangeType: kind,
    Date: orthancTime(at),
    ID: orthancId,
    Path: `/${pathOfLevel[level]}/${orthancId}`,
    ResourceType: levelName[level],
    Seq: seq,
  }
}
