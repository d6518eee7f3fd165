/** One request to another site's `/x/1/pair`. */
import { type ErrorCode, errorTable, GatewayError } from '../gateway/errors.ts'
import { type ClockWatch, parseHttpDate } from './clock.ts'
import { diagnose } from './diagnosis.ts'
import { type DialOptions, openPeerPool } from './dial.ts'
import { parseJson } from './json.ts'
import { decodeAnswer, encodeRequest, maxPairingBytes, type PairAnswer, type PairRequest } from './pairing-messages.ts'

export const pairPath = '/x/1/pair'

/**
 * Sends one step and reads the answer.
 *
 * @throws GatewayError what the other site refused with, PEER_CLOCK_DRIFT, and those of `dial`
 */
export async function askToPair(
  options: DialOptions & { readonly clocks: ClockWatch },
  request: PairRequest,
): Promise<PairAnswer> {
  const { to, clocks } = options
  const pool = openPeerPool({ ...options, connections: 1, headersTimeoutMs: 30_000, bodyTimeoutMs: 30_000 })
  try {
    const response = await pool.request({
      method: 'POST',
      path: pairPath,
      headers: { 'content-type': 'application/json' },
      body: encodeRequest(request),
    })
    const { date } = response.headers
    const theirs = parseHttpDate(typeof date === 'string' ? date : undefined)
    // First: a refusal may well be due to the clocks, and this names whose.
    if (theirs !== undefined) clocks.check(to, theirs)
    const body = await readBody(response.body, to.name)
    if (response.statusCode === 200) return decodeAnswer(body)
    throw refusal(response.statusCode, body, to.name)
  } catch (error) {
    throw diagnose(error, to)
  } finally {
    await pool.destroy()
  }
}

async function readBody(body: AsyncIterable<Uint8Array>, name: string): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of body) {
    size += chunk.length
    if (size > maxPairingBytes)
      throw new GatewayError('PEER_PROTOCOL', `${name} sent more than ${maxPairingBytes} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

/** The other site's problem document (RFC 9457) as our error: its code where it is one of ours. */
function refusal(status: number, body: Uint8Array, name: string): GatewayError {
  let problem: unknown
  try {
    problem = parseJson(body, { maxBytes: maxPairingBytes, code: 'PEER_PROTOCOL' })
  } catch {
    problem = undefined // not a problem document: the status must do
  }
  const field = (key: string): string | undefined => {
    const value = typeof problem === 'object' && problem !== null ? Reflect.get(problem, key) : undefined
    return typeof value === 'string' ? value.slice(0, 300) : undefined
  }
  const code = field('code')
  return new GatewayError(
    code !== undefined && isErrorCode(code) ? code : 'PEER_PROTOCOL',
    `${name} refused with status ${status}: ${field('detail') ?? 'no reason given'}`,
  )
}

const isErrorCode = (code: string): code is ErrorCode => Object.hasOwn(errorTable, code)
