/** Orthanc's `/modalities/{id}/query`, `/modalities/{id}/find*` and `/queries`: what other nodes hold. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { isObject } from '../../decode.ts'
import { type DicomJson, fromJson } from '../../dicom/json.ts'
import { jsonText } from '../../dicom/json-read.ts'
import type { NewElement } from '../../dicom/part10-writer.ts'
import { GatewayError } from '../../errors.ts'
import type { BackgroundJobs } from '../../services/background-jobs.ts'
import type { Modalities } from '../../services/modalities.ts'
import type { Remote } from '../../services/remote.ts'
import type { RemoteQueries, StoredQuery } from '../../services/remote-queries.ts'
import { goneSignal } from '../gone.ts'
import { answerJob, type JobAnswers } from './answer-job.ts'
import { acceptAnyBody, objectBody } from './lenient-body.ts'
import {
  type AnswerForm,
  formOf,
  levelLabels,
  levelOrder,
  normalizeKeys,
  type QueryLevel,
  readCall,
  readKeys,
  readLevel,
  uniqueKeys,
  writeAnswer,
} from './query-form.ts'

/** What the routes need. */
export interface RemoteQueryServices {
  readonly modalities: Pick<Modalities, 'list'>
  readonly remote: Pick<Remote, 'ask' | 'move'>
  readonly queries: RemoteQueries
  readonly answers: JobAnswers
  readonly jobs: Pick<BackgroundJobs, 'submit'>
  /** Our AE title. */
  readonly aeTitle: string
}

const tags = ['Orthanc']
const id = { type: 'string', minLength: 1, maxLength: 64 } as const
const params = { type: 'object', properties: { id }, required: ['id'] } as const
const answerParams = {
  type: 'object',
  properties: { id, index: { type: 'string', maxLength: 16 } },
  required: ['id', 'index'],
} as const
const flag = { type: 'string' } as const
const formQuery = {
  type: 'object',
  properties: {
    simplify: { ...flag, description: 'Attributes by name' },
    short: { ...flag, description: 'Attributes by tag, without their names' },
    expand: { ...flag, description: 'Give answers instead of their numbers' },
  },
} as const

interface Named {
  readonly Params: { id: string }
}
interface Answered {
  readonly Params: { id: string; index: string }
}
interface Formed {
  readonly Querystring: { simplify?: string; short?: string; expand?: string }
}

