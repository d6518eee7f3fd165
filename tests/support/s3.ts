/** An S3-compatible server for one test. */
import { mkdir } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { temporaryDir } from './blobs.ts'
import { onEnd } from './cleanup.ts'
import { freePort } from './free-port.ts'

export interface TestS3 {
  readonly endpoint: string
  readonly bucket: string
  readonly accessKeyId: string
  readonly secretAccessKey: string
  /** Where its objects lie, each in a file whose name ends in `._S3rver_object`. */
  readonly folder: string
}

/** Starts it with one bucket. */
export async function startS3(t: TestContext): Promise<TestS3> {
  const directory = join(await temporaryDir(t), 's3')
  await mkdir(directory)
  const S3rver = createRequire(import.meta.url)('s3rver')
  const port = await freePort()
  const bucket = 'trial'
  const server = new S3rver({
    port,
    address: '127.0.0.1',
    silent: true,
    directory,
    configureBuckets: [{ name: bucket }],
  })
  await server.run()
  onEnd(t, () => server.close())
  return {
    endpoint: `http://127.0.0.1:${port}`,
    bucket,
    accessKeyId: 'S3RVER',
    secretAccessKey: 'S3RVER',
    folder: join(directory, bucket),
  }
}
