/**
 * The pseudonym registry: who got which pseudonym in which project. Rows are found by keyed digests and sealed, with a
 * key that is a file outside of the database; so the database, and its backups, tell nobody. What a subject got once
 * it keeps: the same subject has the same pseudonym in one project, whatever made it.
 */

import { createHmac, type Hmac } from 'node:crypto'
import { sql } from 'kysely'
import { lockBytes, unlockBytes } from '../../peers/sodium.ts'
import { authorize } from '../../policy/authorize.ts'
import type { Profile } from '../../policy/deid/profile.ts'
import { Project, type Subject } from '../../policy/deid/project.ts'
import { eventTypes, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db, Tx } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { DeidProject, ProjectKeys } from './project-keys.ts'
import { ensureSecretFile, readSecretFile } from './secret-file.ts'

/** One line of the table. */
export interface PseudonymEntry {
  readonly subject: Subject
  readonly pseudonym: string
}

/** A project as it is listed; nothing of its subjects. */
export interface ProjectInfo {
  readonly id: number
  readonly recipient: string
  readonly name: string
  readonly subjects: number
  readonly createdAt: Date
}

export interface Pseudonyms {
  /**
   * The subject's pseudonym in the project: the one that it has, else a new one as the profile says. Empty when the
   * profile wants none; undefined when it has to be imported and was not.
   *
   * @throws GatewayError PROJECT_KEY when the registry's key is gone or another one
   */
  resolve(project: Pick<DeidProject, 'id' | 'key'>, profile: Profile, subject: Subject): Promise<string | undefined>
  projects(principal: Principal): Promise<readonly ProjectInfo[]>
  /** Makes a project before its first transfer; one that is there already is given. @throws as `ProjectKeys.ensure` */
  create(principal: Principal, recipient: string, name: string): Promise<Pick<ProjectInfo, 'id' | 'recipient' | 'name'>>
  /**
   * Takes a table over, whole or not at all; lines that are there already count as taken.
   *
   * @throws GatewayError STATE_CONFLICT when a subject has another pseudonym, or a pseudonym another subject; NOT_FOUND
   */
  import(principal: Principal, project: number, entries: readonly PseudonymEntry[]): Promise<{ added: number }>
  /**
   * Gives a subject this pseudonym, in a transaction of the caller, who has authorized it; harmless when it has it.
   *
   * @throws GatewayError STATE_CONFLICT when the subject has another one, or another subject has it
   */
  assign(tx: Tx, project: number, entry: PseudonymEntry): Promise<void>
  /** Whose pseudonym it is; for an approved request only (`reidentification`). @throws GatewayError PROJECT_KEY */
  find(tx: Tx, project: number, pseudonym: string): Promise<PseudonymEntry | undefined>
  /** The whole table of a project; for an approved request only. @throws GatewayError PROJECT_KEY */
  table(tx: Tx, project: number): Promise<readonly PseudonymEntry[]>
}

const keyCheckName = 'pseudonym-key-check'
const maxNumberTries = 1_000

