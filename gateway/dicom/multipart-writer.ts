/** Writing multipart/related bodies: RFC 2387, RFC 2046 §5.1, DICOM PS3.18 §8.6.1.2. */
import { randomBytes } from 'node:crypto'

/** A part: its headers, without line ends in their values, and its content. */
export interface Part {
  readonly headers: Readonly<Record<string, string>>
  readonly content: AsyncIterable<Uint8Array> | Iterable<Uint8Array>
}

/** A boundary that no content has by chance. */
export function newBoundary(): string {
  return randomBytes(16).toString('hex')
}

/** The body of these parts. */
export async function* partsBody(parts: AsyncIterable<Part>, boundary: string): AsyncGenerator<Uint8Array> {
  let start = `--${boundary}\r\n`
  for await (const { headers, content } of parts) {
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
    yield Buffer.from(`${start}${lines.join('')}\r\n`, 'latin1')
    yield* content
    start = `\r\n--${boundary}\r\n`
  }
  yield Buffer.from(start === `--${boundary}\r\n` ? `--${boundary}--\r\n` : `\r\n--${boundary}--\r\n`, 'latin1')
}
