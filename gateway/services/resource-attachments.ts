/**
 * Attachments of resources: files beside the images, blobs like these. `dicom` is the instance's own file; its bytes
 * are never rewritten, what "compressed" means for it is a second, compressed copy.
 */

import { createHash, type Hash, randomUUID } from 'node:crypto'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createDeflate, createInflate } from 'node:zlib'
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import type { Db, Tx } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { Blobs, OpenBlob } from '../store/blobs.ts'
import { recordChanges } from '../store/changes.ts'
import { findResource, type ResourceRow } from '../store/hierarchy.ts'
import { auditResource } from './resource-audit.ts'
import { checkSeen, type ResourceName, type SeenRevision } from './resource-metadata.ts'

/** Number of the attachment that is the instance's own file. */
export const dicomAttachment = 1
/** The first number that users may set, and the last. */
const userAttachments = { first: 1024, last: 65_535 } as const

/** An attachment as it is stored, and as it is uncompressed. */
export interface Attachment {
  readonly name: number
  readonly uuid: string
  readonly revision: number
  readonly isCompressed: boolean
  /** Of the stored bytes. */
  readonly fileSha256: Buffer
  readonly sizeBytes: number
  /** MD5 as hex; undefined for the instance's own file, of which nobody has asked it. */
  readonly storedMd5: string | undefined
  readonly contentBytes: number
  readonly contentMd5: string | undefined
}

/** An attachment's bytes; the caller ends or closes them. */
export interface OpenAttachment {
  readonly attachment: Attachment
  readonly bytes: AsyncGenerator<Uint8Array, void, void>
  readonly sizeBytes: number
}

/** What is attached to resources. */
export interface ResourceAttachments {
  /** Numbers in ascending order. @throws GatewayError NOT_FOUND */
  list(resource: ResourceName): Promise<readonly number[]>
  /** With the digests of an instance's own file of up to `digestsUpTo` bytes, 0 by default. @throws GatewayError NOT_FOUND */
  get(resource: ResourceName, name: number, options?: { readonly digestsUpTo?: number }): Promise<Attachment>
  /** Opens it uncompressed (`content`) or as it is stored; audited. @throws GatewayError NOT_FOUND, STORAGE_CORRUPT */
  open(principal: Principal, resource: ResourceName, name: number, form: 'content' | 'stored'): Promise<OpenAttachment>
  /**
   * Attaches bytes of a user's number, durable when it returns.
   *
   * @param seen  what the writer has seen, to replace only that
   * @throws GatewayError NOT_FOUND, FORBIDDEN, STATE_CONFLICT, TOO_LARGE, STORAGE_FULL
   */
  put(
    principal: Principal,
    resource: ResourceName,
    name: number,
    content: {
      readonly bytes: AsyncIterable<Uint8Array>
      readonly expectedBytes?: number
      readonly seen?: SeenRevision | undefined
    },
  ): Promise<Attachment>
  /** @throws GatewayError NOT_FOUND, FORBIDDEN, STATE_CONFLICT */
  remove(principal: Principal, resource: ResourceName, name: number, seen?: SeenRevision): Promise<void>
  /** Stores it compressed or not. @throws GatewayError NOT_FOUND */
  setCompressed(principal: Principal, resource: ResourceName, name: number, isCompressed: boolean): Promise<void>
  /** Are the stored bytes what they were? @throws GatewayError NOT_FOUND */
  verify(resource: ResourceName, name: number): Promise<boolean>
}

interface Row {
  readonly name: number
  readonly uuid: string
  readonly revision: number
  readonly isCompressed: boolean
  readonly fileSha256: Buffer
  readonly sizeBytes: number
  readonly storedMd5: string
  readonly contentBytes: number
  readonly contentMd5: string
}

/** What precedes the compressed bytes: the size of the content, eight bytes, little endian. */
const sizeHeaderBytes = 8
const chunkBytes = 256 * 1024

