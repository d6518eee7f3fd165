/** Objects to endpoints that take them by a protocol of their own: C-STORE, STOW-RS, Orthanc's REST API. */
import { Readable } from 'node:stream'
import { certificateError } from '../../endpoints/certificate-error.ts'
import { openObject, readObject } from '../../endpoints/pack/object-file.ts'
import { proxyAgent } from '../../endpoints/proxy.ts'
import { newBoundary, partsBody } from '../dicom/multipart-writer.ts'
import { findLayout } from '../dicom/part10-layout.ts'
import { type ErrorCode, GatewayError, isGatewayError } from '../errors.ts'
import type { ArchiveResult, ArchiveSend } from './archive.ts'
import type { DimseSettings, Endpoint, EndpointSecrets, WebSettings } from './endpoint.ts'
import type { EndpointObject } from './endpoint-transfer-rows.ts'
import type { ModalityTarget, OwnCredentials } from './modality-target.ts'
import { inParallel } from './parallel.ts'
import { callRest, type RestTarget } from './rest-client.ts'
import { sendFileTo } from './rest-send.ts'

/** How objects travel by DICOM: the DIMSE side. @throws GatewayError PEER_UNREACHABLE, ASSOCIATION_REFUSED, PEER_PROTOCOL */
export type SendByDimse = (
  to: ModalityTarget,
  items: Iterable<ArchiveSend>,
  onResult: (item: ArchiveSend, result: ArchiveResult) => Promise<void>,
  signals: { readonly stop: AbortSignal; readonly abort: AbortSignal },
) => Promise<void>

/** What sending needs. */
export interface ObjectParts {
  readonly sendByDimse: SendByDimse
  /** Ours, for systems that are called by TLS. */
  readonly credentials: () => OwnCredentials | undefined
  readonly aeTitle: string
}

/** What the sender of objects knows and wants to know; all are awaited. */
export interface ObjectProgress {
  onResult(object: EndpointObject, problem: string | null): Promise<void>
  /** Asked before each object; false ends it. */
  mayContinue(): Promise<boolean>
}

/**
 * Sends objects; each one's result is told.
 *
 * @throws GatewayError ENDPOINT_UNREACHABLE, ENDPOINT_LOGIN, ENDPOINT_PROTOCOL: the others were not tried
 */
export async function sendObjects(
  parts: ObjectParts,
  { endpoint, secrets }: { readonly endpoint: Endpoint; readonly secrets: EndpointSecrets },
  objects: readonly EndpointObject[],
  progress: ObjectProgress,
  signal: AbortSignal,
): Promise<void> {
  const { settings, rules } = endpoint
  try {
    switch (settings.kind) {
      case 'dimse':
        return await sendDimse(parts, dimseTarget(parts, endpoint.name, settings, secrets), objects, progress, signal)
      case 'stow':
      case 'orthanc': {
        const target = restTargetOf(endpoint.name, settings, secrets)
        const send = settings.kind === 'stow' ? stow : postToOrthanc
        let isOver = false
        return await inParallel(objects, rules.parallel, async object => {
          signal.throwIfAborted()
          if (isOver || !(await progress.mayContinue())) {
            isOver = true
            return
          }
          await progress.onResult(object, await send(target, object, signal))
        }).catch(async error => {
          if (isGatewayError(error, 'PEER_UNREACHABLE') && !signal.aborted)
            await findReason(target, settings.kind, signal)
          throw error
        })
      }
      default:
        throw new GatewayError('ENDPOINT_UNSUPPORTED', `endpoints of kind ${settings.kind} take files`)
    }
  } catch (error) {
    throw asEndpointError(error)
  }
}

/** Codes of the clients that we share with other services, as an endpoint has them. */
function asEndpointError(error: unknown): unknown {
  if (!isGatewayError(error)) return error
  const codes: Partial<Record<ErrorCode, ErrorCode>> = {
    PEER_UNREACHABLE: 'ENDPOINT_UNREACHABLE',
    ASSOCIATION_REFUSED: 'ENDPOINT_DENIED',
    PEER_PROTOCOL: 'ENDPOINT_PROTOCOL',
  }
  const { certificate } = error.context
  if (certificate !== undefined)
    return new GatewayError(certificate === 'theirs' ? 'ENDPOINT_HOST_KEY' : 'ENDPOINT_LOGIN', error.message, {
      cause: error,
    })
  const refused = error.code === 'PEER_UNREACHABLE' ? certificateError(error.cause) : undefined
  if (refused) return refused
  const code = codes[error.code]
  return code === undefined ? error : new GatewayError(code, error.message, { cause: error })
}

