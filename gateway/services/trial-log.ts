/**
 * The export log of a trial: what went to the sponsor when, as a table for the sponsor and for the site's file, and as a
 * page for each subject. Only the site's has people and patients in it, and who reads that is in the audit log.
 */
import { sql } from 'kysely'
import { authorize } from '../../policy/authorize.ts'
import type { Db, Tx } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import { findSubjects, type LinkedSubject, loadTrial, recordTrial, type Trial } from './trial-rows.ts'

/** Whose table it is. */
export type LogReader = 'sponsor' | 'site'

export interface TrialLog {
  /** CSV (RFC 4180), one line for each event. @throws GatewayError NOT_FOUND */
  table(principal: Principal, trial: string, reader: LogReader): Promise<string>
  /** The site's page of one subject, to be printed: HTML without anything from elsewhere. @throws GatewayError NOT_FOUND */
  page(principal: Principal, trial: string, code: string): Promise<string>
}

interface LogRow {
  readonly at: Date
  readonly event: string
  readonly subject: number | null
  readonly code: string | null
  readonly visit: string | null
  readonly upload: string | null
  readonly transfers: string | null
  readonly state: string | null
  readonly images: number | null
  readonly person: string
  readonly detail: unknown
}

/** Opens the service. */
export function openTrialLog({ db }: { db: Db }): TrialLog {
  const read = async <T>(
    principal: Principal,
    name: string,
    reader: LogReader,
    work: (tx: Tx, trial: Trial) => Promise<T>,
  ): Promise<T> => {
    authorize(principal, reader === 'site' ? 'trial.identify' : 'trial.read')
    return await db.inTransaction(async tx => {
      const trial = await loadTrial(tx, name)
      const made = await work(tx, trial)
      await recordTrial(tx, principal, { trial: name, event: 'file-exported', detail: { reader } })
      return made
    })
  }

  return {
    table: (principal, name, reader) =>
      read(principal, name, reader, async (tx, { document }) => {
        const subjects = new Map((await findSubjects(tx, name)).map(subject => [subject.id, subject]))
        const ofSite = reader === 'site' ? ['patient', 'person', 'detail'] : []
        const lines = (await findEvents(tx, name, reader, undefined)).map(row => [
          ...[row.at.toISOString(), document.protocol, document.site, row.code ?? '', row.visit ?? '', row.event],
          ...[row.upload ?? '', row.transfers ?? '', row.state ?? '', row.images ?? ''],
          ...(reader === 'site'
            ? [idOf(row.subject === null ? undefined : subjects.get(row.subject)), row.person, detailOf(row)]
            : []),
        ])
        const head = ['at', 'protocol', 'site', 'subject', 'visit', 'event', 'upload', 'transfers', 'state', 'images']
        return [[...head, ...ofSite], ...lines].map(cells => `${cells.map(csvCell).join(',')}\r\n`).join('')
      }),
    page: (principal, name, code) =>
      read(principal, name, 'site', async (tx, trial) => {
        const subject = (await findSubjects(tx, name)).find(each => each.code === code)
        if (!subject) throw new GatewayError('NOT_FOUND', `subject ${code} is not on the list of the trial ${name}`)
        const rows = await findEvents(tx, name, 'site', subject.id)
        return pageOf(trial, subject, rows)
      }),
  }
}

/** What the sponsor is told: what was sent to them, and what they asked. */
const sponsorEvents = ['upload-sent', 'upload-queried', 'query-answered', 'upload-replaced', 'subject-withdrawn']

async function findEvents(tx: Tx, trial: string, reader: LogReader, subject: number | undefined): Promise<LogRow[]> {
  const { rows } = await sql<LogRow>`
    select e.at, e.event, e.subject, s.code, u.visit, e.upload, x.transfers, x.state, x.images, e.person, e.detail
      from trial_events e
      left join trial_subjects s on s.id = e.subject
      left join trial_uploads u on u.id = e.upload
      left join lateral (
        select string_agg(t.id::text, ' ' order by c.ordinal) as transfers,
               string_agg(distinct t.state, ' ') as state, sum(t.object_count)::integer as images
          from trial_upload_studies c join transfers t on t.id = c.transfer where c.upload = e.upload) x on true
     where e.trial = ${trial} and (${subject ?? null}::bigint is null or e.subject = ${subject ?? null}::bigint)
       and (${reader === 'site'} or e.event = any(${sponsorEvents}::text[]))
     order by e.id limit 1000000`.execute(tx)
  return rows
}

const detailOf = ({ detail }: LogRow): string => (JSON.stringify(detail) === '{}' ? '' : JSON.stringify(detail))
const idOf = (subject: LinkedSubject | undefined): string => {
  if (!subject?.patient) return ''
  const { issuer, patientId } = subject.patient
  return issuer === '' ? patientId : `${patientId} (${issuer})`
}

/** Quoted where it must be; what a spreadsheet would take for a formula is text. */
function csvCell(value: string | number): string {
  const text = String(value)
  const safe = typeof value === 'string' && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
}

const escapes: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}
const html = (text: string): string => text.replace(/[&<>"']/g, character => escapes[character] ?? '')

function pageOf({ name, document }: Trial, subject: LinkedSubject, rows: readonly LogRow[]): string {
  const facts: readonly (readonly [string, string])[] = [
    ['Trial', `${name} ${document.title}`],
    ['Sponsor, protocol, site', `${document.sponsor}, ${document.protocol}, ${document.site}`],
    ['Subject', `${subject.code} (${subject.state})`],
    ['Patient ID', idOf(subject)],
    ['Day 0', subject.dayZero ?? ''],
    ...document.contacts.map(
      ({ role, name: who, email = '', phone = '' }) => [role, [who, email, phone].filter(Boolean).join(', ')] as const,
    ),
  ]
  const cells = (row: LogRow): string[] => [
    row.at.toISOString().slice(0, 19).replace('T', ' '),
    ...[row.event.replaceAll('-', ' '), row.visit ?? '', row.person, row.state ?? '', String(row.images ?? '')],
    detailOf(row),
  ]
  const head = ['When (UTC)', 'What', 'Visit', 'Who', 'Transfers', 'Images', 'Detail']
  const line = (tag: 'td' | 'th', each: readonly string[]): string =>
    `<tr>${each.map(cell => `<${tag}>${html(cell)}</${tag}>`).join('')}</tr>`
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${html(`${name}: subject ${subject.code}`)}</title>
<style>body{font:11pt sans-serif;margin:2em}table{border-collapse:collapse;width:100%;margin-top:1em}
td,th{border:1px solid #999;padding:.3em .5em;text-align:left;vertical-align:top}th{background:#eee}
tr{break-inside:avoid}@media print{body{margin:0}}</style></head>
<body><h1>Export log: subject ${html(subject.code)}</h1>
<table>${facts.map(([key, value]) => `<tr><th>${html(key)}</th><td>${html(value)}</td></tr>`).join('\n')}</table>
<table>${line('th', head)}
${rows.map(row => line('td', cells(row))).join('\n')}</table>
<p>Printed ${new Date().toISOString().slice(0, 10)}. Signature: ____________________</p></body></html>
`
}