/** Registers the routes. */
export async function remoteQueryRoutes(app: FastifyInstance, services: RemoteQueryServices): Promise<void> {
  const { modalities, remote, queries } = services
  const named = (name: string): string => {
    if (!modalities.list().some(entry => entry.name === name))
      throw new GatewayError('NOT_FOUND', 'no modality has this name')
    return name
  }
  const answerOf = async ({ id, index }: Answered['Params']) => {
    const query = await queries.load(id)
    if (!/^\d{1,9}$/.test(index)) throw new GatewayError('BAD_REQUEST', 'expected the number of an answer')
    return { query, answer: await queries.answer(query, Number(index)) }
  }
  const asked = (id: string) => ({ ID: id, Path: `/queries/${id}` })

  await app.register(async scope => {
    acceptAnyBody(scope)

    scope.post<Named>(
      '/modalities/:id/query',
      { schema: { tags, summary: 'Query a modality (C-FIND) and keep its answers', params } },
      async (request, reply) => {
        const body = objectBody(request.body)
        const level = readLevel(body['Level'])
        const keys = readKeys(body['Query'] ?? {})
        const wish = {
          modality: named(request.params.id),
          level,
          query: body['Normalize'] === false ? keys : normalizeKeys(keys, level),
          call: readCall(body),
        }
        return asked(await queries.ask(request.principal, wish, goneSignal(reply)))
      },
    )

    scope.post<Named>(
      '/modalities/:id/find-worklist',
      { schema: { tags, summary: 'Query a modality for scheduled procedure steps', params } },
      async (request, reply) => {
        const body = objectBody(request.body)
        const isWrapped = body['Query'] !== undefined
        const keys = fromJson(readKeys(isWrapped ? body['Query'] : body, 'sequences'))
        const form = formOf(body['Full'] !== true && body['Short'] !== true, body['Short'] === true)
        const call = readCall(isWrapped ? body : {})
        return await collect(
          remote.ask(request.principal, named(request.params.id), { level: 'worklist', keys, call }, goneSignal(reply)),
          form,
        )
      },
    )

    for (const level of levelOrder) {
      scope.post<Named>(
        `/modalities/:id/find-${level}`,
        { schema: { tags, summary: `Query a modality for ${level} level (deprecated)`, params } },
        async (request, reply) => {
          const given = readKeys(request.body ?? {})
          assertNarrow(level, given)
          const keys = withTemplate(level, given)
          return await collect(
            remote.ask(request.principal, named(request.params.id), { level, keys }, goneSignal(reply)),
            'simplify',
          )
        },
      )
    }

    scope.post<Named>(
      '/modalities/:id/find',
      { schema: { tags, summary: 'Query a modality for patients, their studies and series (deprecated)', params } },
      async (request, reply) => {
        const name = named(request.params.id)
        const signal = goneSignal(reply)
        const given = readKeys(request.body ?? {})
        const ask = (level: QueryLevel, keys: DicomJson) =>
          gather(remote.ask(request.principal, name, { level, keys: withTemplate(level, keys) }, signal))
        const patients = []
        for (const patient of await ask('patient', normalizeKeys(given, 'patient'))) {
          const studies = []
          for (const study of await ask('study', childKeys(given, 'study', patient))) {
            const series = await ask('series', childKeys(given, 'series', study))
            studies.push({
              ...writeAnswer(study, 'simplify'),
              Series: series.map(each => writeAnswer(each, 'simplify')),
            })
          }
          patients.push({ ...writeAnswer(patient, 'simplify'), Studies: studies })
        }
        return patients
      },
    )

    scope.get('/queries', { schema: { tags, summary: 'List queries whose answers are kept' } }, () => queries.list())

    scope.get<Named>(
      '/queries/:id',
      { schema: { tags, summary: 'What can be done with a query', params } },
      async request => {
        await queries.load(request.params.id)
        return ['answers', 'level', 'modality', 'query', 'retrieve']
      },
    )

    scope.delete<Named>(
      '/queries/:id',
      { schema: { tags, summary: 'Forget a query', params } },
      async (request, reply) => {
        await queries.remove(request.params.id)
        return reply.type('text/plain').send('')
      },
    )

    const facts: Readonly<Record<string, (query: StoredQuery) => string>> = {
      level: query => levelLabels[query.level],
      modality: query => query.modality,
    }
    for (const [name, fact] of Object.entries(facts)) {
      scope.get<Named>(
        `/queries/:id/${name}`,
        { schema: { tags, summary: `The ${name} of a query`, params } },
        async (request, reply) => reply.type('text/plain').send(fact(await queries.load(request.params.id))),
      )
    }

    scope.get<Named & Formed>(
      '/queries/:id/query',
      { schema: { tags, summary: 'The keys of a query', params, querystring: formQuery } },
      async request => writeAnswer((await queries.load(request.params.id)).query, formOfQuery(request)),
    )

    scope.get<Named & Formed>(
      '/queries/:id/answers',
      { schema: { tags, summary: 'The answers to a query', params, querystring: formQuery } },
      async request => {
        const query = await queries.load(request.params.id)
        if (!isSet(request.query.expand)) return Array.from({ length: query.answerCount }, (_, place) => String(place))
        const form = formOfQuery(request)
        return (await queries.answers(query.id)).map(answer => writeAnswer(answer, form))
      },
    )

    scope.get<Answered>(
      '/queries/:id/answers/:index',
      { schema: { tags, summary: 'What can be done with an answer', params: answerParams } },
      async request => {
        const { query } = await answerOf(request.params)
        return ['content', 'retrieve', ...levelsBelow(query.level).map(level => childQueryPath(level))]
      },
    )

    scope.get<Answered & Formed>(
      '/queries/:id/answers/:index/content',
      { schema: { tags, summary: 'One answer', params: answerParams, querystring: formQuery } },
      async request => writeAnswer((await answerOf(request.params)).answer, formOfQuery(request)),
    )

    for (const level of levelsBelow('patient')) {
      scope.post<Answered>(
        `/queries/:id/answers/:index/${childQueryPath(level)}`,
        { schema: { tags, summary: `Query what is below an answer, at ${level} level`, params: answerParams } },
        async (request, reply) => {
          const { query, answer } = await answerOf(request.params)
          if (!levelsBelow(query.level).includes(level)) throw new GatewayError('NOT_FOUND', 'not below this answer')
          const body = objectBody(request.body)
          const keys = { ...readKeys(body['Query'] ?? {}), ...uniqueOf(answer, query.level) }
          const wish = {
            modality: named(query.modality),
            level,
            query: normalizeKeys(keys, level),
            call: readCall(body),
          }
          return asked(await queries.ask(request.principal, wish, goneSignal(reply)))
        },
      )
    }

    const retrieve = async (request: FastifyRequest, reply: FastifyReply, query: StoredQuery, answers: DicomJson[]) =>
      await moveAnswers(services, { request, reply, query, answers })

    scope.post<Named>(
      '/queries/:id/retrieve',
      { schema: { tags, summary: 'Retrieve all answers (C-MOVE)', params } },
      async (request, reply) => {
        const query = await queries.load(request.params.id)
        return await retrieve(request, reply, query, await queries.answers(query.id))
      },
    )
    scope.post<Answered>(
      '/queries/:id/answers/:index/retrieve',
      { schema: { tags, summary: 'Retrieve one answer (C-MOVE)', params: answerParams } },
      async (request, reply) => {
        const { query, answer } = await answerOf(request.params)
        return await retrieve(request, reply, query, [answer])
      },
    )
  })
}

