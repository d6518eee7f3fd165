/** Bodies of multipart/related requests. */

/** A part to send. */
export interface SentPart {
  readonly type: string
  readonly bytes: Uint8Array
  readonly headers?: Readonly<Record<string, string>>
}

/** A request with these parts. */
export function multipartRequest(type: string, parts: readonly SentPart[], boundary = 'a-b_c'): RequestInit {
  const chunks = parts.flatMap(part => {
    const headers = Object.entries({ 'Content-Type': part.type, ...part.headers }).map(([k, v]) => `${k}: ${v}\r\n`)
    return [Buffer.from(`--${boundary}\r\n${headers.join('')}\r\n`), part.bytes, Buffer.from('\r\n')]
  })
  return {
    method: 'POST',
    headers: { 'content-type': `multipart/related; type="${type}"; boundary=${boundary}` },
    body: Buffer.concat([...chunks, Buffer.from(`--${boundary}--\r\n`)]),
  }
}