export function openResourceAttachments(options: {
  readonly db: Db
  readonly blobs: Blobs
  readonly limitBytes: number
  readonly requireSeen?: boolean
}): ResourceAttachments {
  const { db, blobs, limitBytes, requireSeen = false } = options

  const need = async (handle: Db | Tx, { level, orthancId }: ResourceName): Promise<ResourceRow> => {
    const row = await findResource(handle, level, orthancId)
    if (!row) throw new GatewayError('NOT_FOUND', `no such ${level}`)
    return row
  }

  const load = async (row: ResourceRow, name: number): Promise<Attachment> => {
    const stored = await selectRow(db.kysely, row, name)
    if (row.level !== 'instance' || name !== dicomAttachment) {
      if (!stored) throw new GatewayError('NOT_FOUND', 'no such attachment')
      return stored
    }
    const own = await ownFile(db, row)
    if (!stored) return own
    // The compressed copy of the instance's own file.
    const { isCompressed, fileSha256, sizeBytes, storedMd5 } = stored
    return { ...own, isCompressed, fileSha256, sizeBytes, storedMd5, contentMd5: stored.contentMd5 }
  }

  /** Writes bytes to a blob and answers what it is; the caller releases it after its row is committed or given up. */
  const store = async (bytes: AsyncIterable<Uint8Array>, expectedBytes: number | undefined) => {
    const md5 = createHash('md5')
    const staged = await blobs.stageFrom(measured(bytes, md5, limitBytes), {
      ...(expectedBytes !== undefined && { expectedBytes }),
    })
    await blobs.commit(staged)
    return { fileSha256: staged.fileSha256, sizeBytes: staged.sizeBytes, md5: md5.digest('hex') }
  }

  const open = async (attachment: Attachment, form: 'content' | 'stored'): Promise<OpenAttachment> => {
    const blob = await blobs.open(attachment.fileSha256)
    const isInflated = form === 'content' && attachment.isCompressed
    return {
      attachment,
      bytes: isInflated ? inflated(blob, attachment.contentBytes) : whole(blob, 0),
      sizeBytes: isInflated ? attachment.contentBytes : blob.sizeBytes,
    }
  }

  return {
    async list(resource) {
      const row = await need(db, resource)
      const { rows } = await sql<{ name: number }>`
        select name from resource_attachments where level = ${row.level} and resource = ${row.id} order by name
      `.execute(db.kysely)
      const names = new Set(rows.map(each => each.name))
      if (row.level === 'instance') names.add(dicomAttachment)
      return [...names].sort((one, other) => one - other)
    },

    async get(resource, name, { digestsUpTo = 0 } = {}) {
      const attachment = await load(await need(db, resource), name)
      if (attachment.contentMd5 !== undefined || attachment.contentBytes > digestsUpTo) return attachment
      const md5 = await md5OfAll((await open(attachment, 'content')).bytes)
      return { ...attachment, contentMd5: md5, storedMd5: attachment.storedMd5 ?? md5 }
    },

    async open(principal, resource, name, form) {
      authorize(principal, 'study.read')
      const row = await need(db, resource)
      const attachment = await load(row, name)
      await db.inTransaction(tx =>
        auditResource(tx, principal, row, { action: 'R', reason: 'attachment', detail: { attachment: name } }),
      )
      return await open(attachment, form)
    },

    async put(principal, resource, name, { bytes, expectedBytes, seen }) {
      authorize(principal, 'study.annotate')
      checkName(name)
      await need(db, resource)
      const { fileSha256, sizeBytes, md5 } = await store(bytes, expectedBytes)
      try {
        return await db.inTransaction(async tx => {
          const row = await need(tx, resource)
          const before = await selectRow(tx, row, name, 'for update')
          checkSeen(before && { revision: before.revision, md5: before.contentMd5 }, seen, requireSeen)
          const uuid = randomUUID()
          const revision = (before?.revision ?? -1) + 1
          const attachment = {
            name,
            uuid,
            revision,
            isCompressed: false,
            fileSha256,
            sizeBytes,
            storedMd5: md5,
            contentBytes: sizeBytes,
            contentMd5: md5,
          }
          await upsertRow(tx, row, attachment)
          await noteRemoved(tx, before)
          await recordChanges(tx, [{ kind: 'UpdatedAttachment', level: row.level, orthancId: row.orthancId }])
          await auditResource(tx, principal, row, {
            action: 'U',
            reason: 'attachment',
            detail: { attachment: name, sizeBytes },
          })
          return attachment
        })
      } finally {
        blobs.release(fileSha256)
      }
    },

    async remove(principal, resource, name, seen) {
      authorize(principal, 'study.annotate')
      checkName(name)
      await db.inTransaction(async tx => {
        const row = await need(tx, resource)
        const before = await selectRow(tx, row, name, 'for update')
        if (!before) throw new GatewayError('NOT_FOUND', 'no such attachment')
        checkSeen({ revision: before.revision, md5: before.contentMd5 }, seen, requireSeen)
        await deleteRow(tx, row, name)
        await noteRemoved(tx, before)
        await recordChanges(tx, [{ kind: 'UpdatedAttachment', level: row.level, orthancId: row.orthancId }])
        await auditResource(tx, principal, row, {
          action: 'D',
          reason: 'attachment-removed',
          detail: { attachment: name },
        })
      })
    },

    async setCompressed(principal, resource, name, isCompressed) {
      authorize(principal, 'study.annotate')
      const row = await need(db, resource)
      const before = await load(row, name)
      if (before.isCompressed === isCompressed) return
      const isOwn = row.level === 'instance' && name === dicomAttachment
      if (isOwn && !isCompressed) {
        await db.inTransaction(async tx => {
          await deleteRow(tx, row, name)
          await noteRemoved(tx, before)
          await auditResource(tx, principal, row, {
            action: 'U',
            reason: 'attachment-uncompressed',
            detail: { attachment: name },
          })
        })
        return
      }
      const content = createHash('md5')
      const { bytes } = await open(before, 'content')
      const { fileSha256, sizeBytes, md5 } = await store(
        isCompressed
          ? deflated(measured(bytes, content, limitBytes), before.contentBytes)
          : measured(bytes, content, limitBytes),
        undefined,
      )
      try {
        const contentMd5 = content.digest('hex')
        if (before.contentMd5 !== undefined && before.contentMd5 !== contentMd5) {
          throw new GatewayError('STORAGE_CORRUPT', 'the bytes of an attachment are not what they were')
        }
        await db.inTransaction(async tx => {
          const now = await selectRow(tx, row, name, 'for update')
          if (!isOwn && now?.uuid !== before.uuid)
            throw new GatewayError('STATE_CONFLICT', 'it was changed by somebody else meanwhile')
          await upsertRow(tx, row, { ...before, isCompressed, fileSha256, sizeBytes, storedMd5: md5, contentMd5 })
          await noteRemoved(tx, now)
          await auditResource(tx, principal, row, {
            action: 'U',
            reason: isCompressed ? 'attachment-compressed' : 'attachment-uncompressed',
            detail: { attachment: name },
          })
        })
      } finally {
        blobs.release(fileSha256)
      }
    },

    async verify(resource, name) {
      const attachment = await load(await need(db, resource), name)
      const sha256 = createHash('sha256')
      for await (const chunk of (await open(attachment, 'stored')).bytes) sha256.update(chunk)
      return sha256.digest().equals(attachment.fileSha256)
    },
  }
}

