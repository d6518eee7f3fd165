/**
 * What Orthanc's bodies say about a modification: `Replace`, `Remove`, `Keep` and their companions, with the rules that
 * keep a hierarchy sound. The body itself is what a job is made again from.
 */
import { isObject } from '../decode.ts'
import type { Modification, NewValue } from '../dicom/modification.ts'
import type { Tag } from '../dicom/tag.ts'
import { readTagName, readTagPath, type TagPath } from '../dicom/tag-path.ts'
import { isUid, transferSyntax } from '../dicom/uid.ts'
import { GatewayError } from '../errors.ts'
import type { Level } from '../store/query.ts'

/** The unique keys of the hierarchy. */
export const keyTags = {
  patient: 0x00100020,
  study: 0x0020000d,
  series: 0x0020000e,
  instance: 0x00080018,
} as const satisfies Record<Level, Tag>

const levels = ['patient', 'study', 'series', 'instance'] as const

/** A modification as asked for, its keys apart from the other tags. */
export interface ModifyRequest {
  readonly modification: Modification
  /** Keys that get these values. */
  readonly keys: Readonly<Partial<Record<Level, string>>>
  /** Keys that stay as they are. */
  readonly kept: ReadonlySet<Level>
  /** All tags that are to stay, the keys among them. */
  readonly keep: readonly TagPath[]
  /** Identifiers are set by hand. */
  readonly force: boolean
  readonly keepSource: boolean
  /** UID of the transfer syntax to write in. */
  readonly transcode: string | undefined
  /** Of JPEG with loss, 1 to 100. */
  readonly lossyQuality: number | undefined
}

const maxEdits = 10_000
const maxDepth = 16

/**
 * Reads a body.
 *
 * @throws GatewayError BAD_REQUEST naming the field, without its value
 */
export function readModifyRequest(body: unknown): ModifyRequest {
  if (!isObject(body)) throw bad('expected a JSON object')
  const force = readFlag(body, 'Force') ?? false
  const remove = readForcedPaths(body, 'Remove', force, 'removed')
  const keep = readForcedPaths(body, 'Keep', force, 'kept')
  const replace = readReplacements(body, force)
  const keys: Partial<Record<Level, string>> = {}
  for (const level of levels) {
    if (remove.some(path => isKey(path, level))) throw bad('the identifiers of the hierarchy cannot be removed')
    const found = replace.findLast(({ path }) => isKey(path, level))
    if (found) keys[level] = keyValue(level, found.value, force)
  }
  return {
    modification: {
      remove,
      replace: replace.filter(({ path }) => !levels.some(level => isKey(path, level))),
      removePrivateTags: readFlag(body, 'RemovePrivateTags') ?? false,
      privateCreator: readText(body, 'PrivateCreator'),
    },
    keys,
    keep,
    kept: new Set(levels.filter(level => keep.some(path => isKey(path, level)))),
    force,
    keepSource: readFlag(body, 'KeepSource') ?? true,
    transcode: readTranscode(body),
    lossyQuality: readLossyQuality(body),
  }
}

/**
 * Orthanc's rules about a level's own key and those above it: a patient gets a new id, and nothing else a new parent.
 *
 * @throws GatewayError BAD_REQUEST
 */
export function assertLevel({ keys, force }: Pick<ModifyRequest, 'keys' | 'force'>, level: Level): void {
  if (level === 'patient' && keys.patient === undefined)
    throw bad('when modifying a patient, the PatientID is required to be modified')
  if (level === 'instance') return
  for (const above of levels.slice(0, levels.indexOf(level))) {
    if (keys[above] !== undefined) throw bad(`when modifying a ${level}, the key of its ${above} cannot be modified`)
  }
  for (const below of levels.slice(levels.indexOf(level) + 1)) {
    if (keys[below] !== undefined && !force)
      throw bad(`when modifying a ${level}, the key of its ${below} cannot be modified without "Force"`)
  }
}

/** The level that a bulk modification works on: as asked for, else that of the highest key that is replaced. */
export function bulkLevel(body: unknown, { keys }: Pick<ModifyRequest, 'keys'>): Level {
  const asked = isObject(body) ? body['Level'] : undefined
  if (asked === undefined) return levels.find(level => keys[level] !== undefined) ?? 'instance'
  const level = readLevel(asked)
  if (!level) throw bad('Level: expected Patient, Study, Series or Instance')
  return level
}

/** A level by Orthanc's name of it, in any case; undefined for anything else. */
export function readLevel(name: unknown): Level | undefined {
  return typeof name === 'string' ? levels.find(level => level === name.toLowerCase()) : undefined
}

/** @throws GatewayError BAD_REQUEST unless it is a list of ids */
export function readIds(body: unknown, field: string): string[] {
  const list = isObject(body) ? body[field] : undefined
  if (!Array.isArray(list) || list.length > maxEdits) throw bad(`${field}: expected a list of strings`)
  return list.map((id: unknown) => {
    if (typeof id !== 'string' || id.length > 64) throw bad(`${field}: expected a list of strings`)
    return id
  })
}