/** The registry; its key is at `keyPath`, made with the first pseudonym. */
export function openPseudonyms(options: {
  db: Db
  keyPath: string
  projects: Pick<ProjectKeys, 'ensure'>
}): Pseudonyms {
  const { db, keyPath } = options
  let opened: Promise<RegistryKeys> | undefined

  const keys = (): Promise<RegistryKeys> => {
    opened ??= openKeys(db, keyPath)
    opened.catch(() => {
      opened = undefined
    })
    return opened
  }

  const read = (box: Buffer, { box: key }: RegistryKeys): PseudonymEntry => {
    const bytes = unlockBytes(box, key)
    const entry: unknown = bytes && JSON.parse(Buffer.from(bytes).toString('utf8'))
    if (!isEntry(entry)) throw new GatewayError('PROJECT_KEY', 'an entry of the pseudonym registry cannot be opened')
    const [issuer, id, pseudonym] = entry
    return { subject: { issuer, id }, pseudonym }
  }

  const insert = async (
    tx: Tx,
    project: number,
    { subject, pseudonym }: PseudonymEntry,
    origin: 'keyed' | 'sequential' | 'imported',
    { digest, box }: RegistryKeys,
  ): Promise<boolean> => {
    const { issuer, id } = subject
    const sealed = lockBytes(Buffer.from(JSON.stringify([issuer, id, pseudonym])), box)
    const inserted = await tx
      .insertInto('pseudonyms')
      .values({
        project,
        subject: digest('subject', project, subjectText(subject)),
        pseudonym: digest('pseudonym', project, pseudonym),
        sealed: Buffer.from(sealed),
        origin,
      })
      .onConflict(conflict => conflict.doNothing())
      .returning('id')
      .executeTakeFirst()
    return inserted !== undefined
  }

  const known = async (
    tx: Tx,
    project: number,
    subject: Subject,
    registry: RegistryKeys,
  ): Promise<string | undefined> => {
    const row = await tx
      .selectFrom('pseudonyms')
      .select('sealed')
      .where('project', '=', project)
      .where('subject', '=', registry.digest('subject', project, subjectText(subject)))
      .executeTakeFirst()
    return row && read(row.sealed, registry).pseudonym
  }

  const number = async (tx: Tx, project: number, prefix: string): Promise<string> => {
    const row = await tx
      .updateTable('deid_projects')
      .set({ next_number: sql`next_number + 1` })
      .where('id', '=', project)
      .returning('next_number')
      .executeTakeFirstOrThrow()
    return `${prefix}${String(row.next_number - 1).padStart(4, '0')}`
  }

  return {
    async resolve({ id: project, key }, profile, subject) {
      const { kind, prefix = 'P-' } = profile.pseudonym
      if (kind === 'none') return ''
      const registry = await keys()
      return await db.inTransaction(async tx => {
        await lockProject(tx, project)
        const found = await known(tx, project, subject, registry)
        if (found !== undefined || kind === 'lookup') return found
        if (kind === 'keyed') {
          const pseudonym = new Project(key, profile).pseudonym(subject) ?? ''
          if (await insert(tx, project, { subject, pseudonym }, 'keyed', registry)) return pseudonym
          throw new GatewayError('STATE_CONFLICT', 'another subject has this pseudonym')
        }
        for (let tries = 0; tries < maxNumberTries; tries += 1) {
          const pseudonym = await number(tx, project, prefix)
          // Numbers that an imported table has taken are left out.
          if (await insert(tx, project, { subject, pseudonym }, 'sequential', registry)) return pseudonym
        }
        throw new GatewayError('STATE_CONFLICT', 'no free pseudonym was found')
      })
    },
    async projects(principal) {
      authorize(principal, 'pseudonym.read')
      return await db.kysely
        .selectFrom('deid_projects')
        .select(eb => [
          'id',
          'recipient',
          'name',
          'created_at as createdAt',
          eb
            .selectFrom('pseudonyms')
            .select(inner => inner.fn.countAll<number>().as('count'))
            .whereRef('pseudonyms.project', '=', 'deid_projects.id')
            .$asScalar()
            .$notNull()
            .as('subjects'),
        ])
        .orderBy('id')
        .execute()
    },
    async create(principal, recipient, name) {
      authorize(principal, 'pseudonym.write')
      const { id } = await options.projects.ensure(recipient, name)
      await db.inTransaction(tx =>
        appendAudit(
          tx,
          securityAlert({
            type: eventTypes.objectSecurityAttributesChanged,
            participants: [{ userId: principal.id, requestor: true }],
            objects: [{ kind: 'setting', name: `pseudonyms/${id}` }],
            reason: 'project-ensured',
          }),
        ),
      )
      return { id, recipient, name }
    },
    async import(principal, project, entries) {
      authorize(principal, 'pseudonym.write')
      const registry = await keys()
      return await db.inTransaction(async tx => {
        await lockProject(tx, project)
        let added = 0
        for (const [index, entry] of entries.entries()) {
          const before = await known(tx, project, entry.subject, registry)
          if (before === entry.pseudonym) continue
          if (before !== undefined || !(await insert(tx, project, entry, 'imported', registry)))
            throw new GatewayError(
              'STATE_CONFLICT',
              `entry ${index + 1}: the patient or the pseudonym is taken already`,
            )
          added += 1
        }
        await appendAudit(
          tx,
          securityAlert({
            type: eventTypes.objectSecurityAttributesChanged,
            participants: [{ userId: principal.id, requestor: true }],
            objects: [{ kind: 'setting', name: `pseudonyms/${project}` }],
            reason: 'pseudonyms-imported',
            detail: { added },
          }),
        )
        return { added }
      })
    },
    async assign(tx, project, entry) {
      const registry = await keys()
      await lockProject(tx, project)
      const before = await known(tx, project, entry.subject, registry)
      if (before === entry.pseudonym) return
      if (before !== undefined || !(await insert(tx, project, entry, 'imported', registry)))
        throw new GatewayError('STATE_CONFLICT', 'the patient or the pseudonym is taken already in this project')
    },
    async find(tx, project, pseudonym) {
      const registry = await keys()
      const row = await tx
        .selectFrom('pseudonyms')
        .select('sealed')
        .where('project', '=', project)
        .where('pseudonym', '=', registry.digest('pseudonym', project, pseudonym))
        .executeTakeFirst()
      return row && read(row.sealed, registry)
    },
    async table(tx, project) {
      const registry = await keys()
      const rows = await tx
        .selectFrom('pseudonyms')
        .select('sealed')
        .where('project', '=', project)
        .orderBy('id')
        .execute()
      return rows.map(row => read(row.sealed, registry))
    },
  }
}

