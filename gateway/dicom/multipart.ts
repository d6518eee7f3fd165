/**
 * Reads multipart/related bodies (RFC 2387, RFC 2046 §5.1, DICOM PS3.18 §8.6.1.2) as they arrive: what is held is one
 * chunk of the source and the headers of one part, whatever the body is.
 */
import { GatewayError } from '../errors.ts'

/** A part of a body. */
export interface ReceivedPart {
  /** By name in lower case; of repeated ones the first. */
  readonly headers: ReadonlyMap<string, string>
  /** The bytes, to be read before the next part is asked for; what is not read is passed over. */
  readonly content: AsyncIterable<Uint8Array>
}

/** Bounds of a body. */
export interface MultipartLimits {
  readonly maxParts: number
  /** Of the headers of one part together, and of what stands before the first part. */
  readonly maxHeaderBytes: number
}

const defaultLimits: MultipartLimits = { maxParts: 100_000, maxHeaderBytes: 16_384 }
/** Spaces that may stand behind a boundary. */
const maxPaddingBytes = 256
const [cr, lf, dash, space, tab] = [0x0d, 0x0a, 0x2d, 0x20, 0x09]

/** True for what may be a boundary: RFC 2046 §5.1.1 has 70 characters at most, programs in use have more. */
export function isBoundary(text: string): boolean {
  return /^[ -~]{1,200}$/.test(text) && !text.endsWith(' ')
}

/**
 * The parts of a body, one after the other.
 *
 * @throws GatewayError BAD_REQUEST when the body is malformed or ends before its last boundary, DICOM_LIMIT
 */
export async function* readMultipart(
  source: AsyncIterable<Uint8Array>,
  boundary: string,
  limits: MultipartLimits = defaultLimits,
): AsyncGenerator<ReceivedPart, void, void> {
  if (!isBoundary(boundary)) throw malformed('a boundary of 1 to 200 characters')
  const scanner = new Scanner(source, Buffer.from(`\r\n--${boundary}`, 'latin1'))
  let skipped = 0
  for await (const { length } of scanner.content()) {
    skipped += length
    if (skipped > limits.maxHeaderBytes) throw malformed('the first boundary at the beginning')
  }
  for (let parts = 1; scanner.follows === 'part'; parts += 1) {
    if (parts > limits.maxParts) throw new GatewayError('DICOM_LIMIT', `expected at most ${limits.maxParts} parts`)
    const headers = await scanner.headers(limits.maxHeaderBytes)
    yield { headers, content: scanner.content() }
    // What the reader left, or broke off reading.
    for await (const _ of scanner.content());
  }
}

/** What comes next: content up to a boundary, a part's headers, or nothing more. */
type Next = 'content' | 'part' | 'end'

class Scanner {
  readonly #source: AsyncIterator<Uint8Array>
  readonly #delimiter: Buffer
  /** Begins with the line end that the first boundary does not need. */
  #held: Buffer = Buffer.from('\r\n')
  #next: Next = 'content'

  constructor(source: AsyncIterable<Uint8Array>, delimiter: Buffer) {
    this.#source = source[Symbol.asyncIterator]()
    this.#delimiter = delimiter
  }

  get follows(): Next {
    return this.#next
  }

  /** Bytes up to the next boundary; goes on where an earlier reader stopped. */
  async *content(): AsyncGenerator<Uint8Array, void, void> {
    while (this.#next === 'content') {
      const at = this.#held.indexOf(this.#delimiter)
      const end = at < 0 ? undefined : await this.#delimiterAt(at)
      if (end) {
        const bytes = this.#held.subarray(0, at)
        this.#held = this.#held.subarray(end.length)
        this.#next = end.next
        if (bytes.length > 0) yield bytes
        return
      }
      // The beginning of a boundary may be at the end of what is there.
      const safe = at < 0 ? this.#held.length - this.#delimiter.length + 1 : at + 1
      if (safe > 0) {
        const bytes = this.#held.subarray(0, safe)
        this.#held = this.#held.subarray(safe)
        yield bytes
      }
      if (at < 0) await this.#fill()
    }
  }

  /** The header lines before the content (RFC 822 §3.1), with lines that go on in the next one. */
  async headers(maxBytes: number): Promise<Map<string, string>> {
    // A part without headers begins with the empty line that ends them.
    let until = this.#startsEmpty() ? 0 : -1
    while (until < 0) {
      until = this.#held.indexOf('\r\n\r\n')
      if (until > maxBytes || (until < 0 && this.#held.length > maxBytes)) {
        throw new GatewayError('DICOM_LIMIT', `expected at most ${maxBytes} bytes of headers`)
      }
      if (until >= 0) break
      await this.#fill()
      if (this.#startsEmpty()) until = 0
    }
    const text = this.#held.toString('latin1', 0, until)
    this.#held = this.#held.subarray(until + (this.#startsEmpty() ? 2 : 4))
    this.#next = 'content'
    return parseHeaders(text)
  }

  #startsEmpty(): boolean {
    return this.#held[0] === cr && this.#held[1] === lf
  }

  /** What is behind a delimiter; undefined where it is content that looks like one. */
  async #delimiterAt(at: number): Promise<{ length: number; next: Next } | undefined> {
    const behind = at + this.#delimiter.length
    await this.#fillTo(behind + 2)
    if (this.#held[behind] === dash && this.#held[behind + 1] === dash) return { length: behind + 2, next: 'end' }
    for (let padding = 0; padding <= maxPaddingBytes; padding += 1) {
      await this.#fillTo(behind + padding + 2)
      const byte = this.#held[behind + padding]
      if (byte === cr && this.#held[behind + padding + 1] === lf) return { length: behind + padding + 2, next: 'part' }
      if (byte !== space && byte !== tab) return undefined
    }
    return undefined
  }

  async #fillTo(length: number): Promise<void> {
    while (this.#held.length < length) await this.#fill()
  }

  async #fill(): Promise<void> {
    for (;;) {
      const { done, value } = await this.#source.next()
      if (done) throw malformed('a boundary at the end')
      if (value.length === 0) continue
      const chunk = Buffer.from(value.buffer, value.byteOffset, value.byteLength)
      this.#held = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk])
      return
    }
  }
}

function parseHeaders(text: string): Map<string, string> {
  const headers = new Map<string, string>()
  if (text === '') return headers
  for (const line of text.replace(/\r\n[ \t]+/g, ' ').split('\r\n')) {
    const [, name, value] = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*:[ \t]*(.*?)[ \t]*$/.exec(line) ?? []
    if (name === undefined || value === undefined) throw malformed('header lines in each part')
    const key = name.toLowerCase()
    if (!headers.has(key)) headers.set(key, value)
  }
  return headers
}

function malformed(expected: string): GatewayError {
  return new GatewayError('BAD_REQUEST', `multipart body: expected ${expected}`)
}
