/** Run by a test on a volume of 12 MB (`argv[2]`): transcodes more than fits, then what fits, and prints what happened. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { bufferSource } from '../../gateway/dicom/byte-source.ts'
import { explicitVrLittleEndian, implicitVrLittleEndian } from '../../gateway/dicom/uid.ts'
import { GatewayError } from '../../gateway/errors.ts'
import { openPixels } from '../../gateway/pixels/pixels.ts'
import { buildInstance } from './dicom-builder.ts'

const dir = join(process.argv[2] ?? '', 'spool')
const pixels = await openPixels({ dir, threads: 1, memoryBytes: 1_000_000 })
const { signal } = new AbortController()

async function transcode(frames: number): Promise<string> {
  const { bytes } = buildInstance({ rows: 512, cols: 512, frames })
  try {
    const result = await pixels.transcode(bufferSource(bytes), explicitVrLittleEndian, implicitVrLittleEndian, signal)
    await result.close()
    return 'transcoded'
  } catch (error) {
    return error instanceof GatewayError ? error.code : String(error)
  }
}

const large = await transcode(40)
const small = await transcode(10)
await pixels.close()
process.stdout.write(JSON.stringify({ large, small, left: await readdir(dir) }))
