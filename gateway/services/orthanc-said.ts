/** What an Orthanc says of its resources: metadata, labels, attachments, protection; of a running one, or of its folder. */
import { join } from 'node:path'
import { isObject } from '../decode.ts'
import { GatewayError, isGatewayError } from '../errors.ts'
import { systemMetadata } from '../store/metadata.ts'
import type { Level } from '../store/query.ts'
import {
  bytesOf,
  idPages,
  md5In,
  openIndex,
  openStored,
  orthancId,
  pageSize,
  uuidName,
  verified,
} from './orthanc-source.ts'
import { callRest, type RestTarget, readJson } from './rest-client.ts'

/** Everything that is said of one resource. */
export interface Said {
  /** Numbers and values, as they were set or known there. */
  readonly metadata: readonly { readonly name: number; readonly value: string }[]
  readonly labels: readonly string[]
  readonly attachments: readonly SaidAttachment[]
  /** Of a patient. */
  readonly isProtected: boolean
}

/** A file beside a resource. */
export interface SaidAttachment {
  readonly name: number
  /** Of its content, as hex; undefined where Orthanc keeps none. */
  readonly md5: string | undefined
  /** Its content; throws at the end when it is not what the MD5 says. */
  open(signal: AbortSignal): Promise<AsyncIterable<Uint8Array>>
}

/** Where it is read. */
export interface SaidSource {
  /** Orthanc's ids of a level, some hundred at a time. */
  pages(level: Level, signal: AbortSignal): AsyncIterable<readonly string[]>
  /** @throws GatewayError NOT_FOUND when it is gone, or where a name is used that nobody has registered */
  said(level: Level, id: string, signal: AbortSignal): Promise<Said>
  close(): void
}

/** The first number of users' metadata and attachments. */
const firstOfUsers = 1024
const paths: Readonly<Record<Level, string>> = {
  patient: 'patients',
  study: 'studies',
  series: 'series',
  instance: 'instances',
}

/**
 * A running Orthanc. Labels are asked for until it says that it does not know them: versions before 1.12.0.
 *
 * @param registered  numbers of users' metadata, where Orthanc itself does not tell them (before 1.12.0)
 */
export function restSaid(target: RestTarget, registered: Readonly<Record<string, number>>): SaidSource {
  const get = async (path: string, signal: AbortSignal): Promise<unknown> => {
    const answer = await callRest(target, { method: 'GET', path }, signal)
    if (answer.statusCode !== 404) return await readJson(answer, 'Orthanc')
    answer.destroy()
    throw new GatewayError('NOT_FOUND', 'Orthanc does not have the resource')
  }
  let names: Promise<ReadonlyMap<string, number>> | undefined
  let hasLabels = true

  const allNames = async (signal: AbortSignal): Promise<ReadonlyMap<string, number>> => {
    const system = await get('/system', signal)
    const told = isObject(system) && isObject(system['UserMetadata']) ? numbersIn(system['UserMetadata']) : []
    return new Map([...Object.entries(systemMetadata), ...Object.entries(registered), ...told])
  }
  const labelsOf = async (path: string, signal: AbortSignal): Promise<string[]> => {
    if (!hasLabels) return []
    try {
      const labels = await get(`${path}/labels`, signal)
      return Array.isArray(labels) ? labels.filter(label => typeof label === 'string') : []
    } catch (error) {
      if (!isGatewayError(error, 'NOT_FOUND')) throw error
      hasLabels = false
      return []
    }
  }

  return {
    pages: (level, signal) => idPages(target, paths[level], signal),
    async said(level, id, signal) {
      const path = `/${paths[level]}/${id}`
      names ??= allNames(signal)
      const known = await names
      const set = await get(`${path}/metadata?expand`, signal)
      const metadata = Object.entries(isObject(set) ? set : {}).flatMap(([name, value]) =>
        typeof value === 'string' ? [{ name: known.get(name) ?? numberIn(name), value }] : [],
      )
      const files = await get(`${path}/attachments?full`, signal)
      const attachments: SaidAttachment[] = []
      for (const [, name] of numbersIn(isObject(files) ? files : {})) {
        if (name < firstOfUsers) continue
        const file = `${path}/attachments/${name}`
        const md5 = await md5In(await callRest(target, { method: 'GET', path: `${file}/md5` }, signal))
        attachments.push({
          name,
          md5,
          open: async stop => verified(await bytesOf(target, `${file}/data`, stop), md5),
        })
      }
      const isProtected = level === 'patient' && (await get(`${path}/protected`, signal)) === 1
      return { metadata, labels: await labelsOf(path, signal), attachments, isProtected }
    },
    close: () => undefined,
  }
}

