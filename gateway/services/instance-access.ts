/**
 * Finds instances for those who want to read them and records who reads which study, in one statement and one commit
 * for all that are asked for at the same time: a commit of its own for each costs more than sending a CT slice.
 */
import { sql } from 'kysely'
import { type AuditEvent, instancesAccessed, type Participant, requestorOf } from '../audit/event.ts'
import { auditInsertion } from '../audit/log.ts'
import type { Db } from '../db/db.ts'
import { GatewayError } from '../errors.ts'
import type { Principal } from '../principal.ts'
import { forgetOldest } from './forget-oldest.ts'
import { type ReadingSessions, sessionDetail } from './reading-sessions.ts'

/** An instance that may be read: its access is committed. */
export interface AccessedInstance {
  readonly sopInstanceUid: string
  readonly fileSha256: Buffer
  readonly sizeBytes: number
}

interface Row extends AccessedInstance {
  readonly orthancId: string
  readonly series: number
  readonly study: number
  readonly studyInstanceUid: string
  readonly patientId: string
  readonly issuer: string
}

interface Waiting {
  readonly principal: Principal
  readonly orthancId: string
  readonly found: PromiseWithResolvers<AccessedInstance>
}

/** While one batch is committed, another one reads its rows. */
const batchesAtOnce = 2
const mostOfBatch = 64

/** A series of which a second instance is asked for will be read as a whole: its rows are fetched ahead. */
const aheadOfSeries = 2_000
const mostAsked = 64
const selection = sql`
  select i.orthanc_id as "orthancId", i.sop_instance_uid as "sopInstanceUid", i.file_sha256 as "fileSha256",
         i.size_bytes as "sizeBytes", c.id::float8 as series, s.id::float8 as study,
         s.study_instance_uid as "studyInstanceUid", p.patient_id as "patientId", p.issuer
    from instances i
    join series c on c.id = i.series
    join studies s on s.id = c.study
    join patients p on p.id = s.patient`

/** Access to single instances. */
export class InstanceAccess {
  readonly #db: Db
  readonly #sessions: ReadingSessions
  readonly #waiting: Waiting[] = []
  readonly #known: KnownRows
  readonly #asked = new Set<number>()
  #running = 0

  constructor(db: Db, sessions: ReadingSessions) {
    this.#db = db
    this.#sessions = sessions
    this.#known = new KnownRows(db)
  }

  /** @throws GatewayError NOT_FOUND, DATABASE_UNAVAILABLE */
  async open(principal: Principal, orthancId: string): Promise<AccessedInstance> {
    const known = this.#known.get(orthancId)
    if (known && this.#sessions.covers(requestorOf(principal), known.study)) return known
    const found = Promise.withResolvers<AccessedInstance>()
    this.#waiting.push({ principal, orthancId, found })
    if (this.#running < batchesAtOnce) void this.#run()
    return await found.promise
  }

  async #run(): Promise<void> {
    this.#running++
    try {
      while (this.#waiting.length > 0) {
        const batch = this.#waiting.splice(0, mostOfBatch)
        try {
          await this.#openAll(batch)
        } catch (error) {
          for (const { found } of batch) found.reject(error)
        }
      }
    } finally {
      this.#running--
    }
  }

  async #openAll(batch: readonly Waiting[]): Promise<void> {
    const ids = [...new Set(batch.map(({ orthancId }) => orthancId))]
    const before = this.#db.removals
    const { rows } = await sql<Row>`${selection} where i.orthanc_id = any(${ids}::text[])`.execute(this.#db.kysely)
    this.#known.add(rows, before)
    const byId = new Map(rows.map(row => [row.orthancId, row]))
    const first = batch.flatMap(({ principal, orthancId }) => {
      const row = byId.get(orthancId)
      const reader = requestorOf(principal)
      return row && !this.#sessions.covers(reader, row.study) ? [{ reader, row }] : []
    })
    if (first.length > 0) {
      await auditInsertion(first.map(({ reader, row }) => accessOf(reader, row))).execute(this.#db.kysely)
      for (const { reader, row } of first) this.#sessions.begin(reader, row.study)
    }
    for (const { orthancId, found } of batch) {
      const row = byId.get(orthancId)
      if (row) found.resolve(row)
      else found.reject(new GatewayError('NOT_FOUND', 'no such instance'))
    }
    for (const series of new Set(rows.map(row => row.series))) {
      // What fails here fails again for the next who asks, and is told there.
      if (this.#asked.delete(series)) this.#readAhead(series).catch(() => {})
      else this.#asked.add(series)
    }
    forgetOldest(this.#asked, mostAsked)
  }

  async #readAhead(series: number): Promise<void> {
    const before = this.#db.removals
    const { rows } = await sql<Row>`
      ${selection} where i.series = ${series} order by i.id limit ${aheadOfSeries}
    `.execute(this.#db.kysely)
    this.#known.add(rows, before)
  }
}

const mostKnown = 20_000
const knownForMs = 10_000

/**
 * Rows that were read a moment ago. Whatever takes an instance away makes all of them unknown before it begins
 * (`Db.removals`); the short time is for a commit whose answer was lost.
 */
class KnownRows {
  readonly #db: Pick<Db, 'removals'>
  readonly #rows = new Map<string, { readonly row: Row; readonly until: number }>()
  #version: number | undefined

  constructor(db: Pick<Db, 'removals'>) {
    this.#db = db
  }

  get(orthancId: string): Row | undefined {
    if (this.#version === undefined || this.#version !== this.#db.removals) return undefined
    const known = this.#rows.get(orthancId)
    return known && known.until > performance.now() ? known.row : undefined
  }

  /** @param before  `removals` when their reading began */
  add(rows: readonly Row[], before: number | undefined): void {
    if (before === undefined || before !== this.#db.removals) return
    if (this.#version !== before || this.#rows.size + rows.length > mostKnown) this.#rows.clear()
    this.#version = before
    const until = performance.now() + knownForMs
    for (const row of rows) this.#rows.set(row.orthancId, { row, until })
  }
}

function accessOf(reader: Participant, row: Row): AuditEvent {
  const { sopInstanceUid, fileSha256, studyInstanceUid, patientId, issuer } = row
  return instancesAccessed({
    action: 'R',
    participants: [reader],
    objects: [
      { kind: 'patient', patientId, issuer },
      { kind: 'study', studyInstanceUid, instanceCount: 1 },
      { kind: 'instance', sopInstanceUid, fileSha256: fileSha256.toString('hex') },
    ],
    detail: sessionDetail,
  })
}