/** @throws GatewayError BAD_REQUEST for anything but true and false */
export function readFlag(body: Readonly<Record<string, unknown>>, field: string): boolean | undefined {
  const value = body[field]
  if (value === undefined || typeof value === 'boolean') return value
  throw bad(`${field}: expected true or false`)
}

/** @throws GatewayError BAD_REQUEST for anything but text */
export function readText(body: Readonly<Record<string, unknown>>, field: string): string | undefined {
  const value = body[field]
  if (value === undefined || typeof value === 'string') return value
  throw bad(`${field}: expected a string`)
}

/**
 * Values of tags by their names or paths.
 *
 * @param binary  whether data URIs are bytes or text
 * @throws GatewayError BAD_REQUEST
 */
export function readTagValues(
  raw: unknown,
  field: string,
  binary: 'decoded' | 'kept' = 'decoded',
): { path: TagPath; value: NewValue }[] {
  if (!isObject(raw)) throw bad(`${field}: expected an object`)
  const entries = Object.entries(raw)
  if (entries.length > maxEdits) throw bad(`${field}: expected at most ${maxEdits} tags`)
  return entries.map(([name, value]) => ({ path: readTagPath(name), value: readValue(value, name, binary, 0) }))
}

/** A list of tags by their names or paths; none where the field is missing. @throws GatewayError BAD_REQUEST */
export function readPaths(body: Readonly<Record<string, unknown>>, field: string): TagPath[] {
  const list = body[field]
  if (list === undefined) return []
  if (!Array.isArray(list) || list.length > maxEdits) throw bad(`${field}: expected a list of tags`)
  return list.map((name: unknown) => {
    if (typeof name !== 'string') throw bad(`${field}: expected a list of tags`)
    return readTagPath(name)
  })
}

function readForcedPaths(body: Record<string, unknown>, field: string, force: boolean, what: string): TagPath[] {
  const paths = readPaths(body, field)
  for (const path of paths) assertForced(path, force, what)
  return paths
}

function readReplacements(body: Record<string, unknown>, force: boolean) {
  if (body['Replace'] === undefined) return []
  const replace = readTagValues(body['Replace'], 'Replace')
  for (const { path } of replace) assertForced(path, force, 'replaced')
  return replace
}

function assertForced(path: TagPath, force: boolean, what: string): void {
  if (force) return
  const level = levels.find(key => isKey(path, key))
  if (level) throw bad(`marking the key of a ${level} as to be ${what} requires the "Force" option to be set to true`)
}

const isKey = ({ within, tag }: TagPath, level: Level): boolean => within.length === 0 && tag === keyTags[level]

/** A UID; who forces it may have any word in its place, as Orthanc lets them. */
function keyValue(level: Level, value: NewValue, force: boolean): string {
  const text = typeof value === 'string' ? value.trim() : ''
  const isKeyOf = level === 'patient' ? isPatientId : force ? isUidLike : isUid
  if (!isKeyOf(text)) throw bad(`Replace: expected ${level === 'patient' ? 'a patient id' : `the UID of a ${level}`}`)
  return text
}

const isPatientId = (text: string): boolean => text.length <= 64 && !text.includes('\\')
const isUidLike = (text: string): boolean => /^[ -[\]-~]{1,64}$/.test(text)

function readValue(raw: unknown, name: string, binary: 'decoded' | 'kept', depth: number): NewValue {
  if (raw === null) return ''
  if (typeof raw === 'string') return (binary === 'decoded' ? dataOf(raw) : undefined) ?? raw
  if (!Array.isArray(raw) || depth >= maxDepth || raw.length > maxEdits) throw bad(`${name}: bad type of a value`)
  return raw.map((item: unknown) => {
    if (!isObject(item)) throw bad(`${name}: expected a list of items`)
    return Object.entries(item).map(([key, value]) => ({
      tag: readTagName(key),
      value: readValue(value, key, binary, depth + 1),
    }))
  })
}

/** The bytes of a data URI (RFC 2397) in base64; undefined for other text. */
function dataOf(text: string): Uint8Array | undefined {
  const match = /^data:[\w.+/-]*;base64,([A-Za-z0-9+/\s]*={0,2})$/.exec(text)
  return match ? Buffer.from(match[1] ?? '', 'base64') : undefined
}

/** `LossyQuality`, as newer Orthancs have it. @throws GatewayError BAD_REQUEST unless it is a number of 1 to 100 */
export function readLossyQuality(body: Readonly<Record<string, unknown>>): number | undefined {
  const value = body['LossyQuality']
  if (value === undefined) return undefined
  if (typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= 100) return value
  throw bad('LossyQuality: expected a whole number of 1 to 100')
}

function readTranscode(body: Record<string, unknown>): string | undefined {
  const uid = readText(body, 'Transcode')
  if (uid !== undefined && !transferSyntax(uid)) throw bad('Transcode: expected a transfer syntax')
  return uid
}

const bad = (message: string): GatewayError => new GatewayError('BAD_REQUEST', message)
