/** Searches, fetches and stores at other DICOMweb servers, for somebody: the client's side of DICOM PS3.18 §10. */
import { authorize } from '../../policy/authorize.ts'
import { type AuditEvent, beginTransferring, eventIds, instancesTransferred, type Participant } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { isObject } from '../decode.ts'
import { readMultipart } from '../dicom/multipart.ts'
import { newBoundary, type Part, partsBody } from '../dicom/multipart-writer.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { Ingest } from './ingest.ts'
import { type FileTools, openPart10 } from './part10-file.ts'
import type { Retrieve } from './retrieve.ts'
import type { PlannedInstance } from './retrieve-plan.ts'
import { openStoreSession, type StoreOutcome } from './store-session.ts'
import { callServer, findServer, type WebAnswer, type WebServerList, wholeBody } from './web-servers.ts'

/** A study, series or instance of another server. */
export interface WebResource {
  readonly study: string
  readonly series?: string | undefined
  readonly instance?: string | undefined
}

/** Calls servers of the configuration. */
export interface WebClient {
  /** @throws GatewayError NOT_FOUND, FORBIDDEN, PEER_UNREACHABLE, REMOTE_STATUS, PEER_PROTOCOL */
  search(principal: Principal, name: string, path: string, signal: AbortSignal): Promise<readonly object[]>
  /** Any GET; the caller reads or cancels the answer. @throws GatewayError as `search` */
  get(principal: Principal, name: string, path: string, accept: string, signal: AbortSignal): Promise<WebAnswer>
  /** Fetches instances into the store. @throws GatewayError as `search` */
  retrieve(
    principal: Principal,
    name: string,
    resources: readonly WebResource[],
    onProgress: (done: number, total: number) => void,
    signal: AbortSignal,
  ): Promise<StoreOutcome[]>
  /**
   * Stores instances there, by Orthanc ids of resources.
   *
   * @returns how many there are, and how many were not taken
   * @throws GatewayError as `search`; POLICY_DENIED for a server outside of the hospital
   */
  store(
    principal: Principal,
    name: string,
    resources: readonly string[],
    onProgress: (done: number, total: number) => void,
    signal: AbortSignal,
  ): Promise<{ readonly instances: number; readonly failed: number }>
}

const maxMatchesBytes = 64 * 1024 * 1024
/** Instances of one request, as Orthanc's client sends them. */
const instancesAtOnce = 10
const chunkBytes = 256 * 1024

/** Opens the client. */
export function openWebClient(
  options: FileTools & {
    readonly db: Db
    readonly servers: WebServerList
    readonly retrieve: Retrieve
    readonly ingest: Ingest
    /** The largest instance that is taken, in bytes. */
    readonly limitBytes: number
  },
): WebClient {
  const { db, servers, retrieve, ingest, limitBytes } = options
  const record = (event: AuditEvent): Promise<void> => db.inTransaction(tx => appendAudit(tx, event))

  async function asked(principal: Principal, name: string): Promise<ReturnType<typeof findServer>> {
    authorize(principal, 'modality.query')
    const server = findServer(servers, name)
    // As for C-FIND the query is not recorded: it may be a patient's name.
    await record({
      event: eventIds.query,
      action: 'E',
      outcome: 'success',
      participants: [{ ...participant(principal), requestor: true }, partnerOf(name, server.url)],
      objects: [],
    })
    return server
  }

  return {
    async search(principal, name, path, signal) {
      const server = await asked(principal, name)
      const answer = await callServer(server, { path, accept: 'application/dicom+json', signal })
      if (answer.status === 204) return []
      const body = await wholeBody(expectStatus(answer, [200]), maxMatchesBytes)
      return parseMatches(body)
    },

    async get(principal, name, path, accept, signal) {
      return await callServer(await asked(principal, name), { path, accept, signal })
    },

    async retrieve(principal, name, resources, onProgress, signal) {
      authorize(principal, 'modality.retrieve')
      const server = findServer(servers, name)
      const outcomes: StoreOutcome[] = []
      for (const [index, resource] of resources.entries()) {
        const parties = {
          requestor: participant(principal),
          source: partnerOf(name, server.url),
          destination: { userId: 'gateway' },
          objects: [{ kind: 'study' as const, studyInstanceUid: resource.study }],
        }
        await record(beginTransferring(parties))
        const session = openStoreSession(principal, { ingest, limitBytes, studyInstanceUid: resource.study })
        let isWhole = false
        try {
          const accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
          const answer = await callServer(server, { path: pathOf(resource), accept, signal })
          const boundary = expectStatus(answer, [200, 206]).type.parameters.get('boundary') ?? ''
          for await (const { content } of readMultipart(answer.body, boundary)) await session.file(content)
          isWhole = answer.status === 200
        } finally {
          const found = await session.finish()
          outcomes.push(...found)
          const stored = found.filter(({ kind }) => kind !== 'failed').length
          const outcome = isWhole && stored === found.length ? 'success' : 'minor-failure'
          const detail = { instances: found.length, stored }
          await record(instancesTransferred({ ...parties, action: 'R', outcome, detail }))
        }
        onProgress(index + 1, resources.length)
      }
      return outcomes
    },

    async store(principal, name, resources, onProgress, signal) {
      authorize(principal, 'study.send')
      const server = findServer(servers, name)
      if (server.zone === 'outside') {
        throw new GatewayError('POLICY_DENIED', 'what leaves the hospital leaves by a transfer')
      }
      const plan = await retrieve.plan({ level: 'instance', resources })
      const parties = { requestor: participant(principal), destination: partnerOf(name, server.url) }
      await plan.begin(parties)
      const sent = new Map<number, number>()
      let failed = 0
      let done = 0
      try {
        for await (const group of inGroups(plan.instances(), instancesAtOnce)) {
          const boundary = newBoundary()
          const chunks = partsBody(filesOf(options, group, signal), boundary)
          const type = `multipart/related; type="application/dicom"; boundary=${boundary}`
          const accept = 'application/dicom+json'
          const answer = await callServer(server, { path: '/studies', accept, body: { type, chunks }, signal })
          const taken = takenIn(await wholeBody(expectStatus(answer, [200, 202, 409]), maxMatchesBytes))
          for (const { study, sopInstanceUid } of group) {
            if (taken.has(sopInstanceUid)) sent.set(study, (sent.get(study) ?? 0) + 1)
            else failed += 1
          }
          done += group.length
          onProgress(done, plan.instanceCount)
        }
      } finally {
        await plan.end(parties, sent)
      }
      return { instances: plan.instanceCount, failed }
    },
  }
}

