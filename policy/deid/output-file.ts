/** The output as a file: a preamble of zeros, File Meta Information of our own, and the rewritten data set. */
import { pipeline, Readable } from 'node:stream'
import { createDeflateRaw } from 'node:zlib'
import type { ByteSource } from '../../gateway/dicom/byte-source.ts'
import { inflateSource } from '../../gateway/dicom/inflate-source.ts'
import { fileMeta } from '../../gateway/dicom/part10-writer.ts'
import type { Instance } from './instance.ts'
import { outputBytes, type Part } from './output.ts'

const maxInflatedBytes = 4_294_967_296

/** The bytes of the output; a deflated data set is deflated anew. */
export async function* outputFile(
  source: ByteSource,
  { sopClassUid, transferSyntaxUid, isDeflated, datasetOffset }: Instance,
  sopInstanceUid: string,
  parts: readonly Part[],
): AsyncGenerator<Uint8Array> {
  yield fileMeta({ sopClassUid, sopInstanceUid, transferSyntaxUid })
  if (!isDeflated) {
    yield* outputBytes(source, parts)
    return
  }
  await using inflated = inflateSource(source, datasetOffset, maxInflatedBytes)
  const deflater = createDeflateRaw()
  // The outcome reaches the loop below: a failed source destroys the deflater with its error.
  pipeline(Readable.from(outputBytes(inflated, parts)), deflater, () => {})
  let length = 0
  for await (const chunk of deflater) {
    if (!(chunk instanceof Uint8Array)) continue
    length += chunk.length
    yield chunk
  }
  if (length % 2 === 1) yield new Uint8Array(1)
}
