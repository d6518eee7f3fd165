/** `/tools`: clocks, UIDs, settings that clients ask for, look-ups; and `/plugins`, of which there are none. */
import { randomUUID } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { Db } from '../../db/db.ts'
import { GatewayError } from '../../errors.ts'
import type { LogThreshold } from '../../log.ts'
import type { ChangeableTerms } from '../../services/reception-terms.ts'
import { lookupIdentifier } from '../../store/hierarchy.ts'
import { loadCounts } from '../../store/query.ts'
import { booleanBody, jsonBody, lenientScope, textBody } from './lenient-scope.ts'
import { logLevelRoutes, logLevelTools } from './log-level.ts'
import { pathOfLevel } from './navigation.ts'
import { levelName } from './resources.ts'
import { scriptRoute } from './scripts.ts'

/** What the routes need. */
export interface ToolServices {
  readonly db: Db
  /** What is logged; where it cannot be changed, asking for it has no effect. */
  readonly logThreshold?: LogThreshold | undefined
  readonly receptionTerms: ChangeableTerms
}

/** Names of the tools below this path, other files' among them. */
const toolNames: readonly string[] = [
  'accepted-transfer-syntaxes',
  'bulk-anonymize',
  'bulk-content',
  'bulk-delete',
  'bulk-modify',
  'create-archive',
  'create-dicom',
  'create-media',
  'create-media-extended',
  'default-encoding',
  'dicom-conformance',
  'dicom-echo',
  'execute-script',
  'find',
  'generate-uid',
  'invalidate-tags',
  ...logLevelTools,
  'lookup',
  'metrics',
  'metrics-prometheus',
  'now',
  'now-local',
  'reconstruct',
  'reset',
  'shutdown',
  'unknown-sop-class-accepted',
]

const tags = ['Orthanc']
const text = (reply: FastifyReply, body: string): FastifyReply => reply.type('text/plain').send(body)
const stamp = (iso: string): string => iso.slice(0, 19).replace(/[-:]/g, '')

/** Registers the routes. */
export function toolRoutes(app: FastifyInstance, { db, logThreshold, receptionTerms }: ToolServices): void {
  app.get('/tools', { schema: { tags, summary: 'List tools' } }, async () => toolNames)
  app.get('/tools/now', { schema: { tags, summary: 'UTC time' } }, async (_request, reply) =>
    text(reply, stamp(new Date().toISOString())),
  )
  app.get('/tools/now-local', { schema: { tags, summary: 'Local time' } }, async (_request, reply) =>
    text(reply, stamp(localIso(new Date()))),
  )
  app.get<{ Querystring: { level?: string } }>(
    '/tools/generate-uid',
    {
      schema: {
        tags,
        summary: 'A new identifier',
        querystring: {
          type: 'object',
          properties: { level: { type: 'string', description: 'patient, study, series or instance' } },
        },
      },
    },
    async (request, reply) => {
      const { level } = request.query
      if (level === 'patient') return text(reply, randomUUID())
      if (level !== 'study' && level !== 'series' && level !== 'instance') {
        throw new GatewayError('NOT_FOUND', 'expected level=patient, study, series or instance')
      }
      // A UID by UUID, PS3.5 §B.2.
      return text(reply, `2.25.${BigInt(`0x${randomUUID().replaceAll('-', '')}`)}`)
    },
  )
  app.get(
    '/tools/dicom-conformance',
    { schema: { tags, summary: 'The DICOM conformance statement' } },
    async (_request, reply) =>
      text(reply, await readFile(join(import.meta.dirname, '../../dimse/CONFORMANCE.md'), 'utf8')),
  )
  app.get(
    '/tools/metrics-prometheus',
    { schema: { tags, summary: 'Totals for Prometheus' } },
    async (_request, reply) => {
      const { patients, studies, series, instances, sizeBytes } = await loadCounts(db)
      const megabytes = sizeBytes / 1024 ** 2
      const now = Date.now()
      const lines = { instances, patients, series, studies }
      const counts = Object.entries(lines).map(([name, value]) => `orthanc_count_${name} ${value} ${now}\n`)
      const sizes = ['disk', 'uncompressed'].map(name => `orthanc_${name}_size_mb ${megabytes} ${now}\n`)
      return reply.type('text/plain; version=0.0.4').send([...counts, ...sizes].join(''))
    },
  )
  app.get('/plugins', { schema: { tags, summary: 'List plugins: there are none' } }, async () => [])
  app.get(
    '/plugins/explorer.js',
    { schema: { tags, summary: 'Extensions of the explorer: none' } },
    async (_request, reply) =>
      reply.type('application/javascript').send('// Extensions to Orthanc Explorer by the registered plugins\n\n'),
  )

  lenientScope(app, scope => {
    settingRoutes(scope, receptionTerms)
    scriptRoute(scope)
    logLevelRoutes(scope, logThreshold)
    scope.post('/tools/lookup', { schema: { tags, summary: 'What a DICOM identifier names' } }, async request => {
      const identifier = textBody(request.body).trim()
      const found = identifier === '' || identifier.length > 256 ? [] : await lookupIdentifier(db, identifier)
      return found.map(({ level, orthancId }) => ({
        ID: orthancId,
        Path: `/${pathOfLevel[level]}/${orthancId}`,
        Type: levelName[level],
      }))
    })
    // There are no summaries that could become invalid: tags are read from the files.
    scope.post(
      '/tools/invalidate-tags',
      { schema: { tags, summary: 'Has no effect: nothing is cached' } },
      async (_request, reply) => text(reply, ''),
    )
    for (const [name, why] of [
      ['reset', 'this server is restarted by its administrator on the machine'],
      ['shutdown', 'this server is stopped by its administrator on the machine'],
    ] as const) {
      scope.post(`/tools/${name}`, { schema: { tags, summary: `Always refused: ${why}` } }, async () => {
        throw new GatewayError('FORBIDDEN', why)
      })
    }
  })
}