/** A body of `retrieve` is JSON, or just the title of the receiver. */
async function moveAnswers(
  { remote, modalities, aeTitle, jobs, answers: jobAnswers }: RemoteQueryServices,
  given: {
    readonly request: FastifyRequest
    readonly reply: FastifyReply
    readonly query: StoredQuery
    readonly answers: readonly DicomJson[]
  },
): Promise<FastifyReply> {
  const { request, reply, query, answers } = given
  const raw = typeof request.body === 'string' ? { TargetAet: request.body.trim() } : objectBody(request.body)
  const target = raw['TargetAet']
  if (target !== undefined && typeof target !== 'string')
    throw new GatewayError('BAD_REQUEST', 'TargetAet: expected text')
  const call = readCall(raw)
  const modality = modalities.list().find(entry => entry.name === query.modality)
  if (!modality) throw new GatewayError('NOT_FOUND', 'the modality is not registered any more')
  const form = formOf(raw['Simplify'] === true, raw['Full'] !== true)
  const resources = answers.map(answer => moveKeys(answer, query.level))
  const content = {
    Description: 'REST API',
    LocalAet: call.callingAe ?? aeTitle,
    Query: answers.map(answer => writeAnswer(identification(answer, query.level), form)),
    RemoteAet: modality.aeTitle.trim(),
  }
  const move = { level: query.level, resources, destination: target || undefined, call }
  return await answerJob(request, reply, jobAnswers, ({ priority }) =>
    jobs.submit(
      request.principal,
      { type: 'DicomMoveScu', description: 'REST API', priority, content },
      async (progress, signal) => {
        await remote.move(request.principal, query.modality, move, progress, signal)
        return { content }
      },
    ),
  )
}

const isSet = (value: string | undefined): boolean => value !== undefined && value !== 'false' && value !== '0'

const formOfQuery = ({ query }: { readonly query: Formed['Querystring'] }): AnswerForm =>
  formOf(isSet(query.simplify), isSet(query.short))

const levelsBelow = (level: QueryLevel): readonly QueryLevel[] => levelOrder.slice(levelOrder.indexOf(level) + 1)
const childQueryPath = (level: QueryLevel): string =>
  `query-${{ patient: 'patients', study: 'studies', series: 'series', instance: 'instances' }[level]}`

/** The most answers that are written at once; more are kept queries' business. */
const mostCollected = 10_000

async function gather(matches: AsyncIterable<DicomJson>): Promise<DicomJson[]> {
  const all: DicomJson[] = []
  for await (const match of matches) {
    if (all.length === mostCollected) throw new GatewayError('TOO_LARGE', `more than ${mostCollected} matches`)
    all.push(match)
  }
  return all
}

