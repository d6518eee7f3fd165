/**
 * The verbs of the transfer protocol as a client: each is a request, which does the I/O, and a process
 * function, which verifies what came back (`PROTOCOL.md` §Verbs).
 */
import { Readable } from 'node:stream'
import type { Pool } from 'undici'
import { decode, object, optional, text } from '../gateway/decode.ts'
import { type ErrorCode, GatewayError } from '../gateway/errors.ts'
import type { LeafRun } from './bitmap.ts'
import { type ClockWatch, parseHttpDate } from './clock.ts'
import { type Destination, diagnose } from './diagnosis.ts'
import { parseJson } from './json.ts'
import { decodeOfferState, maxOfferStateBytes, type OfferState } from './offer-state.ts'
import { formatDigestField, rangeDigestField } from './range-digest.ts'
import { knownCode } from './receipt.ts'

/** One connection pool to one peer. */
export interface PeerConnection {
  readonly pool: Pool
  readonly to: Destination
  readonly clocks: ClockWatch
}

/** An answer as it came, nothing verified. */
export interface Answer {
  readonly status: number
  readonly body: Uint8Array
  readonly creditBytes: number | undefined
  readonly retryAfterMs: number | undefined
}

/** What a peer answered instead of what was asked for. */
export interface Refusal {
  readonly error: GatewayError
  /** Envelope of the signed refusal. */
  readonly receipt: Uint8Array | undefined
  readonly retryAfterMs: number | undefined
}

export type StateAnswer =
  | { readonly kind: 'state'; readonly state: OfferState }
  | { readonly kind: 'refused'; readonly refusal: Refusal }
export type RangeAnswer =
  | { readonly kind: 'durable'; readonly creditBytes: number | undefined }
  | { readonly kind: 'refused'; readonly refusal: Refusal }

const offerPath = (id: string): string => `/x/1/offers/${id}`

/** Offers a manifest; again is harmless. */
export function offerRequest(connection: PeerConnection, offer: Uint8Array, signal: AbortSignal): Promise<Answer> {
  return ask(connection, signal, {
    method: 'POST',
    path: '/x/1/offers',
    body: offer,
    type: 'application/vnd.hanse.offer',
  })
}

/** Asks for an offer's state, as it is now. */
export function stateRequest(connection: PeerConnection, id: string, signal: AbortSignal): Promise<Answer> {
  return ask(connection, signal, { method: 'GET', path: offerPath(id) })
}

/** Asks for an offer's state once it is another than the one seen last, or after `waitSeconds`. */
export function nextStateRequest(
  connection: PeerConnection,
  id: string,
  wait: { from: OfferState['state']; waitSeconds: number },
  signal: AbortSignal,
): Promise<Answer> {
  return ask(connection, signal, {
    method: 'GET',
    path: `${offerPath(id)}?wait=${wait.waitSeconds}&state=${wait.from}`,
  })
}

/** Says that every leaf was acknowledged. */
export function commitRequest(connection: PeerConnection, id: string, signal: AbortSignal): Promise<Answer> {
  return ask(connection, signal, { method: 'POST', path: `${offerPath(id)}/commit` })
}

/** Ends a transfer with a signed cancellation. */
export function cancelRequest(
  connection: PeerConnection,
  id: string,
  envelope: Uint8Array,
  signal: AbortSignal,
): Promise<Answer> {
  return postEnvelope(connection, `${offerPath(id)}/cancel`, envelope, signal)
}

/** Asks with a signed recall for what was sent. */
export function recallRequest(
  connection: PeerConnection,
  id: string,
  envelope: Uint8Array,
  signal: AbortSignal,
): Promise<Answer> {
  return postEnvelope(connection, `${offerPath(id)}/recall`, envelope, signal)
}

function postEnvelope(
  connection: PeerConnection,
  path: string,
  body: Uint8Array,
  signal: AbortSignal,
): Promise<Answer> {
  return ask(connection, signal, { method: 'POST', path, body, type: 'application/json' })
}

/** The envelope of the receiver's answer. @throws GatewayError as the receiver refuses it */
export function processRecall(answer: Answer): Uint8Array {
  if (answer.status === 200) return answer.body
  throw readRefusal(answer).error
}