/** Transfer syntaxes of the level of Orthanc that is offered: clients that know no others are shown no others. */
const listedSyntax =
  /^1\.2\.840\.10008\.1\.2(?:\.1|\.1\.99|\.2|\.5|\.6\.[12]|\.4\.(?:5\d|6[0-6]|70|8[01]|9[0-5]|10[0-8]))?$/

/** Settings that Orthanc lets clients change. What C-STORE takes changes until the next start; the configuration decides on the rest. */
function settingRoutes(scope: FastifyInstance, terms: ChangeableTerms): void {
  const fixed = (): GatewayError => new GatewayError('FORBIDDEN', 'this setting is made in the configuration')
  const schema = (summary: string) => ({ schema: { tags, summary } })
  const listed = (): readonly string[] => terms.syntaxes().filter(uid => listedSyntax.test(uid))

  scope.get(
    '/tools/default-encoding',
    schema('What text without a character set is read as'),
    async (_request, reply) => text(reply, terms.encoding),
  )
  scope.put(
    '/tools/default-encoding',
    schema('Read text without a character set as this, until the next start'),
    async (request, reply) => {
      const asked = textBody(request.body).trim()
      await terms.readAs(request.principal, asked)
      return text(reply, asked)
    },
  )
  scope.get('/tools/accepted-transfer-syntaxes', schema('Transfer syntaxes taken by C-STORE'), async () => listed())
  scope.put(
    '/tools/accepted-transfer-syntaxes',
    schema('Take these only, until the next start: a UID, or a list of UIDs, also with * at the end'),
    async request => {
      const body = textBody(request.body).trim() === '*' ? '*' : jsonBody(request.body)
      const asked: readonly unknown[] = Array.isArray(body) ? body : [body]
      const patterns = asked.map(pattern => {
        if (typeof pattern !== 'string') throw new GatewayError('BAD_REQUEST', 'expected transfer syntaxes')
        return pattern
      })
      await terms.takeOnly(request.principal, patterns)
      return listed()
    },
  )
  scope.get('/tools/unknown-sop-class-accepted', schema('0 or 1'), async (_request, reply) =>
    text(reply, terms.takesUnknownClasses ? '1' : '0'),
  )
  scope.put(
    '/tools/unknown-sop-class-accepted',
    schema('Store objects of unknown SOP classes, or not, until the next start'),
    async (request, reply) => {
      await terms.takeUnknownClasses(request.principal, booleanBody(request.body))
      return text(reply, '')
    },
  )
  scope.get('/tools/metrics', schema('0 or 1'), async (_request, reply) => text(reply, '1'))
  scope.put('/tools/metrics', schema('Refused, unless it is so anyway'), async (request, reply) => {
    if (!booleanBody(request.body)) throw fixed()
    return text(reply, '')
  })
}

/** Local time in the form of `toISOString`, without its zone. */
function localIso(at: Date): string {
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString()
}