function participant({ id, address }: Principal): Participant {
  return { userId: id, ...(address !== undefined && { address }) }
}

function partnerOf(name: string, url: string): Participant {
  return { userId: name, address: new URL(url).hostname }
}

function expectStatus(answer: WebAnswer, expected: readonly number[]): WebAnswer {
  if (expected.includes(answer.status)) return answer
  void answer.cancel().catch(() => undefined)
  throw new GatewayError('REMOTE_STATUS', `the DICOMweb server answered ${answer.status}`, {
    context: { status: answer.status },
  })
}

function parseMatches(body: Buffer): readonly object[] {
  const parsed = parseJson(body)
  if (!Array.isArray(parsed)) throw new GatewayError('PEER_PROTOCOL', 'expected a list of data sets')
  return parsed.filter(isObject)
}

function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString())
  } catch (cause) {
    throw new GatewayError('PEER_PROTOCOL', 'expected DICOM JSON', { cause })
  }
}

/** SOP Instance UIDs of the Referenced SOP Sequence (0008,1199): what is not named there was not taken. */
function takenIn(body: Buffer): ReadonlySet<string> {
  const report = body.length === 0 ? {} : parseJson(body)
  const sequence = isObject(report) && isObject(report['00081199']) ? report['00081199']['Value'] : undefined
  const items: unknown[] = Array.isArray(sequence) ? sequence : []
  return new Set(
    items.flatMap(item => {
      const element = isObject(item) ? item['00081155'] : undefined
      const values = isObject(element) ? element['Value'] : undefined
      return Array.isArray(values) ? values.filter(value => typeof value === 'string') : []
    }),
  )
}

function pathOf({ study, series, instance }: WebResource): string {
  const path = `/studies/${study}`
  if (series === undefined) return path
  return instance === undefined ? `${path}/series/${series}` : `${path}/series/${series}/instances/${instance}`
}

async function* inGroups<T>(items: AsyncIterable<T>, size: number): AsyncGenerator<T[]> {
  let group: T[] = []
  for await (const item of items) {
    group.push(item)
    if (group.length < size) continue
    yield group
    group = []
  }
  if (group.length > 0) yield group
}

/** The files as they are stored; the bytes are copies, because nobody tells when they have left. */
async function* filesOf(
  tools: FileTools,
  instances: readonly PlannedInstance[],
  signal: AbortSignal,
): AsyncGenerator<Part> {
  for (const instance of instances) {
    const file = await openPart10(tools, instance, [instance.transferSyntaxUid], signal)
    try {
      const { source } = file
      const content = (async function* () {
        for (let at = 0; at < source.sizeBytes; at += chunkBytes) yield Buffer.from(await source.read(at, chunkBytes))
      })()
      // Without parameters: some servers know the type in this spelling only.
      yield { headers: { 'Content-Type': 'application/dicom' }, content }
    } finally {
      await file.close()
    }
  }
}
