/** A bucket of an S3-compatible object store: a key is there when its object is whole, so that nothing is renamed. */
import { Agent } from 'node:https'
import { Readable } from 'node:stream'
import {
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  S3Client,
  S3ServiceException,
} from '@aws-sdk/client-s3'
import { Upload } from '@aws-sdk/lib-storage'
import { GatewayError } from '../gateway/errors.ts'
import { errnoOf } from '../gateway/store/io-error.ts'
import { certificateError } from './certificate-error.ts'
import type { FileEntry, FileStore } from './file-store.ts'
import { abilitiesOf, pathBelow } from './paths.ts'
import type { PlaceSecrets, S3Place } from './place.ts'
import { proxyAgent } from './proxy.ts'

const partBytes = 8 * 1_048_576

/** Nothing is said before the first request. */
export function openS3(place: S3Place, secrets: PlaceSecrets): FileStore {
  const { bucket, root, can } = place
  const client = new S3Client({
    endpoint: place.endpoint,
    region: place.region,
    forcePathStyle: place.isPathStyle,
    credentials: { accessKeyId: place.accessKeyId, secretAccessKey: secrets.secretAccessKey ?? '' },
    maxAttempts: 2,
    // Checksums in trailers are not known to all who speak S3.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: {
      requestTimeout: 120_000,
      connectionTimeout: 20_000,
      ...agentsOf(place, secrets),
    },
  })
  const at = (path: string): string => {
    const key = pathBelow(root.replace(/^\/+/, ''), path)
    return key === '.' ? '' : key
  }
  const ask = async <T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> => {
    try {
      return await work()
    } catch (error) {
      signal.throwIfAborted()
      throw s3Error(error)
    }
  }
  return {
    can: abilitiesOf({ resume: false, rename: false, list: true, remove: true }, can),
    stat: (path, signal) =>
      ask(signal, async () => {
        try {
          const found = await client.send(new HeadObjectCommand({ Bucket: bucket, Key: at(path) }), {
            abortSignal: signal,
          })
          return entry(path, found.ContentLength, found.LastModified)
        } catch (error) {
          if (error instanceof S3ServiceException && error.$metadata.httpStatusCode === 404) return undefined
          throw error
        }
      }),
    list: (path, signal) =>
      ask(signal, async () => {
        const prefix = at(path) === '' ? '' : `${at(path)}/`
        const entries: FileEntry[] = []
        for (let token: string | undefined, isFirst = true; isFirst || token !== undefined; isFirst = false) {
          const page = await client.send(
            new ListObjectsV2Command({ Bucket: bucket, Prefix: prefix, Delimiter: '/', ContinuationToken: token }),
            { abortSignal: signal },
          )
          for (const { Key = '', Size, LastModified } of page.Contents ?? [])
            if (Key !== prefix) entries.push(entry(Key, Size, LastModified))
          for (const { Prefix = '' } of page.CommonPrefixes ?? [])
            entries.push({ ...entry(Prefix.slice(0, -1), 0, undefined), kind: 'folder' })
          token = page.NextContinuationToken
        }
        return entries
      }),
    makeFolder: async () => {},
    put: (path, source, { onSent }, signal) =>
      ask(signal, async () => {
        const upload = new Upload({
          client,
          params: { Bucket: bucket, Key: at(path), Body: source },
          queueSize: 2,
          partSize: partBytes,
        })
        let told = 0
        upload.on('httpUploadProgress', ({ loaded = 0 }) => {
          onSent(Math.max(0, loaded - told))
          told = Math.max(told, loaded)
        })
        const abort = (): void => void upload.abort()
        signal.addEventListener('abort', abort, { once: true })
        try {
          await upload.done()
        } finally {
          signal.removeEventListener('abort', abort)
          source.destroy()
        }
      }),
    get: (path, offset, signal) =>
      ask(signal, async () => {
        const range = offset > 0 ? { Range: `bytes=${offset}-` } : {}
        const { Body } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: at(path), ...range }), {
          abortSignal: signal,
        })
        if (Body instanceof Readable) return Body
        throw new GatewayError('ENDPOINT_PROTOCOL', 'the endpoint sent no body')
      }),
    rename: async () => {
      throw new GatewayError('ENDPOINT_UNSUPPORTED', 'objects of a bucket cannot be renamed')
    },
    remove: (path, signal) =>
      ask(signal, async () => {
        await client.send(new DeleteObjectCommand({ Bucket: bucket, Key: at(path) }), { abortSignal: signal })
      }),
    freeBytes: async () => undefined,
    sha256: async () => undefined,
    close: async () => client.destroy(),
  }
}

/** TLS under the endpoint's authorities, and through its proxy. */
function agentsOf({ endpoint, ca, proxy }: S3Place, { proxyPassword }: PlaceSecrets) {
  const tls = ca === undefined ? {} : { ca }
  if (!proxy) return { httpsAgent: new Agent(tls) }
  const agent = proxyAgent(endpoint, proxy, proxyPassword, tls)
  return agent instanceof Agent ? { httpsAgent: agent } : { httpAgent: agent }
}

function entry(key: string, size: number | undefined, modified: Date | undefined): FileEntry {
  return { name: key.slice(key.lastIndexOf('/') + 1), kind: 'file', size: size ?? 0, modified }
}

function s3Error(error: unknown): GatewayError {
  if (error instanceof GatewayError) return error
  const failed = (code: ConstructorParameters<typeof GatewayError>[0], message: string): GatewayError =>
    new GatewayError(code, message, { cause: error })
  if (error instanceof S3ServiceException) {
    const status = error.$metadata.httpStatusCode ?? 0
    if (error.name === 'NoSuchBucket') return failed('ENDPOINT_DENIED', 'the endpoint has no such bucket')
    if (/InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|ExpiredToken/.test(error.name) || status === 401)
      return failed('ENDPOINT_LOGIN', 'the endpoint refuses the access key: check key id, secret and region')
    if (status === 403) return failed('ENDPOINT_DENIED', 'the endpoint forbids it: check the rights of the access key')
    if (status === 507 || error.name === 'QuotaExceeded') return failed('ENDPOINT_FULL', 'the endpoint has no room')
    if (status >= 500 || status === 429) return failed('ENDPOINT_UNREACHABLE', `the endpoint is not ready: ${status}`)
    return failed('ENDPOINT_PROTOCOL', `the endpoint answered ${status}`)
  }
  const reason = errnoOf(error)
  return (
    certificateError(error) ??
    failed('ENDPOINT_UNREACHABLE', `no connection to the endpoint${reason ? `: ${reason}` : ''}`)
  )
}
