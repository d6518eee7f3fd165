/**
 * Makes a planned transfer ready under its profile: every item through the engine into the outbox. Deterministic, so
 * it goes on after a kill where it was. One instance that the engine holds holds the whole transfer, with the reason.
 */

import { addIdentifiers, noIdentifiers } from '../../policy/deid/identifiers.ts'
import type { Profile } from '../../policy/deid/profile.ts'
import type { Subject } from '../../policy/deid/project.ts'
import { asIs } from '../../policy/document.ts'
import { profileOf } from '../../policy/versions.ts'
import { beginTransferring, eventTypes, securityAlert } from '../audit/event.ts'
import { appendAudit } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Blobs } from '../store/blobs.ts'
import type { Deidentify, Session } from './deidentify.ts'
import { isInState, loadItems, lockState, type OutboundItem, type OutboundRow, writeState } from './outbound-rows.ts'
import type { Outbox } from './outbox.ts'
import { inParallel } from './parallel.ts'
import {
  deleteOutputs,
  findWanted,
  type HeldItem,
  insertHeld,
  insertOutput,
  loadOutputs,
  loadSubject,
} from './prepared-rows.ts'
import { type DeidProject, type ProjectKeys, projectNameOf } from './project-keys.ts'
import type { Pseudonyms } from './pseudonyms.ts'
import { addStep } from './transfer-steps.ts'

/** What preparing needs. */
export interface PreparingParts {
  readonly db: Db
  readonly blobs: Pick<Blobs, 'path' | 'assertRoom'>
  readonly outbox: Outbox
  readonly deidentify: Deidentify
  readonly projects: ProjectKeys
  readonly pseudonyms: Pick<Pseudonyms, 'resolve'>
  readonly log: Log
}

export interface Preparing {
  /**
   * Sees to it that what the transfer's profile demands is ready: nothing for `as-is`. False when the transfer is held,
   * or is not to be sent any more.
   *
   * @throws GatewayError STORAGE_FULL, STORAGE_IO, DATABASE_UNAVAILABLE: try again; POLICY_INVALID, PROJECT_KEY
   */
  prepare(row: OutboundRow, recipient: { readonly siteId: string }, signal: AbortSignal): Promise<boolean>
  /** Removes what was made for transfers that are over. */
  sweep(): Promise<void>
  /** Removes what was made for one transfer, when it is over. */
  cleanUp(id: string): Promise<void>
}

/** Most instances whose reasons are kept one by one. */
const mostReasons = 1_000

