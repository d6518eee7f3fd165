/** Bytes in tests: gathered from a stream, written as text. */

/** All chunks as one buffer. */
export async function gather(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = []
  for await (const chunk of chunks) parts.push(Buffer.from(chunk))
  return Buffer.concat(parts)
}

/** Bytes written as Latin-1 text, for values with escape sequences. */
export function latin1Bytes(text: string): Uint8Array {
  return Buffer.from(text, 'latin1')
}