function checkName(name: number): void {
  if (name < userAttachments.first || name > userAttachments.last) {
    throw new GatewayError('FORBIDDEN', 'this attachment is not for users to change')
  }
}

/** The file of an instance as an attachment. */
async function ownFile(db: Db, row: ResourceRow): Promise<Attachment> {
  const { rows } = await sql<{ fileSha256: Buffer; sizeBytes: number }>`
    select file_sha256 as "fileSha256", size_bytes as "sizeBytes" from instances where id = ${row.id}
  `.execute(db.kysely)
  const [file] = rows
  if (!file) throw new GatewayError('NOT_FOUND', 'no such instance')
  return {
    name: dicomAttachment,
    uuid: uuidOfFile(file.fileSha256),
    revision: 0,
    isCompressed: false,
    ...file,
    storedMd5: undefined,
    contentBytes: file.sizeBytes,
    contentMd5: undefined,
  }
}

/** A UUID made of the file's digest: equal files have equal ones. */
export function uuidOfFile(sha256: Buffer): string {
  return sha256.toString('hex', 0, 16).replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
}

async function selectRow(
  handle: Db['kysely'],
  { level, id }: ResourceRow,
  name: number,
  lock?: 'for update',
): Promise<Row | undefined> {
  const { rows } = await sql<Row>`
    select name, uuid, revision, is_compressed as "isCompressed", file_sha256 as "fileSha256", size_bytes as "sizeBytes",
           stored_md5 as "storedMd5", content_bytes as "contentBytes", content_md5 as "contentMd5"
      from resource_attachments where level = ${level} and resource = ${id} and name = ${name}
      ${lock ? sql`for update` : sql``}
  `.execute(handle)
  return rows[0]
}

