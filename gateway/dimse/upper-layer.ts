/**
 * One connection under the DICOM upper layer protocol (PS3.8), on dcmjs-dimse's `Scp`.
 *
 * From the library: the association and presentation context objects, the writers of
 * A-ASSOCIATE-RQ/-AC and A-RELEASE, and the `Scp` surface that services are written against.
 * Ours, in place of what `_wrapSocket` installs: framing, PDV routing, deadlines, back-pressure and
 * the end of the connection. The library's own receive path takes any length, re-parses every data
 * set (10 ms CPU for each CT instance, against less than 1 here), never pauses the socket and never
 * destroys it. Owning the whole layer was the alternative; the seam is one method, which
 * `tests/dimse/library.test.ts` watches, so that was not needed.
 *
 * Besides the constructor only `_wrapSocket` is private API. It runs inside the base constructor,
 * before our fields exist, and therefore does nothing.
 */
import type { Socket } from 'node:net'
import dimse from 'dcmjs-dimse'
import { isGatewayError } from '../errors.ts'
import { abortReason, abortSource, encodeAbort, type Violation } from './pdu.ts'
import { PduReader } from './pdu-reader.ts'
import type { ReceiveBuffers } from './receive-buffers.ts'

/** The library's association object, whose fields both sides of the negotiation share. */
export type Association = InstanceType<typeof dimse.association.Association>

/** Why reading is stopped; reading goes on when no reason is left. */
export type Stop = 'answer' | 'memory' | 'responses' | 'unread'

/** Deadlines of a connection, in milliseconds. */
export interface Deadlines {
  /** Longest time from the first byte of a PDU to its last, and between the PDUs of one message. */
  readonly pduMs: number
  /** Longest time from our last word (reject, abort, release) to the end of the connection. */
  readonly graceMs: number
}

/** Largest association PDU that is read; real ones with 128 contexts have some 20 KB. */
export const maxAssociationPduBytes = 1_048_576

/** Framing, deadlines and orderly ends of one connection; subclasses say what the PDUs mean. */
export abstract class UpperLayer extends dimse.Scp {
  /** Set by the library's constructor. */
  declare readonly socket: Socket
  /** The library reads it when it writes association PDUs. */
  declare association: Association | undefined

  readonly #deadlines: Deadlines
  readonly #buffers: ReceiveBuffers | undefined
  readonly #reader: PduReader
  readonly #stops = new Set<Stop>()
  #held: Buffer[] = []
  #isFeeding = false
  #phase: 'open' | 'ending' | 'closed' = 'open'
  #pdusRead = 0
  #pduSince: number | undefined
  #quietSince = performance.now()
  #timer: NodeJS.Timeout | undefined
  #timerAt = Number.POSITIVE_INFINITY

