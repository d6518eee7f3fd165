/**
 * Uploads of a trial: chosen, checked against the protocol, looked at as it would leave, approved, sent, followed. What
 * stops an upload is said in sentences; what only deviates goes with the reason of who approves it. An upload and its
 * transfers change in one transaction.
 */
import { randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import { checkProtocol, type Finding } from '../../policy/protocol-check.ts'
import { loadActivePolicy, profileOf } from '../../policy/versions.ts'
import type { Db, Tx } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import type { AttributeDiff, AttributeDiffs } from './attribute-diff.ts'
import { findConsentGap } from './consent-transfers.ts'
import { recipientOf } from './endpoint-package.ts'
import { type ProjectKeys, projectNameOf } from './project-keys.ts'
import type { Pseudonyms } from './pseudonyms.ts'
import type { Routing } from './routing.ts'
import { type Chosen, loadChosen } from './trial-chosen.ts'
import {
  assertDelegated,
  type LinkedSubject,
  loadTrial,
  lockSubject,
  recordTrial,
  type Trial,
  type TrialEvent,
  type TrialTask,
  visitOf,
} from './trial-rows.ts'
import { findUploads, lockUpload, type TrialUpload, type UploadRow } from './trial-upload-rows.ts'

/** What is chosen for a visit. */
export interface UploadChoice {
  readonly subject: string
  readonly visit: string
  /** Rows of studies, with Series Instance UIDs where not all of them go. */
  readonly studies: readonly { readonly study: number; readonly series?: readonly string[] | undefined }[]
  /** The upload that this one takes the place of. */
  readonly replaces?: string | undefined
}

export interface TrialUploads {
  /** @throws GatewayError NOT_FOUND for a subject, visit, study, series that is not there; FORBIDDEN by the delegation log */
  choose(principal: Principal, trial: string, choice: UploadChoice): Promise<TrialUpload>
  list(principal: Principal, trial: string): Promise<readonly TrialUpload[]>
  load(principal: Principal, trial: string, id: string): Promise<TrialUpload>
  /** Compares again; what was approved is approved no more when something was found. */
  check(principal: Principal, trial: string, id: string): Promise<TrialUpload>
  /** What de-identification makes of the first instance of each series. @throws GatewayError NOT_FOUND */
  preview(principal: Principal, trial: string, id: string): Promise<readonly AttributeDiff[]>
  /** @throws GatewayError STATE_CONFLICT with what stops it, or asks for a reason */
  approve(principal: Principal, trial: string, id: string, why: string | undefined): Promise<TrialUpload>
  /** @throws GatewayError STATE_CONFLICT when it changed since it was approved, or something stops it now */
  send(principal: Principal, trial: string, id: string): Promise<TrialUpload>
  /** The sponsor asks something. */
  query(principal: Principal, trial: string, id: string, text: string): Promise<TrialUpload>
  answer(principal: Principal, trial: string, id: string, text: string): Promise<TrialUpload>
  /** What was not sent yet is not sent. */
  cancel(principal: Principal, trial: string, id: string): Promise<TrialUpload>
}

/** Series that a preview shows. */
const mostPreviewed = 20

/** Opens the service. */
export function openTrialUploads(options: {
  db: Db
  routing: Pick<Routing, 'sendIn'>
  projects: Pick<ProjectKeys, 'ensure'>
  pseudonyms: Pick<Pseudonyms, 'assign'>
  attributeDiffs: Pick<AttributeDiffs, 'ofTrialStudy'>
}): TrialUploads {
  const { db, routing, projects, pseudonyms, attributeDiffs } = options

  /** Runs in one transaction with the trial open, the task delegated, and the upload locked in one of these states. */
  const change = (
    principal: Principal,
    {
      trial: name,
      id,
      task,
      from,
    }: { trial: string; id: string; task: TrialTask; from: readonly UploadRow['state'][] },
    work: (tx: Tx, trial: Trial, upload: UploadRow) => Promise<{ event: TrialEvent; detail?: Record<string, string> }>,
  ): Promise<TrialUpload> =>
    db.inTransaction(async tx => {
      const trial = await loadTrial(tx, name, 'open')
      await assertDelegated(tx, name, principal, task)
      const upload = await lockUpload(tx, name, id)
      if (!from.includes(upload.state))
        throw new GatewayError('STATE_CONFLICT', `the upload is ${upload.state}: expected ${from.join(' or ')}`)
      const { event, detail = {} } = await work(tx, trial, upload)
      await recordTrial(tx, principal, { trial: name, event, subject: upload.subjectId, upload: id, detail })
      return await need(tx, name, id)
    })

  /** Looks at everything again; what was found stands in the row. */
  const examine = async (tx: Tx, trial: Trial, upload: UploadRow) => {
    const subject = await lockSubject(tx, trial.name, upload.subject)
    const chosen: Chosen[] = []
    for (const { study, series } of upload.studies) chosen.push(await loadChosen(tx, study, series ?? undefined))
    const findings = [
      ...(await checkSubject(tx, trial, subject, chosen)),
      ...(await checkUses(tx, trial, upload, chosen)),
      ...checkProtocol(visitOf(trial, upload.visit), subject.dayZero ?? undefined, chosen),
    ]
    await sql`update trial_uploads set findings = ${JSON.stringify(findings)}, updated_at = now()
               where id = ${upload.id}`.execute(tx)
    return { subject, chosen, findings }
  }

  return {
    async choose(principal, name, { subject: code, visit, studies, replaces }) {
      authorize(principal, 'trial.upload')
      const id = randomUUID()
      return await db.inTransaction(async tx => {
        const trial = await loadTrial(tx, name, 'open')
        await assertDelegated(tx, name, principal, 'upload')
        visitOf(trial, visit)
        const subject = await lockSubject(tx, name, code)
        const before = replaces === undefined ? undefined : await lockUpload(tx, name, replaces)
        if (before && (before.subjectId !== subject.id || before.visit !== visit))
          throw new GatewayError('BAD_REQUEST', 'an upload replaces one of the same subject and visit')
        if (before?.state === 'replaced')
          throw new GatewayError('STATE_CONFLICT', 'the upload that it replaces was replaced already')
        await tx
          .insertInto('trial_uploads')
          .values({
            ...{ id, trial: name, subject: subject.id, visit, state: 'draft', replaces: replaces ?? null },
            created_by: principal.id,
          })
          .execute()
        for (const [ordinal, { study, series }] of studies.entries()) {
          const { studyInstanceUid } = await loadChosen(tx, study, series)
          const values = { upload: id, ordinal, study, study_instance_uid: studyInstanceUid }
          await tx
            .insertInto('trial_upload_studies')
            .values({ ...values, series: series === undefined ? null : JSON.stringify(series) })
            .execute()
        }
        await examine(tx, trial, await lockUpload(tx, name, id))
        await recordTrial(tx, principal, {
          ...{ trial: name, event: 'upload-chosen', subject: subject.id, upload: id },
          detail: { visit },
        })
        return await need(tx, name, id)
      })
    },
    async list(principal, trial) {
      authorize(principal, 'trial.read')
      await loadTrial(db.kysely, trial)
      return await findUploads(db.kysely, trial)
    },
    async load(principal, trial, id) {
      authorize(principal, 'trial.read')
      return await need(db.kysely, trial, id)
    },
    async check(principal, trial, id) {
      authorize(principal, 'trial.upload')
      const at = { trial, id, task: 'upload', from: ['draft', 'approved'] } as const
      return await change(principal, at, async (tx, found, upload) => {
        const { findings } = await examine(tx, found, upload)
        if (upload.state === 'approved' && findings.length > 0) await setState(tx, id, 'draft')
        return { event: 'upload-checked' }
      })
    },
    async preview(principal, trial, id) {
      authorize(principal, 'trial.upload')
      const { profile, chosen } = await db.inTransaction(async tx => {
        const { document } = await loadTrial(tx, trial)
        const { studies } = await lockUpload(tx, trial, id)
        const found: Chosen[] = []
        for (const { study, series } of studies) found.push(await loadChosen(tx, study, series ?? undefined))
        return { profile: document.profile, chosen: found }
      })
      const looks = chosen.flatMap(({ study, firstOfSeries }) => firstOfSeries.map(uid => ({ study, uid })))
      const diffs: AttributeDiff[] = []
      for (const { study, uid } of looks.slice(0, mostPreviewed))
        diffs.push(await attributeDiffs.ofTrialStudy(principal, study, { profile, sopInstanceUid: uid }))
      return diffs
    },
    async approve(principal, trial, id, why) {
      authorize(principal, 'trial.approve')
      const at = { trial, id, task: 'approve', from: ['draft'] } as const
      return await change(principal, at, async (tx, found, upload) => {
        if (found.document.twoPeople && upload.createdBy === principal.id)
          throw new GatewayError('FORBIDDEN', 'the trial asks for two people: another one approves what you chose')
        const { chosen, findings } = await examine(tx, found, upload)
        refuse(findings, why)
        for (const { study, sha256 } of chosen)
          await sql`update trial_upload_studies set snapshot_sha256 = ${sha256}
                     where upload = ${id} and study = ${study}`.execute(tx)
        await sql`update trial_uploads set state = 'approved', approved_by = ${principal.id}, approved_at = now(),
                         why = ${why ?? null}, updated_at = now() where id = ${id}`.execute(tx)
        return { event: 'upload-approved', ...(why !== undefined && { detail: { why } }) }
      })
    },
    async send(principal, name, id) {
      authorize(principal, 'trial.approve')
      authorize(principal, 'study.send')
      const project = await projectOf(await loadTrial(db.kysely, name, 'open'))
      const at = { trial: name, id, task: 'approve', from: ['approved'] } as const
      return await change(principal, at, async (tx, trial, upload) => {
        const { subject, chosen, findings } = await examine(tx, trial, upload)
        refuse(findings, upload.why ?? undefined)
        if (!subject.patient) throw new GatewayError('STATE_CONFLICT', 'the subject is not linked with a patient')
        const { issuer, patientId } = subject.patient
        await pseudonyms.assign(tx, project, { subject: { issuer, id: patientId }, pseudonym: subject.code })
        for (const { study, sha256, instances } of chosen) {
          const approved = upload.studies.find(each => each.study === study)?.sha256
          if (!approved?.equals(sha256))
            throw new GatewayError(
              'STATE_CONFLICT',
              'a study has changed since it was approved: check and approve again',
            )
          const transfer = await sendStudy(tx, principal, { trial, subject, visit: upload.visit, study, instances })
          await sql`update trial_upload_studies set transfer = ${transfer}
                     where upload = ${id} and study = ${study}`.execute(tx)
        }
        await setState(tx, id, 'sent')
        if (upload.replaces !== null) await replace(tx, principal, trial.name, upload.replaces)
        return { event: 'upload-sent' }
      })
    },
    async query(principal, trial, id, text) {
      authorize(principal, 'trial.upload')
      return await change(principal, { trial, id, task: 'answer', from: ['sent'] }, async tx => {
        await sql`update trial_uploads set state = 'queried', query = ${text}, updated_at = now()
                   where id = ${id}`.execute(tx)
        return { event: 'upload-queried', detail: { text } }
      })
    },
    async answer(principal, trial, id, text) {
      authorize(principal, 'trial.upload')
      return await change(principal, { trial, id, task: 'answer', from: ['queried'] }, async tx => {
        await setState(tx, id, 'sent')
        return { event: 'query-answered', detail: { text } }
      })
    },
    async cancel(principal, trial, id) {
      authorize(principal, 'trial.upload')
      return await change(principal, { trial, id, task: 'upload', from: ['draft', 'approved'] }, async tx => {
        await setState(tx, id, 'cancelled')
        return { event: 'upload-cancelled' }
      })
    },
  }

  async function projectOf({ document }: Trial): Promise<number> {
    const { endpoint, protocol, profile } = document
    const policy = await loadActivePolicy(db.kysely)
    if (!policy) throw new GatewayError('POLICY_DENIED', 'no policy is active: publish one first')
    const found = await profileOf(db.kysely, policy.version, profile)
    if (!found) throw new GatewayError('POLICY_INVALID', `the policy has no profile ${profile}`)
    return (await projects.ensure(recipientOf(endpoint, { protocol }), projectNameOf(found))).id
  }

  async function sendStudy(
    tx: Tx,
    principal: Principal,
    what: { trial: Trial; subject: LinkedSubject; visit: string; study: number; instances: ReadonlySet<string> },
  ): Promise<string> {
    const { trial, subject, study, instances } = what
    const visit = await deliveryName(tx, trial.name, subject.id, what.visit)
    const { sponsor, protocol, site, endpoint, profile, purpose, consent } = trial.document
    return await routing.sendIn(tx, {
      ...{ study, destination: endpoint, isEndpoint: true, purpose, priority: 'normal', profile, principal },
      names: { sponsor, protocol, site, subject: subject.code, visit },
      only: instances,
      needsConsent: consent,
    })
  }
}

/** Nothing at an endpoint is overwritten: what follows for the same visit is called `WEEK-4.2`, `WEEK-4.3`. */
async function deliveryName(tx: Tx, trial: string, subject: number, visit: string): Promise<string> {
  const { rows } = await sql<{ before: number }>`
    select count(*)::integer as before from trial_uploads u join trial_upload_studies c on c.upload = u.id
     where u.trial = ${trial} and u.subject = ${subject} and u.visit = ${visit} and c.transfer is not null`.execute(tx)
  const before = rows[0]?.before ?? 0
  return before === 0 ? visit : `${visit}.${before + 1}`
}

async function need(db: Parameters<typeof findUploads>[0], trial: string, id: string): Promise<TrialUpload> {
  const [upload] = await findUploads(db, trial, id)
  if (!upload) throw new GatewayError('NOT_FOUND', 'no such upload in this trial')
  return upload
}

async function setState(tx: Tx, id: string, state: UploadRow['state']): Promise<void> {
  await sql`update trial_uploads set state = ${state}, updated_at = now() where id = ${id}`.execute(tx)
}

/** What the sponsor has of it stays there; here it counts no more. */
async function replace(tx: Tx, principal: Principal, trial: string, id: string): Promise<void> {
  const { subjectId } = await lockUpload(tx, trial, id)
  await setState(tx, id, 'replaced')
  await recordTrial(tx, principal, { trial, event: 'upload-replaced', subject: subjectId, upload: id })
}

const sentences = (findings: readonly Finding[]): string => findings.map(({ message }) => message).join(' ')

/** What stops it, and what deviates without a reason. @throws GatewayError STATE_CONFLICT with the sentences */
function refuse(findings: readonly Finding[], why: string | undefined): void {
  const stops = findings.filter(({ severity }) => severity === 'stop')
  if (stops.length > 0) throw new GatewayError('STATE_CONFLICT', sentences(stops))
  if (findings.length > 0 && why === undefined)
    throw new GatewayError('STATE_CONFLICT', `say why it is sent all the same: ${sentences(findings)}`)
}

/** Whether the subject's images these are, and may go. */
async function checkSubject(tx: Tx, trial: Trial, subject: LinkedSubject, chosen: readonly Chosen[]) {
  const { code, state, patient } = subject
  const stop = (of: Finding['code'], message: string): Finding => ({ code: of, severity: 'stop', message })
  if (state === 'withdrawn')
    return [stop('subject-withdrawn', `Subject ${code} has withdrawn: nothing more of them is sent.`)]
  if (!patient)
    return [
      stop('subject-unlinked', `Subject ${code} is not linked with a patient yet: enrol them with a study of theirs.`),
    ]
  if (chosen.some(each => each.patient.patientId !== patient.patientId || each.patient.issuer !== patient.issuer))
    return [stop('other-patient', `A chosen study is of another patient than the one who is subject ${code}.`)]
  const { purpose, endpoint, consent } = trial.document
  const about = { ...patient, purpose, recipient: endpoint, needsConsent: consent, zone: 'outside' } as const
  const gap = await findConsentGap(tx, about)
  if (!gap) return []
  const message =
    gap.code === 'CONSENT_OBJECTED'
      ? `The patient who is subject ${code} objects to it.`
      : `No consent of subject ${code} to "${purpose}" is in force: record it first, then check again.`
  return [stop('consent-missing', message)]
}

/** Whether the study or the visit is in another upload already. */
async function checkUses(tx: Tx, trial: Trial, upload: UploadRow, chosen: readonly Chosen[]): Promise<Finding[]> {
  const uids = chosen.map(({ studyInstanceUid }) => studyInstanceUid)
  const { rows } = await sql<{ subject: string; visit: string; at: string; isStudy: boolean; isVisit: boolean }>`
    select s.code as subject, u.visit, to_char(u.created_at, 'YYYY-MM-DD') as at,
           exists (select from trial_upload_studies c where c.upload = u.id
                      and c.study_instance_uid = any(${uids}::text[])) as "isStudy",
           u.subject = ${upload.subjectId} and u.visit = ${upload.visit} as "isVisit"
      from trial_uploads u join trial_subjects s on s.id = u.subject
     where u.trial = ${trial.name} and u.id <> ${upload.id} and u.state not in ('cancelled', 'replaced')
       and u.id is distinct from ${upload.replaces}::uuid
     order by u.created_at`.execute(tx)
  const visit = rows.find(({ isVisit }) => isVisit)
  const study = rows.find(({ isStudy, isVisit }) => isStudy && !isVisit)
  const found: Finding[] = []
  if (visit) {
    const same = visit.isStudy ? 'with the same study' : 'with another study'
    const message = `Visit ${visit.visit} of subject ${visit.subject} was uploaded on ${visit.at} already, ${same}: cancel that upload, or name it as the one to replace.`
    found.push({ code: 'visit-used', severity: 'stop', message })
  }
  if (study) {
    const message = `A chosen study was uploaded on ${study.at} already, as visit ${study.visit} of subject ${study.subject}.`
    found.push({ code: 'study-used', severity: 'stop', message })
  }
  return found
}