export function createPreparing(parts: PreparingParts): Preparing {
  const { db, blobs, outbox, deidentify, projects, pseudonyms } = parts
  const log = parts.log.child({ part: 'deidentify' })

  /** The project stays what it was, whatever profile a person chooses later: pseudonyms and UIDs go on. */
  const projectOf = async (row: OutboundRow, profile: Profile, recipient: string): Promise<DeidProject> => {
    if (row.project !== undefined) return await projects.load(row.project)
    const project = await projects.ensure(recipient, projectNameOf(profile))
    await db.kysely.updateTable('transfers').set({ project: project.id }).where('id', '=', row.id).execute()
    return project
  }

  /** Whose it is and what identifies them, over all instances; or why that cannot be said. */
  const openSession = async (
    row: OutboundRow,
    items: readonly OutboundItem[],
    profile: Profile,
    project: DeidProject,
    signal: AbortSignal,
  ): Promise<{ session: Session; subject: Subject | undefined } | { mixed: string }> => {
    // The nonce changes with each new attempt of a person: other profile, other session.
    const attempt = `${row.id}/${row.nonce.toString('hex')}`
    const bare: Session = { id: `${attempt}/inspect`, profile, key: project.key }
    const identifiers = noIdentifiers()
    const subjects = new Map<string, Subject>()
    await inParallel(items, deidentify.threads * 2, async item => {
      signal.throwIfAborted()
      const found = await deidentify.inspect(bare, blobs.path(item.fileSha256))
      if (found === undefined) return // it is held when its turn comes
      addIdentifiers(identifiers, found.identifiers)
      subjects.set(JSON.stringify([found.subject.issuer, found.subject.id]), found.subject)
    })
    if (subjects.size > 1) return { mixed: `its instances name ${subjects.size} patients` }
    const filed = row.study === undefined ? undefined : await loadSubject(db.kysely, row.study)
    const [own] = subjects.values()
    const subject = filed ?? own
    const pseudonym = subject && (await pseudonyms.resolve(project, profile, subject))
    const isKnown = subject !== undefined && pseudonym !== undefined && pseudonym !== ''
    return {
      subject,
      session: {
        ...bare,
        id: `${attempt}/run`,
        identifiers,
        ...(isKnown && { pseudonyms: [[JSON.stringify([subject.issuer, subject.id]), pseudonym]] }),
      },
    }
  }

  const hold = async (
    row: OutboundRow,
    recipient: string,
    held: readonly HeldItem[],
    message: string,
  ): Promise<void> => {
    await db.inTransaction(async tx => {
      const state = await lockState(tx, row.id)
      if (state !== 'planned') return
      const [first] = held
      await writeState(tx, row.id, 'held', { code: 'DEIDENTIFICATION_HELD', message })
      await insertHeld(tx, row.id, held.slice(0, mostReasons))
      await deleteOutputs(tx, row.id)
      await addStep(tx, row.id, 'held', {
        code: 'DEIDENTIFICATION_HELD',
        reason: first?.held.code ?? '',
        instances: held.length,
      })
      const isAlert = held.some(item => item.held.isAlert)
      await appendAudit(
        tx,
        securityAlert({
          type: eventTypes.restrictedFunction,
          outcome: isAlert ? 'serious-failure' : 'minor-failure',
          reason: 'DEIDENTIFICATION_HELD',
          participants: [{ userId: 'gateway', requestor: true }, { userId: recipient }],
          objects: [
            { kind: 'transfer', transferId: row.id },
            { kind: 'study', studyInstanceUid: row.studyInstanceUid, instanceCount: held.length },
          ],
          detail: { code: first?.held.code, instances: held.length, alert: isAlert },
        }),
      )
      log[isAlert ? 'error' : 'warn'](
        { transfer: row.id, code: first?.held.code, instances: held.length },
        `transfer held by de-identification: ${message}`,
      )
    })
    await outbox.remove(row.id)
  }

  const finish = (row: OutboundRow, recipient: string, project: DeidProject): Promise<boolean> =>
    db.inTransaction(async tx => {
      if ((await lockState(tx, row.id)) !== 'planned') return false
      const outputs = await loadOutputs(tx, row.id)
      if (outputs.length !== row.objectCount) throw new GatewayError('UNAVAILABLE', 'outputs of the transfer vanished')
      const bytes = outputs.reduce((sum, output) => sum + output.sizeBytes, 0)
      await tx
        .updateTable('transfers')
        .set({ state: 'prepared', bytes_total: bytes })
        .where('id', '=', row.id)
        .execute()
      await insertHeld(tx, row.id, [])
      await addStep(tx, row.id, 'prepared', {
        objects: outputs.length,
        bytes,
        profile: row.profile,
        project: project.id,
      })
      await appendAudit(
        tx,
        beginTransferring({
          source: { userId: 'gateway' },
          destination: { userId: recipient },
          reason: `profile:${row.profile}`,
          objects: [
            { kind: 'transfer', transferId: row.id },
            { kind: 'study', studyInstanceUid: row.studyInstanceUid, instanceCount: outputs.length },
          ],
          detail: { deidentified: outputs.length, project: project.id },
        }),
      )
      return true
    })

  const make = async (row: OutboundRow, profile: Profile, recipient: string, signal: AbortSignal): Promise<boolean> => {
    const project = await projectOf(row, profile, recipient)
    const items = await loadItems(db.kysely, row.id)
    const done = new Set((await loadOutputs(db.kysely, row.id)).map(output => output.ordinal))
    const left = items.map((item, ordinal) => ({ item, ordinal })).filter(({ ordinal }) => !done.has(ordinal))
    if (left.length === 0) return await finish(row, recipient, project)
    const opened = await openSession(row, items, profile, project, signal)
    if ('mixed' in opened) {
      const [first] = items
      const held = {
        kind: 'held',
        code: 'subjects',
        reason: opened.mixed,
        evidence: [patientId],
        isAlert: true,
      } as const
      await hold(row, recipient, first ? [{ ...first, held }] : [], opened.mixed)
      return false
    }
    const { session, subject } = opened
    await blobs.assertRoom(left.reduce((sum, { item }) => sum + item.sizeBytes, 0))
    await outbox.create(row.id)
    const held: HeldItem[] = []
    let isWanted = true
    await inParallel(left, deidentify.threads * 2, async ({ item, ordinal }) => {
      signal.throwIfAborted()
      if (!isWanted) return
      const outcome = await deidentify.run(session, {
        sourcePath: blobs.path(item.fileSha256),
        expectedSha256: item.fileSha256.toString('hex'),
        targetPath: outbox.path(row.id, ordinal),
        isDurable: true,
        ...(subject !== undefined && { subject }),
      })
      if (outcome.kind === 'held') {
        held.push({ ...item, held: outcome })
        return
      }
      const { certificate, transferSyntaxUid } = outcome
      if (certificate.studyInstanceUid === '') {
        const reason = 'the instance belongs to no study'
        held.push({
          ...item,
          held: { kind: 'held', code: 'not-an-instance', reason, evidence: [studyUid], isAlert: false },
        })
        return
      }
      await outbox.sync(row.id)
      await insertOutput(db.kysely, row.id, ordinal, transferSyntaxUid, certificate)
      if (ordinal % 50 === 49) isWanted = await isInState(db.kysely, row.id, ['planned'])
    })
    if (held.length === 0) return isWanted && (await finish(row, recipient, project))
    const [first] = held.toSorted((a, b) => Number(b.held.isAlert) - Number(a.held.isAlert))
    const count = held.length === items.length ? `all ${held.length}` : `${held.length} of ${items.length}`
    await hold(row, recipient, held, `${count} instances: ${first?.held.reason ?? ''}`)
    return false
  }

  const cleanUp = async (id: string): Promise<void> => {
    if (!(await findWanted(db.kysely, [id])).has(id)) await outbox.remove(id)
  }

  return {
    async prepare(row, recipient, signal) {
      if (row.profile === asIs || row.state !== 'planned') return true
      const profile = await profileOf(db.kysely, row.policy.version, row.profile)
      if (profile === undefined) return true
      return await make(row, profile, recipient.siteId, signal)
    },
    async sweep() {
      const there = await outbox.list()
      const wanted = await findWanted(db.kysely, there)
      for (const id of there) if (!wanted.has(id)) await outbox.remove(id)
    },
    cleanUp,
  }
}

const patientId = { attribute: 'PatientID', rule: 'one transfer is of one patient' } as const
const studyUid = { attribute: 'StudyInstanceUID', rule: 'an instance names its study' } as const