  /** @param buffers  memory that `socket` is read into, where it is not Node's own */
  constructor(socket: Socket, deadlines: Deadlines, buffers?: ReceiveBuffers) {
    // The library logs every PDU, data sets included, to the console unless told not to.
    dimse.log.setLevel('silent', false)
    super(socket)
    this.#deadlines = deadlines
    this.#buffers = buffers
    this.#reader = new PduReader({
      admit: (type, length) => this.admit(type, length),
      control: (type, body) => this.control(type, body),
      value: (contextId, control, piece, endOfValue) => this.value(contextId, control, piece, endOfValue),
      violation: violation => this.abortFor(violation),
    })
    // DCMTK and we ourselves wait for each response: Nagle's algorithm would add 40 ms to each.
    socket.setNoDelay(true)
    socket.setKeepAlive(true, 30_000)
    socket.on('drain', () => this.start('unread'))
    socket.on('error', error => this.onSocketError(error))
    socket.on('close', () => this.#close())
  }

  /**
   * Starts the deadlines anew; the subclass calls it once its own fields are set, and when what it
   * waits for has changed.
   */
  protected watch(): void {
    this.#quietSince = performance.now()
    this.#arm()
  }

  /** Replaces the library's framing and timers; see the module comment. */
  _wrapSocket(): void {}

  /** May this PDU come now, and with this length? */
  protected abstract admit(type: number, length: number): Violation | undefined
  /** A whole control PDU has come. */
  protected abstract control(type: number, body: Buffer): void
  /** A piece of a presentation data value has come. */
  protected abstract value(contextId: number, control: number, piece: Buffer, endOfValue: boolean): void
  /** Until when the peer may be silent, given since when it is; on the clock of `performance.now()`. */
  protected abstract quietUntil(quietSince: number): number
  /** Until when the peer must have done what we wait for, whether reading is stopped or not. */
  protected owedUntil(): number {
    return Number.POSITIVE_INFINITY
  }
  /** The peer took longer than allowed. */
  protected abstract onExpired(): void
  /** The peer broke the protocol; an A-ABORT is on its way. */
  protected abstract onViolation(violation: Violation): void
  /** The connection is gone. Called once. */
  protected abstract onClosed(): void

  /** An error of ours, not of the peer; the connection is being destroyed. */
  protected abstract onFault(error: unknown): void

  /** A network error; the connection closes by itself after it. */
  protected onSocketError(_error: Error): void {}

  /** Takes the next bytes of the stream; they are valid during the call. */
  receive(chunk: Buffer): void {
    if (this.#phase !== 'open') return
    if (this.#stops.size > 0 || this.#held.length > 0) this.#hold(chunk, 'last')
    else this.#feed(chunk)
  }

  /** True until we have said our last word or the connection is gone. */
  get isOpen(): boolean {
    return this.#phase === 'open'
  }

  /** Stops reading: nothing more is parsed, and the kernel's window fills. */
  protected stop(why: Stop): void {
    if (this.#phase !== 'open') return
    if (this.#stops.size === 0) this.socket.pause()
    this.#stops.add(why)
    this.#arm()
  }

  /** Ends a stop; reading goes on when it was the last one. */
  protected start(why: Stop): void {
    if (!this.#stops.delete(why) || this.#stops.size > 0 || this.#phase === 'closed') return
    this.#quietSince = performance.now()
    if (this.#pduSince !== undefined) this.#pduSince = this.#quietSince
    if (this.#isFeeding) return
    while (this.#stops.size === 0) {
      const chunk = this.#held.shift()
      if (!chunk) break
      this.#feed(chunk)
      this.#buffers?.release(chunk)
    }
    if (this.#stops.size === 0) this.socket.resume()
    this.#arm()
  }

  /** Sends `bytes` in one write. A peer that does not read what we send is not read from either. */
  protected send(bytes: Buffer): void {
    if (this.#phase !== 'open' || this.socket.destroyed) return
    if (!this.socket.write(bytes)) this.stop('unread')
  }

  /** Sends A-ABORT as the service provider, PS3.8 §9.3.8, and ends the connection. */
  protected abortFor(violation: Violation): void {
    if (this.#phase !== 'open') return
    this.onViolation(violation)
    this.abortAndEnd(abortSource.provider, violation.reason)
  }

  /** Sends A-ABORT and ends the connection. */
  protected abortAndEnd(source: number, reason: number): void {
    if (this.#phase !== 'open') return
    this.socket.write(encodeAbort(source, reason))
    this.endSoon('close')
  }

  /**
   * Our last word is written: what still comes is thrown away, and after the grace the socket is
   * destroyed, because many peers never close theirs.
   *
   * @param how  `close` ends our side at once, `wait` lets the peer do so (after A-RELEASE-RP)
   */
  protected endSoon(how: 'close' | 'wait'): void {
    if (this.#phase !== 'open') return
    this.#phase = 'ending'
    this.#quietSince = performance.now()
    this.#dropHeld()
    this.#stops.clear()
    if (how === 'close') this.socket.end()
    this.socket.resume()
    this.#arm()
  }

  /** Gives this connection up after an error of ours, so that the others live on. */
  protected fault(error: unknown): void {
    this.onFault(error)
    this.socket.destroy()
  }

  /** Runs a decoder of the peer's bytes; malformed ones end the association. */
  protected decode<T>(read: () => T): T | undefined {
    try {
      return read()
    } catch (error) {
      if (!isGatewayError(error)) throw error
      this.abortFor({ reason: abortReason.invalidParameter, message: error.message })
      return undefined
    }
  }

  #feed(chunk: Buffer): void {
    let taken = 0
    this.#isFeeding = true
    try {
      taken = this.#reader.feed(chunk, () => this.#stops.size > 0 || this.#phase !== 'open')
    } catch (error) {
      this.fault(error)
    }
    this.#isFeeding = false
    if (this.#phase !== 'open' || this.socket.destroyed) return
    if (taken < chunk.length) this.#hold(chunk.subarray(taken), 'first')
    this.#quietSince = performance.now()
    if (!this.#reader.isMidPdu) this.#pduSince = undefined
    else if (this.#pduSince === undefined || this.#reader.pdusRead !== this.#pdusRead) this.#pduSince = this.#quietSince
    this.#pdusRead = this.#reader.pdusRead
    this.#arm()
  }

  #hold(chunk: Buffer, place: 'first' | 'last'): void {
    this.#buffers?.hold(chunk)
    if (place === 'first') this.#held.unshift(chunk)
    else this.#held.push(chunk)
  }

  #dropHeld(): void {
    for (const chunk of this.#held) this.#buffers?.release(chunk)
    this.#held = []
  }

  /** The moment at which the peer has kept us waiting too long. */
  #deadline(): number {
    if (this.#phase === 'ending') return this.#quietSince + this.#deadlines.graceMs
    if (this.#stops.has('unread')) return this.#quietSince + this.#deadlines.pduMs
    const owed = this.owedUntil()
    if (this.#stops.size > 0) return owed
    const quiet = Math.min(this.quietUntil(this.#quietSince), owed)
    return this.#pduSince === undefined ? quiet : Math.min(quiet, this.#pduSince + this.#deadlines.pduMs)
  }

  /** Keeps one timer that fires at or before the deadline: moving a deadline on costs nothing. */
  #arm(): void {
    if (this.#phase === 'closed') return
    const at = this.#deadline()
    if (at >= this.#timerAt || at === Number.POSITIVE_INFINITY) return
    clearTimeout(this.#timer)
    this.#timerAt = at
    this.#timer = setTimeout(() => this.#check(), Math.max(1, at - performance.now()))
  }

  #check(): void {
    this.#timerAt = Number.POSITIVE_INFINITY
    if (this.#phase === 'closed') return
    if (performance.now() < this.#deadline()) {
      this.#arm()
      return
    }
    if (this.#phase === 'ending') this.socket.destroy()
    else this.onExpired()
  }

  #close(): void {
    if (this.#phase === 'closed') return
    this.#phase = 'closed'
    clearTimeout(this.#timer)
    this.#dropHeld()
    this.onClosed()
  }
}