/** How a system that takes objects by C-STORE is called; its own client certificate goes before the gateway's. */
export function dimseTarget(
  { credentials, aeTitle }: Pick<ObjectParts, 'credentials' | 'aeTitle'>,
  name: string,
  { host, port, aeTitle: calledAe, callingAe = aeTitle, tls }: DimseSettings,
  { clientCertificate, clientKey = clientCertificate }: EndpointSecrets,
): ModalityTarget {
  const target = { name, host, port, callingAe, calledAe: calledAe.trim(), isOutside: true } as const
  if (!tls) return target
  const own = credentials()
  const [cert, key] = clientCertificate === undefined ? [own?.certificate, own?.key] : [clientCertificate, clientKey]
  const ca = tls.ca ?? own?.ca
  return {
    ...target,
    tls: {
      verify: tls.verify,
      ...(tls.servername !== undefined && { servername: tls.servername }),
      ...(tls.fingerprint !== undefined && { fingerprint: tls.fingerprint }),
      ...(ca !== undefined && { ca }),
      ...(cert !== undefined && key !== undefined && { cert, key }),
    },
  }
}

async function sendDimse(
  { sendByDimse }: ObjectParts,
  target: ModalityTarget,
  objects: readonly EndpointObject[],
  progress: ObjectProgress,
  signal: AbortSignal,
): Promise<void> {
  const byOrdinal = new Map(objects.map(object => [object.ordinal, object]))
  const stop = new AbortController()
  const items = objects.map(object => ({
    ...object,
    sizeBytes: object.size,
    fileSha256: Buffer.from(object.sha256, 'hex'),
    source: '',
    open: () => openDataset(object),
  }))
  if (!(await progress.mayContinue())) return
  await sendByDimse(
    target,
    items,
    async (item, result) => {
      const object = byOrdinal.get(item.ordinal)
      if (object) await progress.onResult(object, result.kind === 'taken' ? null : result.problem)
      if (!(await progress.mayContinue())) stop.abort()
    },
    { stop: stop.signal, abort: signal },
  )
}

async function openDataset(object: EndpointObject) {
  const source = await openObject(object)
  const { datasetOffset } = await findLayout(source)
  return { source, datasetOffset, close: () => source.close() }
}

function restTargetOf(
  name: string,
  { url, username, ca, proxy, timeoutSeconds }: WebSettings,
  secrets: EndpointSecrets,
): RestTarget {
  const { password, token, clientCertificate, clientKey } = secrets
  return {
    name,
    url,
    username,
    password,
    headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
    ca,
    ...(proxy && { agent: proxyAgent(url, proxy, secrets.proxyPassword) }),
    certificate: clientCertificate,
    key: clientKey,
    timeoutMs: timeoutSeconds * 1_000,
  }
}

/**
 * A server that refuses a login or a certificate may close the connection while we still send, and its words are lost:
 * it is asked something short.
 *
 * @throws GatewayError when it says why
 */
async function findReason(target: RestTarget, kind: WebSettings['kind'], signal: AbortSignal): Promise<void> {
  const path = kind === 'orthanc' ? '/system' : '/studies?limit=1'
  const { statusCode = 0 } = await callRest(target, { method: 'GET', path }, signal).then(answer => answer.resume())
  if (statusCode === 401 || statusCode === 403) problemOf(statusCode, target)
}

/** What became of it: null when it is stored there. @throws GatewayError for what does not speak of the object */
async function postToOrthanc(target: RestTarget, object: EndpointObject, signal: AbortSignal): Promise<string | null> {
  const source = await openObject(object)
  try {
    await sendFileTo(target, source, { compress: false }, signal)
    return null
  } catch (error) {
    if (!isGatewayError(error, 'REMOTE_STATUS')) throw error
    return problemOf(Number(error.context['status'] ?? 400), target)
  } finally {
    await source.close()
  }
}

/** One object by STOW-RS (DICOM PS3.18 §10.5). */
async function stow(target: RestTarget, object: EndpointObject, signal: AbortSignal): Promise<string | null> {
  const boundary = newBoundary()
  const part = async function* () {
    yield { headers: { 'content-type': 'application/dicom' }, content: readObject(object, signal) }
  }
  const answer = await callRest(
    target,
    {
      method: 'POST',
      path: '/studies',
      body: Readable.from(partsBody(part(), boundary), { objectMode: false }),
      headers: {
        accept: 'application/dicom+json',
        'content-type': `multipart/related; type="application/dicom"; boundary=${boundary}`,
      },
    },
    signal,
  )
  answer.resume()
  const { statusCode = 0 } = answer
  // 202 is stored with changes or warnings (PS3.18 Table 10.5.3-1); of one object it says that it is there.
  return statusCode === 200 || statusCode === 202 ? null : problemOf(statusCode, target)
}

function problemOf(status: number, { name }: RestTarget): string {
  if (status === 401 || status === 403) throw new GatewayError('ENDPOINT_LOGIN', `${name} refuses our login`)
  if (status === 507) throw new GatewayError('ENDPOINT_FULL', `${name} has no room`)
  if (status >= 500 || status === 429)
    throw new GatewayError('ENDPOINT_PROTOCOL', `${name} answered HTTP status ${status}`)
  return `HTTP_${status}`
}