function numbersIn(given: Readonly<Record<string, unknown>>): [string, number][] {
  return Object.entries(given).flatMap(([name, number]): [string, number][] =>
    typeof number === 'number' && Number.isInteger(number) ? [[name, number]] : [],
  )
}

function numberIn(name: string): number {
  if (/^\d{1,5}$/.test(name)) return Number(name)
  const message = `the metadata "${name}" has no number here: register it under orthanc.userMetadata as Orthanc does`
  throw new GatewayError('NOT_FOUND', message)
}

const resourceTypes: Readonly<Record<Level, number>> = { patient: 1, study: 2, series: 3, instance: 4 }

/** The storage folder of a stopped Orthanc. @throws GatewayError BAD_REQUEST when its index cannot be read */
export function storageSaid(folder: string): SaidSource {
  const index = openIndex(join(folder, 'index'))
  const page = index.prepare(
    'select publicId from Resources where resourceType = ? and publicId > ? order by publicId limit ?',
  )
  const one = index.prepare('select internalId from Resources where resourceType = ? and publicId = ?')
  const metadataOf = index.prepare('select type, value from Metadata where id = ? order by type')
  const filesOf = index.prepare(
    `select fileType, uuid, compressionType, uncompressedSize, uncompressedMD5 from AttachedFiles
      where id = ? and fileType >= ? order by fileType`,
  )
  const unprotected = index.prepare('select 1 from PatientRecyclingOrder where patientId = ?')
  const hasLabels = index.prepare("select 1 from sqlite_master where type = 'table' and name = 'Labels'").get()
  const labelsOf = hasLabels && index.prepare('select label from Labels where id = ? order by label')
  return {
    async *pages(level, signal) {
      for (let last = ''; ; ) {
        signal.throwIfAborted()
        const rows = page.all(resourceTypes[level], last, pageSize)
        const ids = rows.flatMap(({ publicId }) => (typeof publicId === 'string' ? [publicId] : []))
        if (ids.length === 0) return
        last = ids.at(-1) ?? ''
        yield ids.filter(id => orthancId.test(id))
      }
    },
    async said(level, id) {
      const key = one.get(resourceTypes[level], id)?.['internalId']
      if (typeof key !== 'number') throw new GatewayError('NOT_FOUND', `no such ${level}`)
      const metadata = metadataOf
        .all(key)
        .flatMap(({ type, value }) =>
          typeof type === 'number' && typeof value === 'string' ? [{ name: type, value }] : [],
        )
      const labels = labelsOf?.all(key).flatMap(({ label }) => (typeof label === 'string' ? [label] : [])) ?? []
      const attachments = filesOf.all(key, firstOfUsers).flatMap((row): SaidAttachment[] => {
        const { fileType: name, uuid, uncompressedMD5: md5 } = row
        if (typeof name !== 'number' || typeof uuid !== 'string' || !uuidName.test(uuid)) return []
        const open = async () => await openStored(folder, uuid, row)
        return [{ name, md5: typeof md5 === 'string' ? md5 : undefined, open }]
      })
      return { metadata, labels, attachments, isProtected: level === 'patient' && !unprotected.get(key) }
    },
    close: () => index.close(),
  }
}
