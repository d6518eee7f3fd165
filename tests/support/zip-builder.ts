/** Writes ZIP files in tests, by a library that is not ours. */
import { ZipFile } from 'yazl'

/** An archive of these files. */
export async function zipOf(
  files: Readonly<Record<string, Uint8Array>>,
  { compress = false }: { readonly compress?: boolean } = {},
): Promise<Buffer> {
  const zip = new ZipFile()
  for (const [name, bytes] of Object.entries(files)) zip.addBuffer(Buffer.from(bytes), name, { compress })
  zip.end()
  const chunks: Buffer[] = []
  for await (const chunk of zip.outputStream) chunks.push(Buffer.from(chunk))
  return Buffer.concat(chunks)
}
