/**
 * Cuts a byte stream into PDUs. Control PDUs are gathered whole (they are small and bounded); the
 * values of P-DATA-TF are passed on piece by piece as views of the socket's chunks, never copied.
 *
 * dcmjs-dimse's accumulator joins all that came so far on every chunk, takes any length and copies
 * each value three times; this is why the data path is ours.
 */
import { abortReason, pduType, type Violation } from './pdu.ts'

/** Takes what the reader finds. Calls come in stream order, inside `feed`. */
export interface PduSink {
  /** May this PDU come now, and with this length? Asked as soon as its header is known. */
  admit(type: number, length: number): Violation | undefined
  /** A whole control PDU; `body`, a copy, is what follows the six header bytes. */
  control(type: number, body: Buffer): void
  /**
   * A piece of a presentation data value, a view of the chunk; `endOfValue` with its last piece,
   * which may be empty.
   */
  value(contextId: number, control: number, piece: Buffer, endOfValue: boolean): void
  /** Nothing that follows can be understood; the reader takes no more. */
  violation(violation: Violation): void
}

const headerBytes = 6

/** The state between two chunks of one connection. */
export class PduReader {
  readonly #sink: PduSink
  #state: 'header' | 'control' | 'valueHeader' | 'value' | 'broken' = 'header'
  readonly #header = Buffer.allocUnsafe(headerBytes)
  #headerFilled = 0
  #pdusRead = 0
  #type = 0
  /** Bytes of the current PDU that have not come yet. */
  #pduLeft = 0
  #valueLeft = 0
  #contextId = 0
  #control = 0
  /** The body of a control PDU; memory that is not filled yet costs nothing. */
  #body = Buffer.alloc(0)

  constructor(sink: PduSink) {
    this.#sink = sink
  }

  /** How many PDUs have been read to their end. */
  get pdusRead(): number {
    return this.#pdusRead
  }

  /** True from the first byte of a PDU until its last: the time in which a slow peer keeps us waiting. */
  get isMidPdu(): boolean {
    return this.#state !== 'broken' && (this.#state !== 'header' || this.#headerFilled > 0)
  }

  /**
   * Reads `chunk` until its end or until `isStopped` says so after a step.
   *
   * @returns how many bytes were taken; the caller hands in the rest later
   */
  feed(chunk: Buffer, isStopped: () => boolean): number {
    let offset = 0
    while (offset < chunk.length && this.#state !== 'broken' && !isStopped()) {
      if (this.#state === 'header' || this.#state === 'valueHeader') offset = this.#readHeader(chunk, offset)
      else if (this.#state === 'control') offset = this.#readControl(chunk, offset)
      else offset = this.#readValue(chunk, offset)
    }
    return this.#state === 'broken' ? chunk.length : offset
  }

  #readHeader(chunk: Buffer, offset: number): number {
    const taken = Math.min(headerBytes - this.#headerFilled, chunk.length - offset)
    chunk.copy(this.#header, this.#headerFilled, offset, offset + taken)
    this.#headerFilled += taken
    if (this.#headerFilled === headerBytes) {
      this.#headerFilled = 0
      if (this.#state === 'header') this.#startPdu()
      else this.#startValue()
    }
    return offset + taken
  }

  #startPdu(): void {
    this.#type = this.#header.readUInt8(0)
    this.#pduLeft = this.#header.readUInt32BE(2)
    const violation = this.#sink.admit(this.#type, this.#pduLeft)
    if (violation) {
      this.#break(violation)
      return
    }
    if (this.#type === pduType.data) {
      if (this.#pduLeft < headerBytes) {
        this.#break(badLength('P-DATA holds no presentation data value'))
        return
      }
      this.#state = 'valueHeader'
      return
    }
    this.#body = Buffer.allocUnsafeSlow(this.#pduLeft)
    this.#state = 'control'
    if (this.#pduLeft === 0) this.#endControl()
  }

  #readControl(chunk: Buffer, offset: number): number {
    const taken = Math.min(this.#pduLeft, chunk.length - offset)
    chunk.copy(this.#body, this.#body.length - this.#pduLeft, offset, offset + taken)
    this.#pduLeft -= taken
    if (this.#pduLeft === 0) this.#endControl()
    return offset + taken
  }

  #endControl(): void {
    const body = this.#body
    this.#body = Buffer.alloc(0)
    this.#state = 'header'
    this.#pdusRead += 1
    this.#sink.control(this.#type, body)
  }

  #startValue(): void {
    const length = this.#header.readUInt32BE(0)
    // Length counts the context id and the message control header (PS3.8 §9.3.5.1).
    if (length < 2 || length + 4 > this.#pduLeft) {
      this.#break(badLength('presentation data value does not fit its PDU'))
      return
    }
    this.#pduLeft -= length + 4
    if (this.#pduLeft > 0 && this.#pduLeft < headerBytes) {
      this.#break(badLength('bytes are left after the last presentation data value'))
      return
    }
    this.#contextId = this.#header.readUInt8(4)
    this.#control = this.#header.readUInt8(5)
    this.#valueLeft = length - 2
    this.#state = 'value'
    if (this.#valueLeft === 0) this.#endPiece(Buffer.alloc(0))
  }

  #readValue(chunk: Buffer, offset: number): number {
    const piece = chunk.subarray(offset, offset + this.#valueLeft)
    this.#valueLeft -= piece.length
    this.#endPiece(piece)
    return offset + piece.length
  }

  #endPiece(piece: Buffer): void {
    const isEnd = this.#valueLeft === 0
    if (isEnd) this.#state = this.#pduLeft === 0 ? 'header' : 'valueHeader'
    if (this.#state === 'header') this.#pdusRead += 1
    this.#sink.value(this.#contextId, this.#control, piece, isEnd)
  }

  #break(violation: Violation): void {
    this.#state = 'broken'
    this.#sink.violation(violation)
  }
}

function badLength(message: string): Violation {
  return { reason: abortReason.invalidParameter, message }
}