async function upsertRow(
  tx: Tx,
  { level, id }: ResourceRow,
  row: Omit<Row, 'storedMd5'> & { readonly storedMd5: string },
): Promise<void> {
  await sql`
    insert into resource_attachments (level, resource, name, uuid, revision, is_compressed, file_sha256, size_bytes,
      stored_md5, content_bytes, content_md5)
    values (${level}, ${id}, ${row.name}, ${row.uuid}, ${row.revision}, ${row.isCompressed}, ${row.fileSha256},
      ${row.sizeBytes}, ${row.storedMd5}, ${row.contentBytes}, ${row.contentMd5})
    on conflict (level, resource, name) do update set uuid = excluded.uuid, revision = excluded.revision,
      is_compressed = excluded.is_compressed, file_sha256 = excluded.file_sha256, size_bytes = excluded.size_bytes,
      stored_md5 = excluded.stored_md5, content_bytes = excluded.content_bytes, content_md5 = excluded.content_md5
  `.execute(tx)
}

async function deleteRow(tx: Tx, { level, id }: ResourceRow, name: number): Promise<void> {
  await sql`delete from resource_attachments where level = ${level} and resource = ${id} and name = ${name}`.execute(tx)
}

/** Its bytes go after a while, unless another row names them. */
async function noteRemoved(tx: Tx, before: Pick<Attachment, 'fileSha256'> | undefined): Promise<void> {
  if (!before) return
  await sql`
    insert into removed_blobs (file_sha256) values (${before.fileSha256})
    on conflict (file_sha256) do update set removed_at = now()
  `.execute(tx)
}

/** The same chunks, hashed and bounded on their way. */
async function* measured(
  chunks: AsyncIterable<Uint8Array>,
  hash: Hash,
  limitBytes: number,
): AsyncGenerator<Uint8Array> {
  let seen = 0
  for await (const chunk of chunks) {
    seen += chunk.length
    if (seen > limitBytes) throw new GatewayError('TOO_LARGE', `expected at most ${limitBytes} bytes`)
    hash.update(chunk)
    yield chunk
  }
}

async function md5OfAll(chunks: AsyncIterable<Uint8Array>): Promise<string> {
  const hash = createHash('md5')
  for await (const chunk of chunks) hash.update(chunk)
  return hash.digest('hex')
}

/** A blob from a place on, in chunks; closed at the end. */
async function* whole(blob: OpenBlob, from: number): AsyncGenerator<Uint8Array, void, void> {
  try {
    for (let at = from; at < blob.sizeBytes; ) {
      const bytes = await blob.read(at, Math.min(chunkBytes, blob.sizeBytes - at))
      if (bytes.length === 0) throw new GatewayError('STORAGE_CORRUPT', 'a blob became shorter while it was read')
      yield Buffer.from(bytes)
      at += bytes.length
    }
  } finally {
    await blob.close()
  }
}

async function* deflated(content: AsyncIterable<Uint8Array>, contentBytes: number): AsyncGenerator<Uint8Array> {
  const header = Buffer.alloc(sizeHeaderBytes)
  header.writeBigUInt64LE(BigInt(contentBytes))
  yield header
  yield* throughZlib(content, createDeflate())
}

async function* inflated(blob: OpenBlob, contentBytes: number): AsyncGenerator<Uint8Array, void, void> {
  let seen = 0
  for await (const chunk of throughZlib(whole(blob, sizeHeaderBytes), createInflate())) {
    seen += chunk.length
    if (seen > contentBytes) break
    yield chunk
  }
  if (seen !== contentBytes) throw new GatewayError('STORAGE_CORRUPT', 'a compressed attachment is not what it was')
}

async function* throughZlib(
  source: AsyncIterable<Uint8Array>,
  codec: ReturnType<typeof createDeflate> | ReturnType<typeof createInflate>,
): AsyncGenerator<Uint8Array, void, void> {
  const feeding = pipeline(Readable.from(source), codec)
  feeding.catch(() => undefined) // it shows as an error of the codec, which is read below
  yield* codec
  await feeding
}