async function collect(matches: AsyncIterable<DicomJson>, form: AnswerForm): Promise<Record<string, unknown>[]> {
  return (await gather(matches)).map(match => writeAnswer(match, form))
}

/** As Orthanc does: below the patient the deprecated queries must name what they are about by more than two characters. */
function assertNarrow(level: QueryLevel, keys: DicomJson): void {
  const isGiven = (tag: number): boolean => jsonText(keys, tag).length > 2
  const isNarrow = {
    patient: true,
    study: isGiven(0x00080050) || isGiven(0x00100020),
    series: (isGiven(0x00080050) || isGiven(0x00100020)) && isGiven(0x0020000d),
    instance: (isGiven(0x00080050) || isGiven(0x00100020)) && isGiven(0x0020000d) && isGiven(0x0020000e),
  }[level]
  if (!isNarrow) throw new GatewayError('BAD_REQUEST', 'the query is not narrow enough')
}

const above: readonly string[] = ['AccessionNumber', 'PatientID', 'StudyInstanceUID']
const series: readonly string[] = [
  ...['Modality', 'SeriesDate', 'SeriesTime', 'SeriesDescription', 'SeriesNumber', 'BodyPartExamined', 'ProtocolName'],
  ...['OperatorsName', 'PerformedProcedureStepDescription', 'SeriesInstanceUID'],
]
/** What the deprecated queries ask for at each level. */
const templates: Readonly<Record<QueryLevel, readonly string[]>> = {
  patient: ['PatientID', 'PatientName', 'PatientBirthDate', 'PatientSex', 'OtherPatientIDs'],
  study: [...above, 'StudyDate', 'StudyTime', 'StudyID', 'StudyDescription', 'ReferringPhysicianName'],
  series: [...above, ...series],
  instance: [
    ...[...above, 'SeriesInstanceUID', 'SOPInstanceUID', 'InstanceCreationDate', 'InstanceCreationTime'],
    ...['AcquisitionNumber', 'ImageIndex', 'InstanceNumber', 'NumberOfFrames', 'TemporalPositionIdentifier'],
  ],
}

function withTemplate(level: QueryLevel, given: DicomJson): NewElement[] {
  const template = readKeys(Object.fromEntries(templates[level].map(name => [name, ''])))
  const keys = { ...template, ...given }
  const isAscii = /^[\x20-\x7e]*$/.test(JSON.stringify(keys))
  return fromJson(isAscii ? keys : { ...keys, '00080005': { vr: 'CS', Value: ['ISO_IR 192'] } })
}

/** The unique keys of an answer down to its level. */
function uniqueOf(answer: DicomJson, level: QueryLevel): DicomJson {
  const wanted = levelOrder.slice(level === 'patient' ? 0 : 1, levelOrder.indexOf(level) + 1)
  return Object.fromEntries(
    wanted.flatMap(each => {
      const element = answer[uniqueKeys[each]]
      return element ? [[uniqueKeys[each], element] as const] : []
    }),
  )
}

const childKeys = (given: DicomJson, level: QueryLevel, parent: DicomJson): DicomJson => ({
  ...normalizeKeys(given, level),
  ...uniqueOf(parent, level === 'study' ? 'patient' : 'study'),
})

/** The identifier of a move, PS3.4 §C.4.2.1.4.1: unique keys only. */
function moveKeys(answer: DicomJson, level: QueryLevel): NewElement[] {
  const keys = uniqueOf(answer, level)
  const last = keys[uniqueKeys[level]]
  if (!isObject(last) || last.Value === undefined)
    throw new GatewayError('PEER_PROTOCOL', 'an answer has no unique key')
  return Object.entries(keys).map(([key, element]) => ({
    tag: Number.parseInt(key, 16),
    value: (element.Value ?? []).map(String),
  }))
}

/** What Orthanc says of an answer that it retrieves. */
function identification(answer: DicomJson, level: QueryLevel): DicomJson {
  const wanted = [
    '00080050',
    '00080052',
    '00100020',
    ...levelOrder.slice(1, levelOrder.indexOf(level) + 1).map(each => uniqueKeys[each]),
  ]
  return Object.fromEntries(
    wanted
      .filter(tag => level !== 'patient' || tag !== '00080050')
      .map(tag => [tag, answer[tag] ?? { vr: 'LO' }] as const),
  )
}