interface RegistryKeys {
  /** Of a subject or pseudonym, 32 bytes: nobody without the key can try out names. */
  readonly digest: (what: 'subject' | 'pseudonym', project: number, text: string) => Buffer
  /** Of the boxes, 32 bytes. */
  readonly box: Uint8Array
}

/** A key that is not the one of the rows would give everybody a second pseudonym. */
async function openKeys(db: Db, path: string): Promise<RegistryKeys> {
  const setting = (): Promise<{ value: unknown } | undefined> =>
    db.kysely.selectFrom('settings').select('value').where('name', '=', keyCheckName).executeTakeFirst()
  const before = await setting()
  const format = 'hanse-pseudonym-key-1'
  const secret = before ? await readSecretFile(path, format) : await ensureSecretFile(path, format)
  if (secret === undefined)
    throw new GatewayError('PROJECT_KEY', 'the key of the pseudonym registry is missing: restore it from your copy')
  const derive = (purpose: string): Hmac => createHmac('sha256', secret).update(purpose)
  const check = derive('hanse pseudonym registry: check').digest('hex')
  await db.kysely
    .insertInto('settings')
    .values({ name: keyCheckName, value: JSON.stringify(check) })
    .onConflict(conflict => conflict.doNothing())
    .execute()
  if ((await setting())?.value !== check)
    throw new GatewayError('PROJECT_KEY', 'the key of the pseudonym registry is not the one that was used before')
  const digestKey = derive('hanse pseudonym registry: digests').digest()
  return {
    digest: (what, project, text) =>
      createHmac('sha256', digestKey)
        .update(JSON.stringify([what, project, text]))
        .digest(),
    box: derive('hanse pseudonym registry: boxes').digest(),
  }
}

/** One after the other, so that two studies of a new subject get one pseudonym. @throws GatewayError NOT_FOUND */
async function lockProject(tx: Tx, project: number): Promise<void> {
  const row = await tx.selectFrom('deid_projects').select('id').where('id', '=', project).forUpdate().executeTakeFirst()
  if (!row) throw new GatewayError('NOT_FOUND', 'no such project')
}

function subjectText({ issuer, id }: Subject): string {
  return JSON.stringify([issuer, id])
}

function isEntry(value: unknown): value is readonly [string, string, string] {
  return Array.isArray(value) && value.length === 3 && value.every(part => typeof part === 'string')
}
