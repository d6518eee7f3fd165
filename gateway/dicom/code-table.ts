/** Code tables of single-byte and 94 x 94 sets, from the decoders of the platform. */

/** Characters of the bytes 0x80..0xff in a set of the Encoding Standard, `iso-8859-1` or `jis-x-0201`. */
export function upperHalf(label: string): readonly string[] {
  if (label === 'iso-8859-1') return Array.from({ length: 128 }, (_, index) => String.fromCharCode(0x80 + index))
  if (label === 'jis-x-0201') {
    // Katakana at 0xa1..0xdf. 0x5c and 0x7e stay backslash and tilde: DICOM's delimiter is the code, not the glyph.
    return Array.from({ length: 128 }, (_, i) => (i >= 0x21 && i <= 0x5f ? String.fromCharCode(0xff40 + i) : '\ufffd'))
  }
  const decoder = new TextDecoder(label)
  return Array.from({ length: 128 }, (_, index) => decoder.decode(Uint8Array.of(0x80 + index)))
}

/** Encodes ASCII as itself and the rest by table; undefined when a character is missing. */
export function encodeBy(codes: ReadonlyMap<string, readonly number[]>, text: string): Uint8Array | undefined {
  const out: number[] = []
  for (const character of text) {
    if (character < '\x80') out.push(character.charCodeAt(0))
    else {
      const code = codes.get(character)
      if (code === undefined || character === '\ufffd') return undefined
      out.push(...code)
    }
  }
  return Uint8Array.from(out)
}

/** Text of bytes in Latin-1: one character per byte. */
export function latin1(bytes: Uint8Array): string {
  return asBuffer(bytes).toString('latin1')
}

/** The bytes as a Buffer over the same memory. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** Calls `make` once, on first use. */
export function memo<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined
  return () => {
    made ??= { value: make() }
    return made.value
  }
}