/** Sends the bytes of a run of leaves with their range digest. `bytes` must not change until this settles. */
export function rangeRequest(
  connection: PeerConnection,
  id: string,
  range: { run: LeafRun; bytes: Uint8Array; digest: Uint8Array },
  signal: AbortSignal,
): Promise<Answer> {
  const { run, bytes, digest } = range
  return ask(connection, signal, {
    method: 'PUT',
    path: `${offerPath(id)}/leaves/${run.from}-${run.to}`,
    body: Readable.from(inPieces(bytes), { objectMode: false }),
    type: 'application/octet-stream',
    headers: { [rangeDigestField]: formatDigestField(digest), 'content-length': String(bytes.length) },
  })
}

/** What is encrypted at a time: as large as a cache, where a whole range would take a fifth more CPU time. */
const writtenBytes = 256 * 1024

function* inPieces(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += writtenBytes) yield bytes.subarray(at, at + writtenBytes)
}

/** @throws GatewayError PEER_PROTOCOL when the answer is neither a state of this offer nor a problem */
export function processState(answer: Answer, expected: { id: string; leafCount: number }): StateAnswer {
  if (answer.status === 200 || answer.status === 202) {
    return { kind: 'state', state: decodeOfferState(answer.body, expected) }
  }
  return { kind: 'refused', refusal: readRefusal(answer) }
}

/** @throws GatewayError PEER_PROTOCOL */
export function processRange(answer: Answer): RangeAnswer {
  if (answer.status === 204) return { kind: 'durable', creditBytes: answer.creditBytes }
  return { kind: 'refused', refusal: readRefusal(answer) }
}

const problemShape = object(
  {
    code: optional(text({ max: 64 })),
    detail: optional(text({ max: 2_000 })),
    receipt: optional(text({ max: 4 * 1024 * 1024 })),
  },
  { unknown: 'keep' },
)

function readRefusal(answer: Answer): Refusal {
  const limits = { maxBytes: maxOfferStateBytes, maxDepth: 8, code: 'PEER_PROTOCOL' } as const
  const decoded = decode(problemShape, parseJson(answer.body, limits))
  const problem = decoded.ok ? decoded.value : { code: undefined, detail: undefined, receipt: undefined }
  return {
    error: new GatewayError(codeOf(answer.status, problem.code), oneLine(problem.detail ?? `status ${answer.status}`), {
      context: { status: answer.status },
    }),
    receipt: problem.receipt === undefined ? undefined : new TextEncoder().encode(problem.receipt),
    retryAfterMs: answer.retryAfterMs,
  }
}

/** A peer's words for our log and lists: one bounded line of visible characters. */
const oneLine = (text: string): string => `the peer says: ${text.slice(0, 300).replaceAll(/[^\x20-\x7e]/g, '?')}`

/** A code that we do not know is read by its status: whether it is worth trying again. */
function codeOf(status: number, code: string | undefined): ErrorCode {
  const known = knownCode(code)
  if (known === code) return known
  if (status === 429) return 'TOO_MANY_REQUESTS'
  return status >= 500 ? 'UNAVAILABLE' : 'PEER_PROTOCOL'
}

interface Question {
  readonly method: 'GET' | 'POST' | 'PUT'
  readonly path: string
  readonly body?: Uint8Array | Readable
  readonly type?: string
  readonly headers?: Readonly<Record<string, string>>
}

async function ask({ pool, to, clocks }: PeerConnection, signal: AbortSignal, question: Question): Promise<Answer> {
  const { method, path, body, type, headers } = question
  try {
    const response = await pool.request({
      method,
      path,
      signal,
      headers: { ...headers, ...(type !== undefined && { 'content-type': type }) },
      body: body ?? null,
      // An unanswered PUT may be repeated: the receiver compares what it has.
      idempotent: true,
    })
    const theirs = parseHttpDate(one(response.headers['date']))
    if (theirs !== undefined) clocks.check(to, theirs)
    return {
      status: response.statusCode,
      body: await readAll(response.body),
      creditBytes: wholeNumber(one(response.headers['hanse-credit'])),
      retryAfterMs: seconds(one(response.headers['retry-after'])),
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason
    throw diagnose(error, to)
  }
}

async function readAll(body: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of body) {
    bytes += chunk.length
    if (bytes > maxOfferStateBytes)
      throw new GatewayError('PEER_PROTOCOL', `expected at most ${maxOfferStateBytes} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

const one = (header: string | string[] | undefined): string | undefined => (Array.isArray(header) ? header[0] : header)

const wholeNumber = (header: string | undefined): number | undefined =>
  header !== undefined && /^\d{1,15}$/.test(header) ? Number(header) : undefined

function seconds(header: string | undefined): number | undefined {
  const value = wholeNumber(header)
  return value === undefined ? undefined : Math.min(value, 3600) * 1000
}
