/** Both servers with the same files, to be asked the same. */
import assert from 'node:assert/strict'
import { existsSync, globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { isObject } from '../../gateway/decode.ts'
import { corpusFolder } from '../support/corpus.ts'
import { buildInstance } from '../support/dicom-builder.ts'
import { startOrthanc } from '../support/orthanc.ts'
import { type StoreApp, storeApp } from './store-app.ts'

const samples = corpusFolder()

/** An answer, its body parsed where it is JSON. */
export interface Answer {
  readonly status: number
  readonly type: string
  readonly headers: Readonly<Record<string, string | undefined>>
  readonly body: unknown
}

/** A request for both. */
export interface Asked {
  readonly method: 'GET' | 'POST' | 'PUT' | 'DELETE'
  readonly path: string
  readonly body?: string | Uint8Array
  readonly headers?: Readonly<Record<string, string>>
}

export interface OrthancPair extends StoreApp {
  /** Of each instance that both have, in order of arrival. */
  readonly instances: readonly { ID: string; ParentSeries: string; ParentStudy: string; ParentPatient: string }[]
  ours(asked: Asked): Promise<Answer>
  theirs(asked: Asked): Promise<Answer>
  /** Asks both the same; fails when status, media type or body differ, but for what `comparable` takes away. */
  same(asked: Asked | string, comparable?: (body: unknown) => unknown): Promise<Answer>
  /** Sends a file to both. */
  both(bytes: Uint8Array): Promise<void>
}

/** What differs always: when it arrived, how Orthanc names its files, and what depends on the time that passed. */
const ownFields = new Set(['LastUpdate', 'FileUuid', 'IsStable', 'ReceptionDate', 'Uuid', 'Labels', 'IsProtected'])

/** A body without the fields that differ always; lists of ids in one order. */
export function withoutOwn(body: unknown): unknown {
  if (Array.isArray(body)) {
    const items = body.map(withoutOwn)
    if (items.every(item => typeof item === 'string')) return items.sort()
    return items.every(item => isObject(item) && 'ID' in item && !('Seq' in item)) ? items.sort(byId) : items
  }
  if (!isObject(body)) return body
  return Object.fromEntries(
    Object.entries(body)
      .filter(([key]) => !ownFields.has(key))
      .map(([key, value]) => [key, withoutOwn(value)]),
  )
}

const byId = (one: unknown, other: unknown): number => (idOf(one) < idOf(other) ? -1 : 1)
const idOf = (item: unknown): string => (isObject(item) ? String(item['ID']) : '')

/** Starts both with a few files of each kind, small ones. */
export async function orthancPair(
  t: TestContext,
  options: { settings?: Record<string, unknown>; files?: readonly Uint8Array[] } = {},
): Promise<OrthancPair> {
  const [peer, app] = [await startOrthanc(t, {}, { StableAge: 3600, ...options.settings }), await storeApp(t)]
  const instances: OrthancPair['instances'][number][] = []
  const answerOf = (status: number, headers: Record<string, string | undefined>, bytes: Uint8Array): Answer => {
    const type = headers['content-type']?.split(';')[0] ?? ''
    const text = Buffer.from(bytes).toString('utf8')
    const isJson = type.endsWith('json') && text !== ''
    const isText = type.startsWith('text/')
    return {
      status,
      type,
      headers,
      body: isJson ? JSON.parse(text) : isText ? text : Buffer.from(bytes).toString('latin1'),
    }
  }
  const theirs = async ({ method, path, body, headers }: Asked): Promise<Answer> => {
    const answer = await fetch(`${peer.url}${path}`, {
      method,
      ...(body !== undefined && { body: Buffer.from(body) }),
      ...(headers && { headers }),
    })
    return answerOf(answer.status, Object.fromEntries(answer.headers), new Uint8Array(await answer.arrayBuffer()))
  }
  const ours = async ({ method, path, body, headers }: Asked): Promise<Answer> => {
    const answer = await app.app.inject({
      method,
      url: path,
      headers: { host: 'localhost', ...headers },
      ...(body !== undefined && { payload: Buffer.from(body) }),
    })
    const own = Object.fromEntries(
      Object.entries(answer.headers).map(([name, value]) => [name, value === undefined ? value : String(value)]),
    )
    return answerOf(answer.statusCode, own, answer.rawPayload)
  }
  const both = async (bytes: Uint8Array): Promise<void> => {
    const asked = { method: 'POST', path: '/instances', body: bytes } as const
    const [expected, seen] = [await theirs(asked), await ours(asked)]
    assert.equal(seen.status, expected.status)
    const { ID, ParentSeries, ParentStudy, ParentPatient } = isObject(seen.body) ? seen.body : {}
    instances.push({
      ID: String(ID),
      ParentSeries: String(ParentSeries),
      ParentStudy: String(ParentStudy),
      ParentPatient: String(ParentPatient),
    })
  }
  for (const bytes of options.files ?? someFiles()) await both(bytes)
  return {
    ...app,
    instances,
    ours,
    theirs,
    both,
    async same(what, comparable = body => body) {
      const asked = typeof what === 'string' ? ({ method: 'GET', path: what } as const) : what
      const [expected, seen] = [await theirs(asked), await ours(asked)]
      const say = `${asked.method} ${asked.path} ${asked.body ?? ''}`
      assert.equal(seen.status, expected.status, say)
      if (expected.status >= 400) {
        if (isObject(seen.body) && isObject(expected.body)) {
          for (const field of ['HttpStatus', 'Method', 'Uri']) assert.equal(seen.body[field], expected.body[field], say)
        }
        return seen
      }
      assert.equal(seen.type, expected.type, say)
      assert.deepEqual(comparable(withoutOwn(seen.body)), comparable(withoutOwn(expected.body)), say)
      return seen
    },
  }
}

/** Files in which both decoders see the same: no foreign issuer, no character set that Orthanc 1.10 does not decode. */
function someFiles(): Uint8Array[] {
  const series = [1, 2, 3].map(
    seed =>
      buildInstance({
        seed,
        studyInstanceUid: '1.2.3.4',
        seriesInstanceUid: '1.2.3.4.5',
        patientId: 'ONE',
        patientName: 'TEST^ONE',
        extra: [{ tag: 0x00080050, vr: 'SH', value: ['A1'] }],
      }).bytes,
  )
  if (!existsSync(samples)) return [...series, ...[4, 5].map(seed => buildInstance({ seed }).bytes)]
  const names = ['series/mr-128slices-pacsman', 'series/mr-mini-jpeg2000', 'series/ct-chest-lidc'].flatMap(folder =>
    globSync('*.dcm', { cwd: join(samples, folder) })
      .sort()
      .slice(0, 3)
      .map(file => join(folder, file)),
  )
  names.push('modalities/US/dicom-test-files__color-px.dcm', 'non-image/weasis-dicom-tools__prLUTs.dcm')
  return [
    ...series,
    ...names.filter(name => existsSync(join(samples, name))).map(name => readFileSync(join(samples, name))),
  ]
}
