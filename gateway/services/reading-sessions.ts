/**
 * Who is reading which study. The first read of a study by somebody is an audit event; what the same caller reads of
 * that study in the minutes after it belongs to that event, as the study is what DICOM PS3.15 §A.5.3.6 records. A viewer
 * that asks for a thousand frames is one entry of the log, and waits for one commit.
 */
import type { Participant } from '../audit/event.ts'
import { forgetOldest } from './forget-oldest.ts'

/** For how long reads belong to the event of the first one; it says so. */
export const sessionMinutes = 5

/** What the event of a first read says of those that follow. */
export const sessionDetail = { coversMinutes: sessionMinutes }

/** Older ones are forgotten first: their next read is an event again. */
const mostSessions = 10_000

type Reader = Pick<Participant, 'userId' | 'address'>

/** Readings that are on record. */
export class ReadingSessions {
  readonly #until = new Map<string, number>()
  readonly #now: () => number

  constructor(now: () => number = Date.now) {
    this.#now = now
  }

  /** Does a read belong to an event that is committed? @param study  the row of the study */
  covers(reader: Reader, study: number): boolean {
    return (this.#until.get(keyOf(reader, study)) ?? 0) > this.#now()
  }

  /** The event of a first read is committed. */
  begin(reader: Reader, study: number): void {
    const key = keyOf(reader, study)
    this.#until.delete(key)
    this.#until.set(key, this.#now() + sessionMinutes * 60_000)
    forgetOldest(this.#until, mostSessions)
  }
}

const keyOf = ({ userId, address }: Reader, study: number): string => `${study} ${address ?? ''} ${userId}`
